// Package starttls looks at one address of one mail host and answers: what does it do when an MTA asks it for TLS?
// It reports what it saw as a policy.Observation: version, cipher, certificates, or where the dialogue ended and how.
// It judges nothing: whether a version is good enough or a certificate the right one is asked elsewhere, and which
// hosts and addresses are looked at is the caller's choice. Which TLS versions a host accepts is a question of its own:
// Versions.
//
// The dialogue is an MTA's: banner, EHLO (HELO where EHLO is unknown), STARTTLS, handshake, QUIT (RFC 5321, sections
// 3.1, 3.2 and 4.2; RFC 3207). MAIL is never sent. Nothing is sent before the whole banner has come. On port 465 the
// handshake comes first and the banner after it (RFC 8314, section 3.3).
//
// SECURITY: certificates are not verified here and the oldest versions and weakest ciphers are accepted, so that
// "TLS, but weak" can be told from "no TLS"; nothing but QUIT is ever said over such a connection. What a host
// says is bounded in line length, lines and octets, and made printable before it is reported.
//
// BUGS: of a host that crypto/tls can't finish a handshake with, a second connection shows only version, cipher and,
// below TLS 1.3, the certificates (Observation.HelloOnly); that the host holds the private key isn't shown then.
//
// The caller bounds how many probes run at once, and to one host.
package starttls

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"tlsonly/internal/policy"
)

// DefaultTimeout is the time a probe gets when Prober.Timeout is 0.
const DefaultTimeout = 15 * time.Second

// quitWait is how long the reply to QUIT is waited for: courtesy, not a finding.
const quitWait = time.Second

// submissions is the port on which TLS comes before SMTP. An MTA that isn't set up for that (Postfix:
// smtp_tls_wrappermode) can't deliver there at all, in the clear neither.
const submissions = 465

// Prober looks at mail hosts. The zero value works; a Prober may be used by several goroutines.
type Prober struct {
	HELO    string        // our name; default: the host's name
	Timeout time.Duration // one probe, or one version, connect to QUIT; default 15 s
	// Dial makes the TCP connection; default: a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	Now  func() time.Time // default: time.Now
	// Wrapped says whether the MTA has a client that speaks TLS from the first
	// octet on, whatever the port (Postfix: smtp_tls_wrappermode); nil: it hasn't.
	Wrapped func() bool

	silence time.Duration // 0: the constant
}

// Target is one address of a mail host.
type Target struct {
	Address netip.AddrPort
	Name    string // the MX host's name in ASCII, sent as SNI (RFC 6066, section 3); "" for an address literal
	greets  bool   // it speaks SMTP first, see implicit
}

// Probe looks at t. It always returns an Observation with an outcome; ctx and the timeout end it with SawTimeout.
func (p *Prober) Probe(ctx context.Context, t Target) policy.Observation {
	now := p.Now
	if now == nil {
		now = time.Now
	}
	// RFC 5321, section 4.5.3.2, gives the banner and each reply 5 minutes. No one who asks before a message is
	// accepted has that time, so all stages share one limit and each may use up what is left of it: a host that
	// makes strangers wait for its banner is looked at all the same.
	ctx, cancel := context.WithTimeout(ctx, p.timeout())
	defer cancel()
	start := now()
	o := p.observe(ctx, t)
	o.Address, o.When, o.Took = t.Address, start, now().Sub(start)
	return o
}

func (p *Prober) observe(ctx context.Context, t Target) policy.Observation {
	o, again := p.first(ctx, t)
	if !again {
		return o
	}
	// Our TLS stack and the host didn't find together: is it the host, or is it us? A hello of our own, that
	// offers what other stacks speak, tells.
	h, f := p.second(ctx, t, versions()...)
	if f != nil {
		return o
	}
	o.Outcome, o.HelloOnly = policy.SawTLS, true
	o.Version, o.Cipher, o.Bits, o.Exchange, o.Chain = h.version, h.suite.name, h.suite.bits, h.exchange, h.chain()
	return o
}

// first takes the dialogue through to QUIT; again reports that the handshake failed in a way a second look may explain.
func (p *Prober) first(ctx context.Context, t Target) (o policy.Observation, again bool) {
	c, f := p.dial(ctx, t)
	if f != nil {
		f.report(&o)
		return o, false
	}
	defer c.close()
	implicit := p.implicit(c, t)
	if f = c.untilTLS(implicit, p.helo(), &o); f != nil {
		f.report(&o)
		return o, false
	}
	state, f := c.handshake(ctx, clientConfig(t.Name))
	if late, ok := t.patient(); f != nil && implicit && ok {
		return p.first(ctx, late)
	}
	if f != nil {
		f.report(&o)
		return o, o.Outcome == policy.SawBroken
	}
	if implicit {
		if f := c.welcome(&o); f != nil {
			f.report(&o)
			return o, false
		}
	}
	describe(&o, state)
	o.Outcome, o.Stage = policy.SawTLS, policy.StageQuit
	c.quit()
	return o, false
}

// second makes another connection, repeats the dialogue and sends a hello of our own making, which offers the versions.
func (p *Prober) second(ctx context.Context, t Target, offer ...policy.Version) (*serverHello, *failure) {
	c, f := p.dial(ctx, t)
	if f != nil {
		return nil, f
	}
	defer c.close()
	if f = c.untilTLS(p.implicit(c, t), p.helo(), new(policy.Observation)); f != nil {
		return nil, f
	}
	return c.hello(t.Name, offer...)
}

func (p *Prober) timeout() time.Duration {
	if p.Timeout <= 0 {
		return DefaultTimeout
	}
	return p.Timeout
}

func (p *Prober) helo() string {
	if p.HELO != "" {
		return p.HELO
	}
	name, err := os.Hostname()
	if err != nil || name == "" {
		return "localhost"
	}
	return name
}

func (p *Prober) dial(ctx context.Context, t Target) (*conversation, *failure) {
	dial := p.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	conn, err := dial(ctx, "tcp", t.Address.String())
	if err != nil {
		return nil, &failure{policy.SawUnreachable, policy.StageConnect, err}
	}
	return newConversation(ctx, conn), nil
}

// failure is how a dialogue ended before TLS was there.
type failure struct {
	outcome policy.Outcome
	stage   policy.Stage
	err     error
}

// report writes f into o. Silence is SawTimeout at every stage, whatever it kept us from finding out.
func (f *failure) report(o *policy.Observation) {
	o.Outcome, o.Stage, o.Detail = f.outcome, f.stage, printable(f.err.Error())
	if isTimeout(f.err) {
		o.Outcome = policy.SawTimeout
	}
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) ||
		errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &n) && n.Timeout()
}

// maxText is how much of a host's text is reported, in octets.
const maxText = 200

// printable makes text from the network fit for a log line: ASCII, one line, cut.
func printable(s string) string { return clean(strings.TrimSpace(s[:min(len(s), maxText)])) }

// clean puts ? where a character is not printable ASCII.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}
