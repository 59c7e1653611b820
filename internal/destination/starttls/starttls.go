// Package starttls looks at one address of one mail host and answers: what does it do when an MTA asks it for TLS?
// It reports what it saw as a policy.Observation: version, cipher, certificates, or where the dialogue ended and how.
// It judges nothing: whether a version is good enough or a certificate the right one is asked elsewhere, and which
// hosts and addresses are looked at is the caller's choice. Which TLS versions a host accepts is a question of its own:
// Versions.
//
// The dialogue is that of the MTA that delivers, as its profile says: how replies
// are read, what TLS is offered, and whether the host is named in the hello.
// Banner, EHLO (HELO where EHLO is unknown), STARTTLS, handshake, EHLO again,
// QUIT (RFC 5321, sections 3.1, 3.2 and 4.2; RFC 3207). Only with the reply to
// the second EHLO is there TLS: a host may end the connection until then, as one
// does that demands a certificate. MAIL is never sent. Nothing is sent before the
// whole banner has come. On port 465 the handshake comes first and the banner
// after it (RFC 8314, section 3.3).
//
// SECURITY: certificates are not verified here and the oldest versions and
// weakest ciphers are accepted that the MTA accepts, so that "TLS, but weak" can
// be told from "no TLS"; nothing but EHLO, HELO and QUIT is ever said over such a
// connection. What a host says is bounded, and made printable before it is
// reported.
//
// BUGS: of a host that crypto/tls can't finish a handshake with, a second connection shows only version, cipher and,
// below TLS 1.3, the certificates (Observation.HelloOnly); that the host holds the private key isn't shown then.
//
// The caller bounds how many probes run at once, and to one host.
package starttls

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"tlsonly/internal/policy"
	"tlsonly/internal/profile"
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
	// MTA says what the MTA can do that delivers, at the time; default: nothing is known of it.
	MTA func() profile.MTA
	// Dial makes the TCP connection; default: a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	Now  func() time.Time // default: time.Now

	silence time.Duration // 0: the constant
}

// Target is one address of a mail host.
type Target struct {
	Address netip.AddrPort
	// Name is the MX host's name in ASCII, "" for an address literal. It is sent as SNI
	// (RFC 6066, section 3) as far as the MTA sends it.
	Name string
	// Fixed has nothing tried but what the MTA does: with DANE it can't be told to
	// leave the name out. Forced has the name sent whatever the MTA does.
	Fixed, Forced bool
	greets        bool // it speaks SMTP first, see implicit
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
	o := p.observe(ctx, t, p.mta())
	o.Address, o.When, o.Took = t.Address, start, now().Sub(start)
	return o
}

func (p *Prober) mta() profile.MTA {
	if p.MTA == nil {
		return profile.MTA{}
	}
	return p.MTA().Assumed()
}

// observe looks at t with its name or without, as the MTA will come, and the other
// way where the first fails: an MTA that can be told is told to leave the name out,
// and of another it is said what the host lacks.
func (p *Prober) observe(ctx context.Context, t Target, mta profile.MTA) policy.Observation {
	never := mta.TLS.Naming == profile.NamesNever && !t.Forced
	first, second := t, t
	if never {
		first.Name = ""
	} else {
		second.Name = ""
	}
	o, unseen := p.probeOnce(ctx, first, mta, true)
	o.Unsent = never && t.Name != ""
	if t.Name == "" || t.Fixed || t.Forced || !unseen {
		return o
	}
	other, _ := p.probeOnce(ctx, second, mta, false)
	switch {
	case other.Outcome != policy.SawTLS:
	case never:
		o.Detail = "it wants its name in the hello (SNI), which this MTA does not send: " + o.Detail
	default:
		other.Unnamed = true
		return other
	}
	return o
}

// probeOnce looks at an address with one name, or with none. unseen reports that the host
// ended the handshake before it had shown anything. thorough is to try a hello of our
// own where that of crypto/tls fails.
func (p *Prober) probeOnce(ctx context.Context, t Target, mta profile.MTA, thorough bool) (o policy.Observation, unseen bool) {
	o, seen, f := p.first(ctx, t, mta)
	taken := f == nil
	broken := !taken && o.Outcome == policy.SawBroken && f.stage == policy.StageHandshake
	// A host that ends the connection after it has shown its certificate, and has
	// our answer, is not at odds with our stack: it would end that with the MTA,
	// too.
	ended := broken && (byHost(f.err) || badSignature(f.err))
	unseen = ended && !seen.shown
	switch {
	case taken && o.Detail == "" && alike(mta.TLS, o.Version):
		return o, false
	case !taken && (!broken || ended && seen.shown || !thorough):
		return o, unseen
	}
	// Our TLS stack and the host didn't find together: is it the host, or is it
	// us? Or they did, and the MTA's stack may not: of old servers some choose
	// Diffie-Hellman with a small prime, which ours doesn't speak and the MTA
	// refuses; others sign in ways that it doesn't take. A hello of our own, that
	// offers what the MTA does, tells.
	h, f := p.second(ctx, t, offerOf(t.Name, mta.TLS, versions()...))
	against := o.Detail
	if f == nil {
		against = h.objection(mta.TLS)
	}
	switch {
	case f == nil && against != "", f != nil && taken && against != "":
		return policy.Observation{Outcome: policy.SawBroken, Stage: policy.StageHandshake, Detail: against,
			Banner: o.Banner, Extensions: o.Extensions}, false
	case f != nil && taken:
		// To a hello like the MTA's.
		o = policy.Observation{Banner: o.Banner, Extensions: o.Extensions}
		f.report(&o)
		return o, false
	case f != nil:
		return o, unseen
	}
	if !taken || o.Detail != "" {
		o.HelloOnly = true
	}
	o.Outcome = policy.SawTLS
	o.Version, o.Cipher, o.Bits, o.Exchange = h.version, h.suite.name, h.suite.bits, h.exchange
	if len(h.certs) > 0 {
		o.Chain = h.chain()
	}
	if o.HelloOnly && h.asks && !mta.TLS.Certificate {
		// Most hosts that ask do without. Whether this one does can't be seen from here.
		o.Outcome = policy.SawUnreachable
		o.Detail = "it asks for a client certificate, and whether it does without is not known: " + o.Detail
	}
	return o, false
}

// first takes the dialogue through to QUIT, and says how far the handshake came. Where it succeeds,
// Detail says what the MTA's stack has against what was agreed on.
func (p *Prober) first(ctx context.Context, t Target, mta profile.MTA) (o policy.Observation, seen *progress, f *failure) {
	seen = new(progress)
	c, f := p.dial(ctx, t, mta)
	if f != nil {
		f.report(&o)
		return o, seen, f
	}
	defer c.close()
	implicit := p.implicit(c, t)
	var state tls.ConnectionState
	if f = c.untilTLS(implicit, p.helo(), &o); f == nil {
		state, f = c.handshake(ctx, seen.watched(clientConfig(t.Name, mta.TLS)))
		if late, ok := t.patient(); f != nil && implicit && ok {
			return p.first(ctx, late, mta)
		}
	}
	if f == nil && implicit {
		f = c.welcome(&o)
	}
	if f == nil {
		f = c.again(p.helo(), &o)
	}
	if f != nil {
		seen.explain(f, mta.TLS)
		f.report(&o)
		return o, seen, f
	}
	describe(&o, state)
	o.Outcome, o.Stage = policy.SawTLS, policy.StageQuit
	o.Detail = objection(mta.TLS, state)
	c.quit()
	return o, seen, nil
}

// second makes another connection, repeats the dialogue and sends a hello of our own making.
func (p *Prober) second(ctx context.Context, t Target, hello offer) (*serverHello, *failure) {
	c, f := p.dial(ctx, t, p.mta())
	if f != nil {
		return nil, f
	}
	defer c.close()
	if f = c.untilTLS(p.implicit(c, t), p.helo(), new(policy.Observation)); f != nil {
		return nil, f
	}
	return c.offer(hello)
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

func (p *Prober) dial(ctx context.Context, t Target, mta profile.MTA) (*conversation, *failure) {
	dial := p.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	conn, err := dial(ctx, "tcp", t.Address.String())
	if err != nil {
		return nil, &failure{outcome: policy.SawUnreachable, stage: policy.StageConnect, err: err}
	}
	return newConversation(ctx, conn, mta), nil
}

// failure is how a dialogue ended before TLS was there.
type failure struct {
	outcome policy.Outcome
	stage   policy.Stage
	err     error
	cut     bool // the connection ended where a reply was due
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
