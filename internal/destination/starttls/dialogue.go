package starttls

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"tlsonly/internal/policy"
	"tlsonly/internal/profile"
)

// maxExtensions is how many EHLO keywords are reported.
const maxExtensions = 100

// conversation is a connection to a mail host, in the clear and later perhaps over TLS.
type conversation struct {
	conn     net.Conn
	in       *bufio.Reader
	mta      profile.MTA
	deadline time.Time
	stop     func() bool
}

// newConversation binds conn to ctx: its deadline holds for every read and write, its end wakes them.
func newConversation(ctx context.Context, conn net.Conn, mta profile.MTA) *conversation {
	c := &conversation{conn: conn, in: newReader(conn), mta: mta}
	c.deadline, _ = ctx.Deadline()
	conn.SetDeadline(c.deadline)
	c.stop = context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	return c
}

func (c *conversation) close() {
	c.stop()
	c.conn.Close()
}

// untilTLS takes the dialogue to where the handshake begins: with implicit TLS that is at once.
func (c *conversation) untilTLS(implicit bool, helo string, o *policy.Observation) *failure {
	if implicit {
		return nil
	}
	if f := c.greet(helo, o); f != nil {
		return f
	}
	return c.starttls()
}

// welcome waits for the banner and notes it in o.
func (c *conversation) welcome(o *policy.Observation) *failure {
	banner, f := c.read(policy.StageBanner)
	if f != nil {
		return f
	}
	o.Banner = printable(banner.lines[0])
	if banner.long && !c.mta.TakesLongBanner() {
		return &failure{outcome: policy.SawUnreachable, stage: policy.StageBanner,
			err: fmt.Errorf("%w that this Postfix takes: a line of the banner is longer than %d octets", errSyntax, postfixRead)}
	}
	if banner.code/100 != 2 {
		// RFC 5321, section 3.1: 554 is "no SMTP service here"; 421 and the other 4xx are for later.
		return c.leave(policy.SawUnreachable, policy.StageBanner, banner)
	}
	return nil
}

// greet waits for the banner, says EHLO or HELO, and notes banner and extensions in o.
func (c *conversation) greet(helo string, o *policy.Observation) *failure {
	if f := c.welcome(o); f != nil {
		return f
	}
	hello, extended, f := c.hello(helo, policy.StageEHLO, func(r reply) bool {
		return r.code/100 == 5 // RFC 5321, section 3.2: a server that knows no EHLO is greeted with HELO
	})
	if f != nil {
		return f
	}
	o.HELO = printable(firstWord(hello.lines[0]))
	mangled := overwritten(o.Banner)
	if extended {
		// RFC 5321, section 4.1.1.1: the first line is the host's name and greeting, a keyword is on each other.
		for _, line := range hello.lines[1:] {
			if len(o.Extensions) < maxExtensions {
				o.Extensions = append(o.Extensions, printable(line))
			}
			mangled = mangled || masked(keyword(line))
		}
	}
	// Sendmail heeds what is offered in a reply to HELO, too.
	offered := (extended || c.mta.Dialect == profile.Sendmail) && slices.Contains(hello.words, "STARTTLS")
	switch {
	case offered:
		return nil
	case mangled:
		return c.leave(policy.SawMangled, policy.StageEHLO, hello)
	}
	return c.leave(policy.SawNoSTARTTLS, policy.StageEHLO, hello)
}

// hello says EHLO, and HELO where the reply to that is one to fall back from; extended
// reports that EHLO was understood.
func (c *conversation) hello(name string, stage policy.Stage, fallBack func(reply) bool) (r reply, extended bool, f *failure) {
	if r, f = c.command("EHLO "+name, stage); f != nil {
		return r, false, f
	}
	extended = true
	if fallBack(r) {
		extended = false
		if r, f = c.command("HELO "+name, stage); f != nil {
			return r, false, f
		}
	}
	if r.code/100 != 2 {
		return r, false, c.leave(policy.SawUnreachable, stage, r)
	}
	return r, extended, nil
}

// again greets the host once more, over TLS, as an MTA does next: a host that asks
// for a certificate may say only now that it wants one, or it hangs up.
func (c *conversation) again(helo string, o *policy.Observation) *failure {
	r, _, f := c.hello(helo, policy.StageSecure, func(r reply) bool {
		return r.code/100 == 5 || c.mta.Dialect == profile.Postfix && r.code/100 != 2 && r.code != 421
	})
	if f != nil && f.cut {
		f.outcome = policy.SawBroken // no reply: that is how TLS ended
	}
	if f != nil {
		return f
	}
	// Either of the two names counts where it is the MTA's own.
	name := printable(firstWord(r.lines[0]))
	if own := c.mta.Hosts.Name; o.HELO == "" || !own.IsZero() && strings.EqualFold(name, own.String()) {
		o.HELO = name
	}
	return nil
}

// starttls asks for TLS and takes the 220.
func (c *conversation) starttls() *failure {
	// RFC 3207, section 4: STARTTLS is never pipelined with anything.
	answer, f := c.command("STARTTLS", policy.StageSTARTTLS)
	switch {
	case f != nil:
		return f
	case answer.code == 421: // RFC 5321, section 3.8: the host is going down, which says nothing of TLS
		return c.leave(policy.SawUnreachable, policy.StageSTARTTLS, answer)
	case answer.code != 220 && (c.mta.Dialect != profile.Postfix || answer.code/100 != 2):
		return c.leave(policy.SawRefused, policy.StageSTARTTLS, answer)
	}
	// CVE-2011-0411: text that comes with the 220 came in the clear and must
	// never be taken for the host's own words over TLS. It is thrown away, as
	// MTAs do; an empty line after each reply is the harmless kind.
	_, _ = c.in.Discard(c.in.Buffered())
	return nil
}

// handshake turns the conversation to TLS.
func (c *conversation) handshake(ctx context.Context, config *tls.Config) (tls.ConnectionState, *failure) {
	conn := tls.Client(c.conn, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return tls.ConnectionState{}, &failure{outcome: policy.SawBroken, stage: policy.StageHandshake, err: err}
	}
	c.conn, c.in = conn, newReader(conn)
	return conn.ConnectionState(), nil
}

// offer sends a ClientHello of our own, as o says, and reads what the server makes of it.
func (c *conversation) offer(o offer) (*serverHello, *failure) {
	record, err := clientHello(o)
	if err == nil {
		_, err = c.conn.Write(record)
	}
	var h *serverHello
	if err == nil {
		h, err = readServerHello(c.in)
	}
	if err != nil {
		return nil, &failure{outcome: policy.SawBroken, stage: policy.StageHandshake, err: err}
	}
	return h, nil
}

// leave ends a dialogue that showed what a reply says with QUIT. A host that sent 421 has hung up already.
func (c *conversation) leave(outcome policy.Outcome, stage policy.Stage, r reply) *failure {
	if r.code != 421 {
		c.quit()
	}
	return &failure{outcome: outcome, stage: stage, err: errors.New(r.String())}
}

// quit says QUIT and waits a moment for the reply: whatever becomes of it, what was seen before stands.
func (c *conversation) quit() {
	if limit := time.Now().Add(quitWait); limit.Before(c.deadline) {
		c.conn.SetDeadline(limit)
	}
	if _, err := io.WriteString(c.conn, "QUIT\r\n"); err == nil {
		_, _ = readReply(c.in, c.mta.Dialect)
	}
}

// command sends a line and reads its reply. What has come before counts as the
// reply, as it does for MTAs.
func (c *conversation) command(line string, stage policy.Stage) (reply, *failure) {
	if _, err := io.WriteString(c.conn, line+"\r\n"); err != nil {
		return reply{}, &failure{outcome: policy.SawUnreachable, stage: stage, err: err, cut: true}
	}
	return c.read(stage)
}

func (c *conversation) read(stage policy.Stage) (reply, *failure) {
	r, err := readReply(c.in, c.mta.Dialect)
	ended := !errors.Is(err, errSyntax)
	if errors.Is(err, io.EOF) {
		err = errors.New("connection closed")
	}
	if err != nil {
		return reply{}, &failure{outcome: policy.SawUnreachable, stage: stage, err: err, cut: ended}
	}
	return r, nil
}

// firstWord is the host's name in its reply to EHLO (RFC 5321, section 4.1.1.1).
func firstWord(line string) string {
	words := strings.Fields(line)
	if len(words) == 0 {
		return ""
	}
	return words[0]
}

// keyword returns the EHLO keyword of a line in upper case (RFC 5321, section 4.1.1.1). Some hosts write "AUTH=LOGIN".
func keyword(line string) string {
	word := strings.TrimLeft(line, " \t")
	if i := strings.IndexAny(word, " \t="); i >= 0 {
		word = word[:i]
	}
	return strings.ToUpper(word)
}

// masked reports whether a keyword was overwritten: Cisco's SMTP inspection writes XXXXXXXA over STARTTLS.
func masked(word string) bool {
	if len(word) < len("STARTTLS") || len(word) > 64 {
		return false
	}
	last := word[len(word)-1]
	return strings.Trim(word[:len(word)-1], "X") == "" && 'A' <= last && last <= 'Z'
}

// overwritten reports whether a banner was: the same devices, older, leave "220 ******2****0**" and know no EHLO.
func overwritten(banner string) bool {
	return strings.Count(banner, "*") >= max(8, len(banner)*2/3)
}
