package testnet

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"
)

// Limits of a mail host.
const (
	maxCommand = 4096     // octets of a command line; RFC 5321, section 4.5.3.1.4, asks for 512
	maxMessage = 32 << 20 // octets, told in SIZE (RFC 1870)
)

// session is one connection to a mail host.
type session struct {
	host  *SMTP
	raw   net.Conn
	conn  net.Conn // raw, or TLS over it
	in    *bufio.Reader
	fault Fault
	tls   *tls.ConnectionState

	greeted bool
	mail    *Message // the transaction under way
}

func newSession(h *SMTP, conn net.Conn, fault Fault) *session {
	return &session{host: h, raw: conn, conn: conn, in: bufio.NewReaderSize(&recorder{h, conn}, maxCommand), fault: fault}
}

// recorder keeps what is read from a connection outside TLS.
type recorder struct {
	host *SMTP
	conn net.Conn
}

func (r *recorder) Read(b []byte) (int, error) {
	n, err := r.conn.Read(b)
	r.host.sawPlaintext(b[:n])
	return n, err
}

// errDone ends a session without a fault.
var errDone = errors.New("done")

func (s *session) serve() {
	if err := s.banner(); err != nil {
		return
	}
	for {
		line, err := s.line()
		if err != nil {
			return
		}
		s.host.sawCommand(line)
		verb, arg, _ := strings.Cut(line, " ")
		if err := s.command(strings.ToUpper(verb), strings.TrimSpace(arg)); err != nil {
			return
		}
	}
}

func (s *session) command(verb, arg string) error {
	switch verb {
	case "EHLO":
		return s.ehlo()
	case "HELO":
		s.greeted, s.mail = true, nil
		return s.reply("250 %s", s.host.config.Name)
	case "STARTTLS":
		return s.starttls()
	case "MAIL":
		return s.mailFrom(arg)
	case "RCPT":
		return s.rcptTo(arg)
	case "DATA":
		return s.data()
	case "RSET":
		s.mail = nil
		return s.reply("250 2.0.0 reset")
	case "NOOP":
		return s.reply("250 2.0.0 ok")
	case "VRFY":
		return s.reply("252 2.1.5 send some mail")
	case "QUIT":
		switch s.fault {
		case HangQuit:
			return s.hang()
		case ResetQuit:
			return s.reset()
		case EndlessQuit:
			return s.endless("221-" + s.host.config.Name + " still closing\r\n")
		}
		return s.last("221 2.0.0 %s closing", s.host.config.Name)
	}
	return s.reply("502 5.5.2 command not recognized")
}

func (s *session) banner() error {
	name := s.host.config.Name
	switch s.fault {
	case HangConnect:
		return s.hang()
	case ResetConnect:
		return s.reset()
	case ResetBanner:
		if err := s.write("220-" + name + " wel"); err != nil {
			return err
		}
		return s.reset()
	case Banner421:
		return s.last("421 4.3.2 %s shutting down", name)
	case Banner450:
		return s.reply("450 4.3.2 %s try later", name)
	case Banner554:
		return s.reply("554 5.3.2 %s no service for you", name)
	case BannerMultiline:
		if err := s.write("220-" + name + " ESMTP\r\n220-no spam\r\n"); err != nil {
			return err
		}
		return s.pregreet()
	case BannerSlow:
		return s.pregreet()
	case BannerGarbage:
		return s.last("HTTP/1.1 400 Bad Request")
	case BannerStars, BannerMasked:
		return s.reply("220 ****************************2******0***")
	case BannerLong:
		return s.reply("220 %s %s", name, strings.Repeat("x", 64<<10))
	case BannerEndless:
		return s.endless("220-" + name + " still greeting\r\n")
	}
	return s.reply("220 %s ESMTP", name)
}

// pregreet waits before the (last line of the) banner and refuses a client that has talked before it, as
// postscreen does.
func (s *session) pregreet() error {
	s.host.pause(s.host.config.Delay)
	s.raw.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err := s.in.Peek(1)
	s.raw.SetReadDeadline(time.Time{})
	if err == nil {
		return s.last("554 5.5.1 you talked before the banner")
	}
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		return err
	}
	return s.reply("220 %s ESMTP", s.host.config.Name)
}

func (s *session) ehlo() error {
	name := s.host.config.Name
	if s.tls == nil {
		switch s.fault {
		case HangEHLO:
			return s.hang()
		case ResetEHLO:
			return s.reset()
		case EHLO421:
			return s.last("421 4.3.2 %s shutting down", name)
		case EHLO451:
			return s.reply("451 4.3.0 %s has a problem", name)
		case EHLO502, BannerStars:
			return s.reply("502 5.5.2 command not recognized")
		case EHLOLong:
			return s.reply("250-%s\r\n250-X%s\r\n250 STARTTLS", name, strings.Repeat("X", 64<<10))
		case EHLOEndless:
			return s.endless("250-STARTTLS\r\n")
		}
	}
	s.greeted, s.mail = true, nil
	lines := []string{name, "PIPELINING", fmt.Sprintf("SIZE %d", maxMessage), "8BITMIME", "DSN", "ENHANCEDSTATUSCODES"}
	if s.fault == EHLOMangled {
		lines = append(lines, "XXXXXXXA")
	} else if s.offersTLS() {
		lines = append(lines, "STARTTLS")
	}
	var text strings.Builder
	for _, l := range lines[:len(lines)-1] {
		text.WriteString("250-" + l + "\r\n")
	}
	return s.write(text.String() + "250 " + lines[len(lines)-1] + "\r\n")
}

// offersTLS reports whether STARTTLS is in the EHLO reply; not over TLS (RFC 3207, section 4.2).
func (s *session) offersTLS() bool {
	return s.host.config.TLS != nil && s.tls == nil && s.fault != NoSTARTTLS && s.fault != EHLOMangled
}

func (s *session) starttls() error {
	if !s.offersTLS() {
		return s.reply("502 5.5.1 no STARTTLS here")
	}
	config := s.host.config.TLS
	switch s.fault {
	case STARTTLS421:
		return s.last("421 4.3.2 shutting down")
	case STARTTLS454:
		return s.reply("454 4.7.0 TLS not available due to temporary reason")
	case STARTTLS502:
		return s.reply("502 5.5.1 command not recognized")
	case ResetSTARTTLS:
		return s.reset()
	case HangSTARTTLS:
		return s.hang()
	case EndlessSTARTTLS:
		return s.endless("220-go ahead\r\n")
	case InjectAfter:
		if err := s.write("220 2.0.0 go ahead\r\n250 2.0.0 injected\r\n"); err != nil {
			return err
		}
	default:
		if err := s.reply("220 2.0.0 go ahead"); err != nil {
			return err
		}
	}
	switch s.fault {
	case GarbageAfter, ResetAfter, HelloRequests:
		// Not before the ClientHello, so that what happens can't overtake the 220.
		if _, err := s.in.Peek(1); err != nil {
			return err
		}
	}
	switch s.fault {
	case GarbageAfter:
		if err := s.write("500 this is not the TLS you are looking for\r\n"); err != nil {
			return err
		}
		return s.hang()
	case CloseAfter:
		return errDone
	case ResetAfter:
		return s.reset()
	case HangHandshake:
		return s.hang()
	case HelloRequests:
		return s.endless("\x16\x03\x03\x00\x04\x00\x00\x00\x00")
	case HandshakeAlert:
		config = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, errDone }}
	}
	if s.in.Buffered() > 0 {
		// RFC 3207, section 5: what came in the clear must not be taken for what came over TLS.
		return errDone
	}
	conn := tls.Server(s.raw, config)
	if err := conn.Handshake(); err != nil {
		return err
	}
	state := conn.ConnectionState()
	s.conn, s.in, s.tls = conn, bufio.NewReaderSize(conn, maxCommand), &state
	s.greeted, s.mail = false, nil
	return nil
}

func (s *session) mailFrom(arg string) error {
	from, ok := path(arg, "FROM:")
	switch {
	case !s.greeted:
		return s.reply("503 5.5.1 say EHLO first")
	case s.mail != nil:
		return s.reply("503 5.5.1 one sender at a time")
	case !ok:
		return s.reply("501 5.5.4 syntax: MAIL FROM:<address>")
	}
	s.mail = &Message{From: from}
	if client, err := netip.ParseAddrPort(s.raw.RemoteAddr().String()); err == nil {
		s.mail.Client = client.Addr()
	}
	if s.tls != nil {
		s.mail.TLS, s.mail.Version, s.mail.Cipher = true, s.tls.Version, s.tls.CipherSuite
		s.mail.ServerName = s.tls.ServerName
	}
	return s.reply("250 2.1.0 sender ok")
}

func (s *session) rcptTo(arg string) error {
	to, ok := path(arg, "TO:")
	switch {
	case s.mail == nil:
		return s.reply("503 5.5.1 say MAIL first")
	case !ok || to == "":
		return s.reply("501 5.5.4 syntax: RCPT TO:<address>")
	}
	if reject := s.host.config.Reject; reject != nil {
		if text := reject(to); text != "" {
			return s.reply("%s", text)
		}
	}
	s.mail.To = append(s.mail.To, to)
	return s.reply("250 2.1.5 recipient ok")
}

func (s *session) data() error {
	if s.mail == nil || len(s.mail.To) == 0 {
		return s.reply("503 5.5.1 no recipients")
	}
	if err := s.reply("354 end with a dot"); err != nil {
		return err
	}
	var body []byte
	for {
		// Lines of any length: RFC 5321, section 4.5.3.1.6, bounds them, a host that loses mail over it helps nobody.
		line, err := s.in.ReadBytes('\n')
		if err != nil {
			return err
		}
		if string(line) == ".\r\n" {
			break
		}
		if body = append(body, bytes.TrimPrefix(line, []byte("."))...); len(body) > maxMessage {
			return s.last("552 5.3.4 too big")
		}
	}
	m := *s.mail
	m.Data, s.mail = body, nil
	s.host.took(m)
	return s.reply("250 2.0.0 taken")
}

// path takes the address out of "FROM:<address> PARAMETERS".
func path(arg, prefix string) (string, bool) {
	if len(arg) < len(prefix) || !strings.EqualFold(arg[:len(prefix)], prefix) {
		return "", false
	}
	rest, ok := strings.CutPrefix(strings.TrimSpace(arg[len(prefix):]), "<")
	if !ok {
		return "", false
	}
	end := strings.LastIndexByte(rest, '>')
	if end < 0 {
		return "", false
	}
	return rest[:end], true
}

// line reads a command line without its end.
func (s *session) line() (string, error) {
	line, err := s.in.ReadSlice('\n')
	if err != nil {
		return "", err
	}
	return strings.TrimRight(string(line), "\r\n"), nil
}

func (s *session) reply(format string, args ...any) error {
	return s.write(fmt.Sprintf(format, args...) + "\r\n")
}

// last replies and ends the session.
func (s *session) last(format string, args ...any) error {
	if err := s.reply(format, args...); err != nil {
		return err
	}
	return errDone
}

func (s *session) write(text string) error {
	if s.fault != Drip || s.tls != nil {
		_, err := io.WriteString(s.conn, text)
		return err
	}
	for i := range len(text) {
		s.host.pause(s.host.config.Delay)
		if _, err := io.WriteString(s.conn, text[i:i+1]); err != nil {
			return err
		}
	}
	return nil
}

// hang says nothing more and reads until the client or Close ends the connection.
func (s *session) hang() error {
	_, err := io.Copy(io.Discard, s.in)
	return errors.Join(err, errDone)
}

func (s *session) endless(line string) error {
	chunk := strings.Repeat(line, 64)
	for {
		if err := s.write(chunk); err != nil {
			return err
		}
	}
}

// reset ends the connection with a TCP reset.
func (s *session) reset() error {
	if tcp, ok := s.raw.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	return errDone
}
