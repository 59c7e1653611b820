package milter

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
	"tlsonly/rules"
)

// Assessor finds out what a destination does.
type Assessor interface {
	// Assess returns what is known of d when enough is true of it, when all is known, or when ctx ends: then what is
	// known by then with Partial set, or Problem policy.Timeout where nothing is. It returns soon after ctx ends.
	Assess(ctx context.Context, d addr.Destination, enough func(policy.Assessment) bool) policy.Assessment
}

// Ledger remembers what was promised.
type Ledger interface {
	// Pinned reports whether d was seen to offer TLS and must not fall back.
	Pinned(d addr.Destination) bool
	// Owe makes durable, before it returns nil, that a message for d was accepted under demand; with pin it pins d, which
	// was seen to satisfy it.
	Owe(ctx context.Context, d addr.Destination, rule string, demand policy.Demand, pin bool) error
}

// Route is where the MTA would send a recipient's mail, as far as it says so: its {rcpt_mailer} and {rcpt_host}.
// Both are empty when it doesn't, and in the command explain.
type Route struct {
	Mailer string // delivery agent (Sendmail) or transport (Postfix)
	Host   string // next hop, "here" where Mailer is local; the status code and text where Mailer is error
}

// Decider decides for one recipient. Its fields don't change while it is in use.
type Decider struct {
	Assessor Assessor
	Ledger   Ledger // nil: nothing is pinned and nothing stored
	// Local reports whether a domain is delivered here; nil: none is.
	Local func(addr.Domain) bool
	// Relay is where mail for a domain goes when it doesn't go by MX; nil: all does.
	Relay    func(addr.Domain) (addr.Destination, bool)
	Deadline time.Duration // a recipient is decided by then; 20 s
	Help     string        // a URL added to refusals, or ""
}

const defaultDeadline = 20 * time.Second

// storeTime is how long a demand may take to be stored.
const storeTime = 5 * time.Second

// Decision is what was decided for one recipient, and from what.
type Decision struct {
	Rule         *rules.Rule // nil: no rule concerns the recipient, and nothing was asked
	Recipient    addr.Address
	Destinations []addr.Destination // none: delivered here
	Assessments  []policy.Assessment
	rules.Judgement
	Reply policy.Reply // what the client is told; zero for accept and hold
	Cause string       // in words, for the log; never for the client
}

// Decide finds the rule for a recipient and judges by it the places its mail goes to. It takes no longer than the
// deadline, and a moment for the store. Where a level asks nothing of a destination, none is looked at.
func (d *Decider) Decide(ctx context.Context, c rules.Candidates, to addr.Address, route Route) Decision {
	out := Decision{Recipient: to, Rule: c.Match(to)}
	if out.Rule == nil {
		out.Verdict, out.Would = policy.Accept, policy.Accept
		return out
	}
	hops, err := d.hops(to, route)
	out.Destinations = hops
	switch {
	case !out.Rule.Level.Enforces():
	case err != nil:
		// Where the mail goes isn't known, so nothing is known of it: neither "fine" nor "no TLS".
		out.Assessments = []policy.Assessment{{
			Destination: addr.DomainDestination(to.Domain),
			Problem:     policy.Unreachable,
			Detail:      err.Error(),
		}}
	default:
		out.Assessments = d.assess(ctx, out.Rule.Demand(), hops)
	}
	out.Judgement = out.Rule.Judge(out.Assessments)
	owed := d.owe(ctx, &out)
	out.Reply = policy.ReplyFor(out.Verdict, out.Reason, out.Destination, d.Help)
	out.Cause = cause(out.Rule.Demand(), out.Judgement, out.Assessments)
	if owed != nil {
		out.Cause = owed.Error()
	}
	return out
}

// owe stores what is demanded of the destinations of a recipient about to be accepted. Where that can't be done the
// recipient is deferred: a promise that a restart could forget is none.
func (d *Decider) owe(ctx context.Context, out *Decision) error {
	r := out.Rule
	binds := r.Mode == policy.Enforce && r.Level.Enforces() && out.Verdict == policy.Accept &&
		(out.Reason == "" || out.Reason.Unknown() && r.OnUnknown == policy.ActionAccept)
	if d.Ledger == nil || !binds {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	for _, a := range out.Assessments {
		seen := rules.Judge(r.Demand(), a) == ""
		if err := d.Ledger.Owe(ctx, a.Destination, r.Name, r.Demand(), r.Pin && seen); err != nil {
			out.Verdict, out.Would, out.Tag = policy.Defer, policy.Defer, policy.TagFail
			out.Reason, out.Destination = policy.Unreachable, a.Destination
			return fmt.Errorf("demand not stored: %w", err)
		}
	}
	return nil
}

// hops returns where the mail of a recipient is sent next; none means that it is delivered here.
//
// What the MTA says counts before what the configuration says, for the MTA is what sends. Only for a transport of
// the site's own making, which may well be a pipe to a mailbox, is a domain that is listed as local taken as such.
func (d *Decider) hops(to addr.Address, route Route) ([]addr.Destination, error) {
	if deliversHere(route.Mailer) {
		return nil, nil
	}
	local := d.Local != nil && !to.Domain.IsZero() && d.Local(to.Domain)
	switch {
	case route.Host == "":
	case local && !speaksSMTP(route.Mailer), strings.HasPrefix(route.Host, "unix:"): // LMTP over a local socket
		return nil, nil
	default:
		return parseHops(route.Host)
	}
	if local || to.Domain.IsZero() && route.Mailer == "" {
		return nil, nil
	}
	if to.Domain.IsZero() {
		return nil, fmt.Errorf("mailer %q has no next hop for a bare name", route.Mailer)
	}
	if d.Relay != nil {
		if hop, ok := d.Relay(to.Domain); ok {
			return []addr.Destination{hop}, nil
		}
	}
	return []addr.Destination{addr.DomainDestination(to.Domain)}, nil
}

// deliversHere reports whether a mailer keeps the mail on this host, or never delivers it: Postfix's local(8),
// virtual(8), lmtp(8), error(8), retry and discard(8), the pipes of its sample master.cf, and Sendmail's local, prog,
// file, include and discard mailers. Postfix names error for every valid address of a virtual alias domain, too.
func deliversHere(mailer string) bool {
	switch strings.ToLower(mailer) {
	case "local", "virtual", "lmtp", "error", "retry", "discard", // Postfix and Sendmail
		"prog", "*file*", "*include*", // Sendmail
		"procmail", "maildrop", "dovecot", "cyrus", "cyrusv2", "cyrusv2d", "mailman", "scalemail-backend", "usenet":
		return true
	}
	return false
}

// speaksSMTP reports whether a mailer is known to send by SMTP: those of Postfix and Sendmail as they come.
func speaksSMTP(mailer string) bool {
	switch strings.ToLower(mailer) {
	case "smtp", "relay", "esmtp", "smtp8", "dsmtp":
		return true
	}
	return false
}

// parseHops parses {rcpt_host}. Postfix has lists since 3.5 ("[a], [b]"), Sendmail has them with colons ("a.:b."),
// and any of the hosts may get the mail.
func parseHops(host string) ([]addr.Destination, error) {
	var hops []addr.Destination
	for _, part := range splitOutside(host, ", \t") {
		hop, err := addr.ParseDestination(part)
		if err == nil {
			hops = append(hops, hop)
			continue
		}
		parts := splitOutside(part, ":")
		for _, p := range parts {
			// "inet:mailstore:24" is a next hop, too, and no list: a host of a list is a full name or in brackets.
			hop, e := addr.ParseDestination(p)
			if e != nil || len(parts) < 2 || !strings.ContainsAny(p, ".[") {
				return nil, fmt.Errorf("next hop: %w", err)
			}
			hops = append(hops, hop)
		}
	}
	if len(hops) == 0 {
		return nil, errors.New("next hop: no host in it")
	}
	return hops, nil
}

// splitOutside splits s at the characters of sep that stand outside brackets, and leaves out empty parts.
func splitOutside(s, sep string) []string {
	depth := 0
	return strings.FieldsFunc(s, func(r rune) bool {
		switch r {
		case '[':
			depth++
		case ']':
			depth--
		}
		return depth <= 0 && strings.ContainsRune(sep, r)
	})
}

// assess looks at all hops at the same time, until the deadline.
func (d *Decider) assess(ctx context.Context, demand policy.Demand, hops []addr.Destination) []policy.Assessment {
	if len(hops) == 0 {
		return nil
	}
	deadline := d.Deadline
	if deadline <= 0 {
		deadline = defaultDeadline
	}
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	enough := func(a policy.Assessment) bool { return rules.Judge(demand, a) == "" }

	out := make([]policy.Assessment, len(hops))
	look := func(i int) {
		out[i] = d.Assessor.Assess(ctx, hops[i], enough)
		out[i].Destination = hops[i]
		out[i].Pinned = d.Ledger != nil && d.Ledger.Pinned(hops[i])
	}
	var wg sync.WaitGroup
	panics := make([]any, len(hops))
	for i := range hops[1:] {
		wg.Go(func() {
			defer func() { panics[i] = recover() }()
			look(i + 1)
		})
	}
	func() {
		defer wg.Wait() // when the first look panics, too: out is in use until then
		look(0)
	}()
	for _, p := range panics {
		if p != nil {
			panic(p) // in the caller's goroutine, where it is expected
		}
	}
	return out
}

// maxCause bounds what one decision puts into the log.
const maxCause = 400

// cause says in words what made the deciding destination fail.
func cause(demand policy.Demand, j rules.Judgement, as []policy.Assessment) string {
	if j.Reason == "" {
		return ""
	}
	var parts []string
	for _, a := range as {
		if a.Destination != j.Destination {
			continue
		}
		if a.Detail != "" {
			parts = append(parts, a.Detail)
		}
		for _, h := range a.Hosts {
			if rules.JudgeHost(demand, h) != "" {
				parts = append(parts, hostCause(h))
			}
		}
		break
	}
	text := strings.Join(parts, "; ")
	if len(text) > maxCause {
		text = strings.ToValidUTF8(text[:maxCause], "") + "…"
	}
	return text
}

func hostCause(h policy.Host) string {
	name := h.Name.String()
	switch {
	case h.Detail != "":
		return name + ": " + h.Detail
	case h.Problem != "":
		return name + ": " + string(h.Problem)
	case len(h.Observations) == 0:
		return name + ": not looked at yet"
	}
	o := h.Observations[len(h.Observations)-1]
	text := name + ": " + string(o.Outcome)
	if o.Outcome == policy.SawTLS {
		text = fmt.Sprintf("%s: TLS %s with %d bits", name, o.Version, o.Bits)
	}
	if o.Detail != "" {
		text += ": " + o.Detail
	}
	return text
}
