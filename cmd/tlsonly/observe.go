package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/config"
	"tlsonly/internal/observe"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
)

// shownObserved is how many destinations observe shows unless it is told to show
// all.
const shownObserved = 20

// observe shows what rules that only observe would have done, and whether they
// can be enforced.
func (p *program) observe(ctx context.Context, args []string) int {
	fs := flag.NewFlagSet("observe", flag.ContinueOnError)
	file := configFlag(fs)
	since := fs.String("since", "7d", "how far back: a `DURATION` (7d, 12h) or a date (2026-11-23)")
	every := fs.Bool("all", false, fmt.Sprintf("show all destinations, not only the first %d", shownObserved))
	asJSON := fs.Bool("json", false, "answer in JSON")
	rest, code, ok := p.parse(fs, args)
	if !ok {
		return code
	}
	if len(rest) > 0 {
		return p.fail("observe takes no arguments")
	}
	now := time.Now()
	from, err := sinceWhen(*since, now)
	if err != nil {
		return p.fail("--since %s: %v", *since, err)
	}
	c, ok := p.load(*file, false)
	if !ok {
		return exitUsage
	}
	summary, err := observed(ctx, c, from, now)
	if err != nil {
		fmt.Fprintf(p.stderr, "tlsonly: %v\n", err)
		return exitUnknown
	}
	if !*every && len(summary.Destinations) > shownObserved {
		summary.Left = len(summary.Destinations) - shownObserved
		summary.Destinations = summary.Destinations[:shownObserved]
	}
	if *asJSON {
		if err := p.answer(summary); err != nil {
			return exitUnknown
		}
	} else {
		printObserved(p.stdout, summary)
	}
	if !summary.Ready {
		return exitNo
	}
	return exitOK
}

// sinceWhen reads how far back.
func sinceWhen(s string, now time.Time) (time.Time, error) {
	var t time.Time
	if day(&t, 0)(s) == nil {
		return t, nil
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 12); err == nil && n > 0 {
			return now.AddDate(0, 0, -int(n)), nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d > 0 {
		return now.Add(-d), nil
	}
	return t, errors.New("want a duration (7d, 12h) or a date (2026-11-23)")
}

// observed sums up what the store has, with what is known of the destinations.
// Before a daemon has ever run there is nothing.
func observed(ctx context.Context, c *config.Config, since, now time.Time) (observe.Summary, error) {
	var rows []store.Observed
	known := map[addr.Destination]policy.Assessment{}
	s, err := openStore(ctx, c)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return observe.Summary{}, err
	default:
		defer s.Close()
		if rows, err = s.ObservedSince(ctx, since); err != nil {
			return observe.Summary{}, err
		}
		for _, o := range rows {
			if _, ok := known[o.Destination]; ok || o.Destination.IsZero() {
				continue
			}
			e, err := s.Get(ctx, o.Destination)
			if err != nil && !errors.Is(err, store.ErrUnknown) {
				return observe.Summary{}, err
			}
			if err == nil && !e.Assessment.When.IsZero() {
				known[o.Destination] = e.Assessment
			}
		}
	}
	return observe.Summarize(c.Rules, rows, since, now, func(d addr.Destination) (policy.Assessment, bool) {
		a, ok := known[d]
		return a, ok
	}), nil
}

func printObserved(w io.Writer, s observe.Summary) {
	const day = "2006-01-02"
	fmt.Fprintf(w, "since %s\n", s.Since.Local().Format("2006-01-02 15:04"))
	for _, r := range s.Rules {
		state := ""
		switch r.State {
		case "gone":
			state = ", no longer in the file"
		case string(policy.Enforce):
			state = ", enforced by now"
		}
		fmt.Fprintf(w, "\nrule %s%s: %s of about %s judged, %s to %s\n", r.Name, state, plural(int(r.Judged), "recipient"),
			plural(r.Senders, "sender"), r.First.Format(day), r.Last.UTC().Format(day))
		for _, c := range r.Reasons {
			would := map[policy.Verdict]string{policy.Accept: "accepted", policy.Fallback: "accepted, and encrypted without TLS", policy.Reject: "refused", policy.Defer: "deferred", policy.Hold: "held"}[c.Verdict]
			reason := ""
			if c.Reason != "" {
				reason = ": " + string(c.Reason)
			}
			fmt.Fprintf(w, "  %7d would have been %s%s\n", c.Times, would, reason)
		}
	}
	for _, d := range s.Destinations {
		fmt.Fprintf(w, "\n%s: %s, rule %s, %s from about %s to about %s, last %s\n", d.Name(), d.Reason, d.Rule,
			plural(int(d.Times), "time"), plural(d.Senders, "sender"), plural(d.Recipients, "recipient"), d.Last.Local().Format(time.DateTime))
		switch d.Now {
		case observe.Satisfied:
			fmt.Fprintln(w, "  satisfies the rule by now")
		case observe.Excepted:
			fmt.Fprintf(w, "  excepted by rule %s by now\n", d.By)
		}
		if len(d.Hosts) > 0 {
			fmt.Fprintf(w, "  mail hosts  %s\n", strings.Join(d.Hosts, " "))
		}
		if d.Postmaster != "" && d.Now == observe.Fails {
			fmt.Fprintf(w, "  write to    %s\n", d.Postmaster)
		}
		for _, text := range d.Advice {
			fmt.Fprintf(w, "  they would  %s\n", clean(text))
		}
	}
	if s.Left > 0 {
		fmt.Fprintf(w, "\nand %s more; --all shows them\n", plural(s.Left, "destination"))
	}
	word := "no"
	if s.Ready {
		word = "yes"
	}
	fmt.Fprintf(w, "\nready to enforce: %s\n", word)
	for _, why := range s.Why {
		fmt.Fprintf(w, "  %s\n", why)
	}
}
