package postfix

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/textproto"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/contract"
	"tlsonly/internal/mta"
)

// Probe sends one real message of a protected sender through Postfix, to a mail host of its own at port 25 of a loopback address. The host
// offers TLS until the message is accepted, so that there's no reason to refuse it, and doesn't at delivery. The
// message must stay; then it is taken out of the queue.
//
// Whatever happens to it, nothing stays in the queue and no bounce goes
// anywhere. It asks Postfix for none, the host gives no reason for one, and
// nothing is taken out of the queue that Postfix is still busy with: bounce(8)
// writes a bounce of which it finds no record, whatever was asked.
//
// It needs root for the queue. The daemon knows the host then as it does every destination. The error says that nothing could be proved: where Postfix itself listens at port 25
// of all addresses (inet_interfaces = all), there's no place for the host.
func Probe(ctx context.Context, s Settings, i Instance, from addr.Address) (Probed, error) {
	f, err := Read(ctx, i)
	if err != nil {
		return Probed{}, err
	}
	server, err := f.smtpServer()
	if err != nil {
		return Probed{}, fmt.Errorf("probe: %w", err)
	}
	host, err := listenProbe()
	if err != nil {
		return Probed{}, fmt.Errorf("probe: no place for a mail host at port 25 (inet_interfaces = %s): %w", f.value("inet_interfaces"), err)
	}
	defer host.close()
	ip, _, err := net.SplitHostPort(host.listener.Addr().String())
	if err != nil {
		return Probed{}, err
	}
	destination, err := addr.ParseDestination("[" + ip + "]")
	if err != nil {
		return Probed{}, err
	}
	if hop, err := f.relayOf(ctx, &Tables{Instance: i}, from, ip); err != nil {
		return Probed{}, fmt.Errorf("probe: %w", err)
	} else if hop != "" {
		return Probed{}, fmt.Errorf("probe: postfix sends mail for [%s] to %s, so nothing was sent", ip, hop)
	}
	finding, err := host.probe(ctx, s, i, server, ip, from)
	return Probed{finding, destination}, err
}

// Probed is what came of it.
type Probed struct {
	mta.Finding
	Destination addr.Destination // where the message was for; zero where none was sent
}

func (h *probeHost) probe(ctx context.Context, s Settings, i Instance, server, ip string, from addr.Address) (mta.Finding, error) {
	to := "tlsonly-probe-" + strings.ToLower(rand.Text()) + "@[" + ip + "]"
	id, err := h.submit(ctx, server, from, to, s.OnLost == contract.OnLostBounce)
	var refused *textproto.Error
	if errors.As(err, &refused) {
		return mta.Finding{Severity: mta.Warning, Code: "probe-refused", Check: "probe", Text: fmt.Sprintf("a message of %s was refused, so nothing is known of its delivery: %v", from, err), Remedy: "try another sender"}, nil
	}
	sent := sentProbe{instance: i, to: to}
	reason := ""
	if err == nil {
		reason, err = sent.outcome(ctx)
	}
	// Also when ctx has ended, or the probe stays for days; and where nobody
	// knows whether it was taken.
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), margin)
	defer cancel()
	err = errors.Join(err, sent.remove(clean))
	switch {
	case err != nil:
		return mta.Finding{}, fmt.Errorf("probe: message %s: %w", id, err)
	case h.saw():
		return mta.Finding{Severity: mta.Hole, Code: "probe-clear", Check: "probe", Text: fmt.Sprintf("a message of %s was sent in the clear to %s, which offers no TLS", from, ip), Remedy: "see the other findings, then " + runSetup}, nil
	case reason == "" && s.OnLost != contract.OnLostBounce:
		return mta.Finding{Severity: mta.Warning, Code: "probe-gone", Check: "probe", Text: fmt.Sprintf("message %s left the queue, though not in the clear", id), Remedy: "read the log"}, nil
	case reason != "" && !strings.Contains(reason, "TLS is required"):
		return mta.Finding{Severity: mta.Warning, Code: "probe-waits", Check: "probe", Text: fmt.Sprintf("message %s waits for another reason: %s", id, reason), Remedy: "read the log"}, nil
	}
	return mta.Finding{Severity: mta.OK, Code: "probe-held", Check: "probe", Text: fmt.Sprintf("a message of %s stayed here after its destination lost TLS", from)}, nil
}

// smtpServer returns the address of the instance's SMTP server.
func (f Facts) smtpServer() (string, error) {
	host := "127.0.0.1"
	if first := splitList(f.value("inet_interfaces")); len(first) > 0 && net.ParseIP(strings.Trim(first[0], "[]")) != nil {
		host = strings.Trim(first[0], "[]")
	}
	for _, s := range f.Services {
		if s.Type != "inet" || s.Command != "smtpd" && s.Command != "postscreen" {
			continue
		}
		if h, port, err := net.SplitHostPort(s.Name); err == nil {
			return net.JoinHostPort(h, port), nil
		}
		return net.JoinHostPort(host, s.Name), nil
	}
	return "", errors.New("no SMTP server in master.cf")
}

// probeHost is a mail host that takes nothing.
type probeHost struct {
	listener net.Listener
	config   *tls.Config
	serving  sync.WaitGroup
	leaked   chan struct{} // closed when a sender was named in the clear

	mu    sync.Mutex
	tls   bool // STARTTLS is offered
	open  map[net.Conn]bool
	ended bool
}

func listenProbe() (*probeHost, error) {
	cert, err := throwaway()
	if err != nil {
		return nil, err
	}
	h := &probeHost{config: &tls.Config{Certificates: []tls.Certificate{cert}}, leaked: make(chan struct{}), tls: true, open: make(map[net.Conn]bool)}
	// Not 127.0.0.1, which is "myself" to Postfix.
	for n := 1; n < 4; n++ {
		if h.listener, err = net.Listen("tcp", fmt.Sprintf("127.25.0.%d:25", n)); err == nil {
			h.serving.Go(h.accept)
			return h, nil
		}
	}
	return nil, err
}

// throwaway makes a certificate for a minute that nobody can verify.
func throwaway() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "tlsonly probe"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

func (h *probeHost) close() {
	h.listener.Close()
	h.mu.Lock()
	h.ended = true
	for c := range h.open {
		c.Close()
	}
	h.mu.Unlock()
	h.serving.Wait()
}

func (h *probeHost) saw() bool {
	select {
	case <-h.leaked:
		return true
	default:
		return false
	}
}

func (h *probeHost) accept() {
	for {
		c, err := h.listener.Accept()
		if err != nil {
			return
		}
		h.mu.Lock()
		if h.ended {
			c.Close()
		} else {
			h.open[c] = true
			h.serving.Go(func() { h.serve(c) })
		}
		h.mu.Unlock()
	}
}

// serve speaks as much SMTP as it takes to see whether the client goes on without TLS.
func (h *probeHost) serve(raw net.Conn) {
	defer func() {
		raw.Close()
		h.mu.Lock()
		delete(h.open, raw)
		h.mu.Unlock()
	}()
	_ = raw.SetDeadline(time.Now().Add(time.Minute))
	h.mu.Lock()
	offers := h.tls
	h.mu.Unlock()
	encrypted := false
	conn := textproto.NewConn(raw)
	reply := "220 tlsonly-probe.invalid ESMTP"
	for {
		if reply != "" && conn.PrintfLine("%s", reply) != nil {
			return
		}
		line, err := conn.ReadLine()
		if err != nil {
			return
		}
		verb, _, _ := strings.Cut(strings.ToUpper(line), " ")
		switch {
		case verb == "EHLO" && offers && !encrypted:
			reply = "250-tlsonly-probe.invalid\r\n250 STARTTLS"
		case verb == "EHLO", verb == "HELO":
			reply = "250 tlsonly-probe.invalid"
		case verb == "STARTTLS" && offers && !encrypted:
			if conn.PrintfLine("220 go on") != nil {
				return
			}
			secured := tls.Server(raw, h.config)
			if secured.Handshake() != nil {
				return
			}
			conn, encrypted, reply = textproto.NewConn(secured), true, "" // RFC 3207, section 4.2: the client speaks next
		case verb == "MAIL":
			if !encrypted {
				h.mu.Lock()
				if !h.saw() {
					close(h.leaked)
				}
				h.mu.Unlock()
			}
			// No "550", which would be a reason for a bounce.
			reply = "450 4.3.2 this host takes no mail"
		case verb == "QUIT":
			_ = conn.PrintfLine("221 bye")
			return
		default:
			reply = "250 ok"
		}
	}
}

// queued is how smtpd answers a message it has taken.
var queued = regexp.MustCompile(`queued as ([0-9A-Za-z]+)`)

// submit gives Postfix the message and ends the offer of TLS just before it is taken. It returns the queue id.
// Where Postfix bounces what lost TLS it has to know that no bounce is wanted.
func (h *probeHost) submit(ctx context.Context, server string, from addr.Address, to string, bounces bool) (id string, err error) {
	var d net.Dialer
	raw, err := d.DialContext(ctx, "tcp", server)
	if err != nil {
		return "", err
	}
	defer raw.Close()
	defer context.AfterFunc(ctx, func() { raw.Close() })()
	conn := textproto.NewConn(raw)
	path := from.String()
	if from.IsNull() {
		path = ""
	}
	say := func(code int, format string, args ...any) string {
		if err != nil {
			return ""
		}
		if format != "" {
			if err = conn.PrintfLine(format, args...); err != nil {
				return ""
			}
		}
		var text string
		if _, text, err = conn.ReadResponse(code); err != nil && format != "" {
			err = fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), err)
		}
		return text
	}
	say(220, "")
	notify := ""
	if slices.Contains(strings.Fields(say(250, "EHLO localhost")), "DSN") {
		notify = " NOTIFY=NEVER" // RFC 3461, section 4.1
	} else if bounces && err == nil {
		return "", errors.New(`[binding] on_lost = "bounce", and postfix offers no DSN, so a bounce would go to the sender: nothing was sent`)
	}
	say(250, "MAIL FROM:<%s>", path)
	say(25, "RCPT TO:<%s>%s", to, notify)
	say(354, "DATA")
	if err != nil {
		return "", err
	}
	h.mu.Lock()
	h.tls = false
	h.mu.Unlock()
	text := say(250, "From: <%s>\r\nTo: <%s>\r\nSubject: tlsonly probe\r\n\r\nIf this leaves in the clear, mail of this sender does.\r\n.", path, to)
	if err != nil {
		return "", err
	}
	_ = conn.PrintfLine("QUIT") // it is taken
	m := queued.FindStringSubmatch(text)
	if m == nil {
		return "", fmt.Errorf("no queue id in %q", text)
	}
	return m[1], nil
}
