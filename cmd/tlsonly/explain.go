package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/config"
	"tlsonly/internal/forward"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
	"tlsonly/internal/web"
	"tlsonly/milter"
	"tlsonly/rules"
)

// explanation is the answer of explain --json.
type explanation struct {
	From         addr.Address        `json:"from"`
	User         string              `json:"user,omitempty"`
	To           addr.Address        `json:"to"`
	Senders      []addr.Address      `json:"senders,omitempty"` // whose mail it is, where that isn't From
	Rule         string              `json:"rule,omitempty"`
	RuleReason   string              `json:"rule_reason,omitempty"`
	Level        policy.Level        `json:"level,omitempty"`
	Mode         policy.Mode         `json:"mode,omitempty"`
	Destinations []addr.Destination  `json:"destinations,omitempty"`
	Forwards     []forward.Leaf      `json:"forwards,omitempty"`
	Unread       []forward.Leaf      `json:"unread,omitempty"` // what can't be read, and is held at delivery
	Local        bool                `json:"local"`            // none of it leaves, as far as can be read
	Verdict      policy.Verdict      `json:"verdict"`
	Would        policy.Verdict      `json:"would,omitempty"`
	Reason       policy.Reason       `json:"reason,omitempty"`
	Underlying   policy.Reason       `json:"underlying,omitempty"` // what a forward's reason is
	Method       policy.Method       `json:"method,omitempty"`     // what encrypts if TLS is missing at delivery
	Cause        string              `json:"cause,omitempty"`
	Reply        string              `json:"reply,omitempty"`
	Assessments  []policy.Assessment `json:"assessments,omitempty"`
	Trace        policy.Trace        `json:"trace"`
	// By is who has decided: the running daemon, or with which user's rights it was looked.
	By     string      `json:"by"`
	Config *configFile `json:"config,omitempty"` // of the running daemon
}

func (e explanation) goesBy() *configFile { return e.Config }

func (p *program) explain(ctx context.Context, args []string) int {
	fs := flag.NewFlagSet("explain", flag.ContinueOnError)
	file := configFlag(fs)
	delivery := fs.String("delivery", "", "show how the MTA is answered at delivery to `DESTINATION`: a domain or [host]:port")
	from := fs.String("from", "", "envelope sender `ADDRESS`, \"<>\" for the null sender")
	to := fs.String("to", "", "recipient `ADDRESS`")
	user := fs.String("user", "", "SASL `LOGIN` of the client")
	asJSON := fs.Bool("json", false, "answer in JSON")
	rest, code, ok := p.parse(fs, args)
	if !ok {
		return code
	}
	if *delivery != "" {
		if len(rest) > 0 || *user != "" {
			return p.fail("explain --delivery takes --from and --to, but no --user and no arguments")
		}
		return p.explainDelivery(ctx, *file, *delivery, *from, *to, *asJSON)
	}
	if len(rest) > 0 || *to == "" || *from == "" && *user == "" {
		return p.fail("explain needs --from A (or --user U) and --to B, or --delivery D, and takes no arguments")
	}
	sender, recipient, code, ok := p.envelope(*from, *to)
	if !ok {
		return code
	}
	c, ok := p.load(*file, false)
	if !ok {
		return exitUsage
	}
	asked := map[string]string{"from": sender.String(), "to": recipient.String(), "user": *user}
	if *user == "" {
		asked["from"] = path(sender)
	}
	e, why, ok := askDaemon[explanation](ctx, c, *file, asked)
	if ok {
		return p.tell(e, *asJSON)
	}
	if why != "" {
		fmt.Fprintf(p.stderr, "tlsonly: the running daemon can't be asked: %s\n", oneLine(why))
	}
	if code, done := p.asDaemon(ctx, c, *file, append([]string{"explain"}, args...)...); done {
		return code
	}
	assessor, err := newEngine(c, slog.New(slog.DiscardHandler), nil, nil)
	if err != nil {
		return p.fail("%v", err)
	}
	defer assessor.Close()
	pins, err := readPins(ctx, c)
	if err != nil {
		return p.notOpened(err)
	}

	decider := newDecider(c, assessor, pins)
	decider.Dry = true
	methods, stop, err := methodsBeside(ctx, c)
	if err != nil {
		return p.notOpened(err)
	}
	defer stop()
	if len(methods) > 0 {
		decider.Protect = methods
	}
	forwards, err := newForwards(ctx, c, slog.New(slog.DiscardHandler))
	if err != nil {
		return p.fail("%v", err)
	}
	bound, err := p.delivery(ctx, c, false)
	if err != nil {
		return p.notOpened(err)
	}
	decider.Forwards = forwards
	decider.EnforcedAtDelivery = enforcedAtDelivery(c, func() *rules.Delivery { return bound })
	senders, err := newSenders(ctx, c, slog.New(slog.DiscardHandler))
	if err != nil {
		return p.fail("%v", err)
	}
	e = explained(ctx, decider, bound, append([]addr.Address{sender}, senders.Written(sender)...), recipient, *user)
	e.By = answeredBy()
	return p.tell(e, *asJSON)
}

// tell prints an explanation and returns the exit status.
func (p *program) tell(e explanation, asJSON bool) int {
	if asJSON {
		_ = p.answer(e)
	} else {
		e.print(p.stdout)
	}
	switch {
	case e.Verdict == policy.Accept, e.Verdict == policy.Fallback:
		return exitOK
	case e.Reason.Unknown(), e.Underlying.Unknown(), e.Reason.Ours():
		return exitUnknown
	}
	return exitNo
}

// explained decides as the daemon would, where the MTA doesn't say the route.
// The sender is given in each form that it can have.
func explained(ctx context.Context, decider milter.Decider, rs *rules.Delivery, from []addr.Address, to addr.Address, user string) explanation {
	now := time.Now()
	var whose []addr.Address
	var wrapped error
	for _, a := range from {
		inside, err := rs.Forms(now).Senders(a)
		whose, wrapped = append(whose, inside...), errors.Join(wrapped, err)
	}
	if wrapped != nil {
		return explanation{From: from[0], User: user, To: to, Verdict: policy.Reject,
			Cause: wrapped.Error(), Reply: "501 5.1.7 Bad sender address"}
	}
	decider.Gateway = func(milter.Route) bool { return true } // no MTA says by which transport
	decision := decider.Decide(ctx, rs.Doubt(rs.Under(rs.Set().SenderOf(from[0], whose, user, now)), whose), to, milter.Route{})
	e := explanation{
		From: from[0], User: user, To: to,
		Senders:      inside(from, whose),
		Destinations: decision.Destinations,
		Verdict:      policy.Accept,
		Trace:        decision.Trace(),
	}
	if r := decision.Rule; r != nil {
		e.Rule, e.RuleReason, e.Level, e.Mode = r.Name, r.Why, r.Level, r.Mode
		e.Forwards, e.Unread = decision.Forwards, decision.Unread
		e.Local = len(decision.Destinations)+len(decision.Forwards) == 0 && decision.Reason == ""
		e.Method = decision.Method
		e.Verdict, e.Reason, e.Cause = decision.Verdict, decision.Reason, decision.Cause
		e.Assessments = decision.Assessments
		if decision.Underlying != decision.Reason {
			e.Underlying = decision.Underlying
		}
		if decision.Would != decision.Verdict {
			e.Would = decision.Would
		}
		if decision.Reply.Code != 0 {
			e.Reply = decision.Reply.String()
		}
	}
	return e
}

// inside returns whose mail it is where the sender as it stands doesn't say so.
func inside(from, whose []addr.Address) []addr.Address {
	var found []addr.Address
	for _, a := range whose {
		if !slices.Contains(from, a) && !slices.Contains(found, a) {
			found = append(found, a)
		}
	}
	return found
}

// pins is the store as explain sees it: pins count, and nothing is promised to anybody.
type pins map[addr.Destination]bool

// readPins reads the store's pins; a store that isn't there yet has none.
func readPins(ctx context.Context, c *config.Config) (pins, error) {
	s, err := openStore(ctx, c)
	if errors.Is(err, fs.ErrNotExist) {
		return pins{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer s.Close()
	found := pins{}
	err = s.List(ctx, store.Filter{Pinned: true}, func(e store.Entry) error {
		found[e.Destination] = true
		return nil
	})
	return found, err
}

func (p pins) Pinned(d addr.Destination) bool { return p[d] }

func (pins) Owe(context.Context, addr.Destination, string, policy.Demand, bool) error { return nil }

// facts are the explanation in words, without the steps.
func (e explanation) facts() []web.Fact {
	var all []web.Fact
	line := func(name, format string, args ...any) {
		all = append(all, web.Fact{Name: name, Text: oneLine(fmt.Sprintf(format, args...))})
	}
	line("decided by", "%s", e.By)
	line("from", "%s", e.From)
	for _, a := range e.Senders {
		line("sender", "%s", a)
	}
	if e.User != "" {
		line("user", "%s", e.User)
	}
	line("to", "%s", e.To)
	if e.Rule == "" && e.Reply != "" {
		line("verdict", "%s", e.Verdict)
		line("cause", "%s", e.Cause)
		line("reply", "%s", e.Reply)
		return all
	}
	if e.Rule == "" {
		line("rule", "none: no TLS is required")
		line("verdict", "%s", e.Verdict)
		return all
	}
	line("rule", "%s (tls = %q, mode = %q)", e.Rule, e.Level, e.Mode)
	if e.RuleReason != "" {
		line("because", "%s", e.RuleReason)
	}
	switch {
	case e.Local && len(e.Unread) > 0:
		line("delivered", "here, as far as the daemon can read")
	case e.Local:
		line("delivered", "here: the mail does not leave")
	}
	for _, f := range e.Unread {
		line("not read", "%s: mail that it sends on is bound at delivery (%s)", f.Unread, f.Detail)
	}
	for _, d := range e.Destinations {
		line("destination", "%s", d)
	}
	for _, f := range e.Forwards {
		by := ""
		for _, step := range f.Path {
			by += fmt.Sprintf("%s (%s) -> ", step.From, step.Origin)
		}
		if f.Kind == forward.Unknown {
			line("forward", "%snot known: %s", by, f.Detail)
		} else {
			line("forward", "%s%s", by, f.Address)
		}
	}
	verdict := string(e.Verdict)
	if e.Would != "" {
		verdict += fmt.Sprintf(" (only observed: the rule would %s)", e.Would)
	}
	line("verdict", "%s", verdict)
	if e.Reason != "" {
		line("reason", "%s", e.Reason)
	}
	if e.Method != "" {
		line("method", "%s encrypts the message, unless TLS is there at delivery", e.Method)
	}
	if e.Underlying != "" {
		line("underlying", "%s", e.Underlying)
	}
	if e.Cause != "" {
		line("cause", "%s", strings.ReplaceAll(e.Cause, "\n", "; "))
	}
	if e.Reply != "" {
		line("reply", "%s", e.Reply)
	}
	return all
}

// shown is the explanation as the status page has it.
func (e explanation) shown() web.Explanation {
	return web.Explanation{Answer: e, Parts: []web.Part{{Facts: e.facts(), Steps: inOneLine(e.Trace)}}}
}

func (e explanation) print(w io.Writer) {
	for _, f := range e.facts() {
		fmt.Fprintf(w, "%-12s %s\n", f.Name, f.Text)
	}
	if e.Trace == nil {
		return // the sender has no address that could be judged
	}
	fmt.Fprintln(w, "\nsteps")
	printSteps(w, e.Trace)
}

// printSteps prints how an answer came about. Nothing was promised by asking.
func printSteps(w io.Writer, t policy.Trace) {
	for _, step := range inOneLine(t) {
		fmt.Fprintf(w, "  %-10s %s\n", step.Stage, step.Text)
	}
}

// inOneLine has each step in a line.
func inOneLine(t policy.Trace) policy.Trace {
	var all policy.Trace
	for _, step := range t {
		all = append(all, policy.Step{Stage: step.Stage, Text: oneLine(step.Text)})
	}
	return all
}
