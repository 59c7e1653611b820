package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/classes"
	"tlsonly/internal/config"
	"tlsonly/internal/contract"
	"tlsonly/internal/mta/postfix"
	"tlsonly/rules"
)

// classes shows what the numbers of transports stand for, and ends what
// former rules still bind.
func (p *program) classes(ctx context.Context, args []string) int {
	fs := flag.NewFlagSet("classes", flag.ContinueOnError)
	file := configFlag(fs)
	directory := fs.String("config-directory", "", "release: `DIR` with Postfix's configuration; default: $MAIL_CONFIG or the system's")
	force := fs.Bool("force", false, "release: even if mail waits, or no Postfix is here to say whether it does")
	asJSON := fs.Bool("json", false, "list: answer in JSON")
	rest, code, ok := p.parse(fs, args)
	if !ok {
		return code
	}
	action := "list"
	if len(rest) > 0 {
		action, rest = rest[0], rest[1:]
	}
	if action != "list" && action != "release" || len(rest) > 0 {
		return p.fail("classes: want list or release")
	}
	c, ok := p.load(*file, false)
	if !ok {
		return exitUsage
	}
	delivery, err := p.delivery(ctx, c, false)
	switch {
	case err != nil:
	case action == "list":
		return p.listClasses(delivery, *asJSON)
	default:
		err = p.releaseClasses(ctx, c, delivery, postfixAt(c.Forwarding, *directory), *force)
	}
	var refused *refusal
	switch {
	case errors.As(err, &refused):
		fmt.Fprintf(p.stderr, "tlsonly: %v\n", err)
		return exitNo
	case err != nil:
		fmt.Fprintf(p.stderr, "tlsonly: %v\n", err)
		return exitUnknown
	}
	return exitOK
}

// refusal is an error that says no for a reason.
type refusal struct{ why string }

func (r *refusal) Error() string { return r.why }

// classMeaning is one of what a number stands for.
type classMeaning struct {
	Number  int  `json:"number"`
	InForce bool `json:"in_force"`
	// Reserved: its rules only observe, so nobody's mail goes by it yet.
	Reserved bool      `json:"reserved"`
	Until    time.Time `json:"until,omitzero"` // when mail accepted under it is gone
	Senders  []string  `json:"senders"`
	Rules    []string  `json:"rules"`
}

func (p *program) listClasses(d *rules.Delivery, asJSON bool) int {
	now := time.Now()
	found := []classMeaning{}
	for n := 1; n <= d.Highest(); n++ {
		for _, m := range d.Meanings(n, now) {
			one := classMeaning{Number: n, InForce: m.Until.IsZero(),
				Reserved: m.Until.IsZero() && m.Class.Observes(now), Until: m.Until, Senders: []string{}, Rules: []string{}}
			for _, s := range m.Class.Senders() {
				one.Senders = append(one.Senders, s.String())
			}
			for _, r := range m.Class.Rules() {
				one.Rules = append(one.Rules, fmt.Sprintf("%s (%s)", r.Name, r.Level))
			}
			found = append(found, one)
		}
	}
	if asJSON {
		if err := p.answer(found); err != nil {
			return exitUnknown
		}
		return exitOK
	}
	for _, one := range found {
		state := "in force"
		switch {
		case one.Reserved:
			state = "reserved: its rules only observe"
		case !one.InForce:
			state = "binds mail accepted before, until " + one.Until.Local().Format(time.DateTime)
		}
		fmt.Fprintf(p.stdout, "%s  %s  %s; rules %s\n", contract.Transport(one.Number, ""), shortened(one.Senders), state, strings.Join(one.Rules, ", "))
	}
	return exitOK
}

// shortened names the first of many.
func shortened(words []string) string {
	const most = 5
	if n := len(words); n > most {
		words = append(slices.Clone(words[:most]), fmt.Sprintf("and %d more", n-most))
	}
	return strings.Join(words, " ")
}

// releaseClasses has former rules forgotten, unless mail waits that was
// accepted under them.
func (p *program) releaseClasses(ctx context.Context, c *config.Config, d *rules.Delivery, i postfix.Instance, force bool) error {
	s, err := openStore(ctx, c)
	if err != nil {
		return err
	}
	defer s.Close()
	key, _, err := c.Rules.Save()
	if err != nil {
		return err
	}
	kept, err := s.Rulesets(ctx)
	if err != nil {
		return err
	}
	born := time.Time{}
	for _, one := range kept {
		if one.Key == key {
			born = one.Born
		}
	}
	switch {
	case born.IsZero():
		return &refusal{"the daemon has not read this file yet: reload it first"}
	case len(kept) == 1:
		fmt.Fprintln(p.stdout, "no former rules bind anything")
		return nil
	}
	if !force {
		if !i.Installed() {
			return &refusal{"there is no Postfix here, so it is not known whether mail waits: check the MTA's queue, then use --force"}
		}
		waiting, err := waitingUnder(ctx, i, d, born)
		if err != nil {
			return err
		}
		if len(waiting) > 0 {
			return &refusal{fmt.Sprintf("mail that was accepted before the rules changed still waits: %s, such as %s; "+
				"with --force it may leave in the clear", plural(len(waiting), "message"), waiting[0])}
		}
	}
	if err := (classes.Keeper{Store: s, Keep: c.Binding.Keep, Now: time.Now}).Release(ctx, c.Rules); err != nil {
		return err
	}
	fmt.Fprintf(p.stdout, "released: %s\n", plural(len(kept)-1, "former set")+" of rules")
	return nil
}

// waitingUnder lists messages in Postfix's queue that came before a time,
// from senders who have or had a rule.
func waitingUnder(ctx context.Context, i postfix.Instance, d *rules.Delivery, born time.Time) ([]string, error) {
	text, err := i.Queue(ctx)
	if err != nil {
		return nil, err
	}
	var found []string
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var m struct {
			ID      string `json:"queue_id"`
			Arrival int64  `json:"arrival_time"`
			Sender  string `json:"sender"`
		}
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			return nil, fmt.Errorf("postqueue -j: %w", err)
		}
		from, err := addr.ParsePath(m.Sender)
		if m.Sender == "MAILER-DAEMON" {
			from, err = addr.Address{}, nil
		}
		// Its end may have come after the change: a margin for sessions.
		if early := time.Unix(m.Arrival, 0).Before(born.Add(time.Minute)); early && (err != nil || from.IsNull() || d.EnforcesFor(from, time.Now())) {
			found = append(found, m.ID)
		}
	}
	return found, lines.Err()
}
