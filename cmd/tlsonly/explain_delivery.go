package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
	"tlsonly/internal/socketmap"
	"tlsonly/internal/web"
)

// deliveryExplanation is the answer of explain --delivery --json.
type deliveryExplanation struct {
	Delivery addr.Destination `json:"delivery"`
	From     *addr.Address    `json:"from,omitempty"`
	// Answers are what Postfix and Sendmail are told, in the order in which each asks.
	Answers []socketmap.Told `json:"answers"`
	By      string           `json:"by"`
	Config  *configFile      `json:"config,omitempty"` // of the running daemon
}

func (e deliveryExplanation) goesBy() *configFile { return e.Config }

// explainDelivery has the running daemon say what it tells the MTA. Nobody else
// can: what it answers hangs together with what it has in memory.
func (p *program) explainDelivery(ctx context.Context, file, delivery, from, to string, asJSON bool) int {
	asked := map[string]string{"delivery": delivery}
	if _, err := addr.ParseDestination(delivery); err != nil {
		return p.fail("--delivery: %v", err)
	}
	if from != "" {
		a, err := addr.ParsePath(from)
		if err != nil {
			return p.fail("--from: %v", err)
		}
		asked["from"] = path(a)
	}
	if to != "" {
		if _, err := addr.ParsePath(to); err != nil {
			return p.fail("--to: %v", err)
		}
		asked["to"] = to
	}
	c, ok := p.load(file, false)
	if !ok {
		return exitUsage
	}
	e, why, ok := askDaemon[deliveryExplanation](ctx, c, file, asked)
	if !ok {
		if why == "" {
			why = "it doesn't answer at [http] listen"
		}
		fmt.Fprintf(p.stderr, "tlsonly: explain --delivery needs the running daemon: %s\n", oneLine(why))
		return exitUnknown
	}
	if asJSON {
		if err := p.answer(e); err != nil {
			return exitUnknown
		}
		return exitOK
	}
	e.print(p.stdout)
	return exitOK
}

// head are the question, and who answers it.
func (e deliveryExplanation) head() []web.Fact {
	all := []web.Fact{{Name: "answered by", Text: e.By}, {Name: "delivery", Text: e.Delivery.String()}}
	if e.From != nil {
		all = append(all, web.Fact{Name: "from", Text: path(*e.From)})
	}
	return all
}

// parts are the answers in words.
func (e deliveryExplanation) parts() []web.Part {
	var all []web.Part
	for _, one := range e.Answers {
		title := fmt.Sprintf("%s asks the map %q", one.MTA, one.Map)
		if one.When != "" {
			title += ", for " + one.When
		}
		all = append(all, web.Part{Title: title, Steps: inOneLine(one.Trace), Facts: []web.Fact{
			{Name: "key", Text: oneLine(one.Key)},
			{Name: "answer", Text: oneLine(one.Answer)},
			{Name: "means", Text: oneLine(one.Means)},
		}})
	}
	return all
}

// shown is the explanation as the status page has it.
func (e deliveryExplanation) shown() web.Explanation {
	return web.Explanation{Answer: e, Parts: append([]web.Part{{Facts: e.head()}}, e.parts()...)}
}

func (e deliveryExplanation) print(w io.Writer) {
	for _, f := range e.head() {
		fmt.Fprintf(w, "%-12s %s\n", f.Name, f.Text)
	}
	for _, p := range e.parts() {
		fmt.Fprintf(w, "\n%s\n", p.Title)
		for _, f := range p.Facts {
			fmt.Fprintf(w, "  %-10s %s\n", f.Name, f.Text)
		}
		printSteps(w, p.Steps)
	}
}

// explainDelivery is what the daemon says of its own answers.
func (d *service) explainDelivery(
	ctx context.Context, to addr.Destination, from *addr.Address, recipient addr.Address,
) web.Explanation {
	ctx, cancel := context.WithTimeout(ctx, d.config.Load().Milter.Deadline)
	defer cancel()
	return deliveryExplanation{
		Delivery: to,
		From:     from,
		Answers:  d.maps.Explain(ctx, socketmap.Delivery{To: to, From: from, Recipient: recipient}),
		By:       "the running daemon, " + answeredBy(),
		Config:   d.state.Load(),
	}.shown()
}

// promisedSince says since when a destination is pinned and what was demanded of it
// stands.
func (d *service) promisedSince(ctx context.Context, to addr.Destination) (socketmap.History, error) {
	ctx, cancel := context.WithTimeout(ctx, saveTime)
	defer cancel()
	e, err := d.store.Get(ctx, to)
	if err != nil {
		return socketmap.History{}, err
	}
	h := socketmap.History{Demanded: e.Demand.Since}
	if e.Pin != nil {
		h.Pinned, h.PinnedBy = e.Pin.Since, e.Pin.By
	}
	return h, nil
}

// pingTime is how long explain waits for the store to take a row.
const pingTime = 2 * time.Second

// readOnly is the ledger as explain sees it: nothing is promised, but a promise
// that couldn't be stored now is no promise.
type readOnly struct{ *service }

func (r readOnly) Pinned(d addr.Destination) bool { return r.ledger.Pinned(d) }

// Owe reports whether a demand stands, or could be stored.
func (r readOnly) Owe(ctx context.Context, d addr.Destination, _ string, demand policy.Demand, pin bool) error {
	if r.ledger.Stands(d, demand, pin) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, pingTime)
	defer cancel()
	return r.store.Ping(ctx)
}
