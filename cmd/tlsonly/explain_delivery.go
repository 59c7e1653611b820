package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
	"tlsonly/internal/socketmap"
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

func (e deliveryExplanation) print(w io.Writer) {
	fmt.Fprintf(w, "answered by  %s\ndelivery     %s\n", e.By, e.Delivery)
	if e.From != nil {
		fmt.Fprintf(w, "from         %s\n", path(*e.From))
	}
	for _, one := range e.Answers {
		fmt.Fprintf(w, "\n%s asks the map %q", one.MTA, one.Map)
		if one.When != "" {
			fmt.Fprintf(w, ", for %s", one.When)
		}
		fmt.Fprintf(w, "\n  %-10s %s\n  %-10s %s\n  %-10s %s\n", "key", oneLine(one.Key), "answer", oneLine(one.Answer), "means", oneLine(one.Means))
		for _, step := range one.Trace {
			fmt.Fprintf(w, "  %-10s %s\n", step.Stage, oneLine(step.Text))
		}
	}
}

// explainDelivery is what the daemon says of its own answers.
func (d *service) explainDelivery(
	ctx context.Context, to addr.Destination, from *addr.Address, recipient addr.Address,
) any {
	ctx, cancel := context.WithTimeout(ctx, d.config.Load().Milter.Deadline)
	defer cancel()
	return deliveryExplanation{
		Delivery: to,
		From:     from,
		Answers:  d.maps.Explain(ctx, socketmap.Delivery{To: to, From: from, Recipient: recipient}),
		By:       "the running daemon, " + answeredBy(),
		Config:   d.state.Load(),
	}
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
