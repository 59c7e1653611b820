package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"tlsonly/internal/addr"
	"tlsonly/internal/config"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
	"tlsonly/internal/web"
)

// domains answers what the store knows, beside a running daemon.
func (p *program) domains(ctx context.Context, args []string) int {
	fs := flag.NewFlagSet("domains", flag.ContinueOnError)
	file := configFlag(fs)
	asJSON := fs.Bool("json", false, "answer in JSON; list, history: one object a line")
	failing := fs.Bool("failing", false, "list: only destinations whose last assessment failed")
	pinned := fs.Bool("pinned", false, "list: only pinned destinations")
	level := fs.String("level", "", "list: only destinations that reach exactly this `LEVEL`")
	limit := fs.Int("limit", 50, "history: the last `N` changes")
	why := fs.String("why", "", "unpin: the `REASON`, which is kept in the history")
	demand := fs.Bool("demand", false, "unpin: also drop the demand of accepted mail")
	rest, code, ok := p.parse(fs, args)
	if !ok {
		return code
	}
	action := "list"
	if len(rest) > 0 {
		action, rest = rest[0], rest[1:]
	}
	c, ok := p.load(*file, false)
	if !ok {
		return exitUsage
	}
	var d addr.Destination
	var standing store.Demand // of what is to be unpinned
	switch action {
	case "list":
		if len(rest) > 0 {
			return p.fail("domains list takes no arguments; to show one destination: domains show D")
		}
	case "show", "history", "pin", "unpin":
		if len(rest) != 1 {
			return p.fail("domains %s needs one destination", action)
		}
		var err error
		if d, err = addr.ParseDestination(rest[0]); err != nil {
			return p.fail("%v", err)
		}
	default:
		return p.fail("domains %s: want list, show, history, pin or unpin", action)
	}
	if _, err := policy.ParseLevel(*level); *level != "" && err != nil {
		return p.fail("--level: %v", err)
	}
	if *limit < 1 {
		return p.fail("--limit %d: want 1 or more", *limit)
	}

	s, err := openStore(ctx, c)
	if err != nil {
		return p.notOpened(err)
	}
	defer s.Close()
	switch action {
	case "list":
		filter := store.Filter{Failing: *failing, Pinned: *pinned}
		err = p.listDomains(ctx, s, filter, policy.Level(*level), *asJSON)
	case "show":
		err = p.showDomain(ctx, s, d, *asJSON)
	case "history":
		err = p.domainHistory(ctx, s, d, *limit, *asJSON)
	case "pin":
		if _, err = s.Pin(ctx, d, store.ByAdmin); err == nil && !*asJSON {
			fmt.Fprintf(p.stdout, "%s: pinned\n", d)
		}
	case "unpin":
		var e store.Entry
		if e, err = s.Get(ctx, d); err == nil {
			standing = e.Demand
		}
		err = p.unpinDomain(ctx, s, d, *why, *demand, *asJSON)
	}
	switch {
	case errors.Is(err, store.ErrUnknown):
		what := "nothing is known of it"
		switch {
		case action == "unpin" && *demand:
			what = "is not pinned, and nothing is demanded of it"
		case action == "unpin":
			what = "is not pinned" + demandNote(standing)
		}
		fmt.Fprintf(p.stderr, "tlsonly: %s: %s\n", d, what)
		return exitNo
	case err != nil:
		fmt.Fprintf(p.stderr, "tlsonly: %v\n", err)
		return exitUnknown
	}
	return exitOK
}

// openStore opens the daemon's store beside the daemon. A file that isn't there is an error: the daemon makes it, as its
// own user. The error is fs.ErrNotExist then.
func openStore(ctx context.Context, c *config.Config) (*store.Store, error) {
	if path, ok := strings.CutPrefix(c.Store.URL, "sqlite://"); ok {
		if _, err := os.Stat(path); err != nil {
			return nil, fmt.Errorf("store: %w", err)
		}
	}
	return store.Open(ctx, store.Config{URL: c.Store.URL})
}

func (p *program) listDomains(ctx context.Context, s *store.Store, filter store.Filter, level policy.Level, asJSON bool) error {
	enc := json.NewEncoder(p.stdout)
	t := newTable(p.stdout, "DESTINATION", "LEVEL", "PINNED BY", "DEMAND", "ASSESSED", "LAST OK", "FAILED", "NEXT")
	now := time.Now()
	err := s.List(ctx, filter, func(e store.Entry) error {
		k := web.NewDestination(e)
		if level != "" && k.Level != level {
			return nil
		}
		if asJSON {
			return enc.Encode(k)
		}
		pin := "-"
		if k.Pin != nil {
			pin = k.Pin.By
		}
		failed := "-"
		if k.Failures > 0 {
			failed = fmt.Sprint(k.Failures)
		}
		t.row(k.Destination.String(), dash(string(k.Level)), pin, dash(e.Demand.String()), ago(now, k.LastLook), ago(now, k.LastSuccess),
			failed, in(now, k.Next))
		return nil
	})
	if err == nil && !asJSON {
		t.flush()
	}
	return err
}

func (p *program) showDomain(ctx context.Context, s *store.Store, d addr.Destination, asJSON bool) error {
	e, err := s.Get(ctx, d)
	if err != nil {
		return err
	}
	k := web.NewDestination(e)
	if !e.Assessment.When.IsZero() {
		k.Assessment = &e.Assessment
	}
	if asJSON {
		return p.answer(k)
	}
	line := func(key, value string) { fmt.Fprintf(p.stdout, "%-14s %s\n", key, value) }
	line("destination", d.String())
	line("level", dash(string(k.Level)))
	if k.Pin != nil {
		line("pinned", fmt.Sprintf("since %s by %s", stamp(k.Pin.Since), k.Pin.By))
	}
	if k.Demand != nil {
		line("demanded", fmt.Sprintf("%s since %s", *k.Demand, stamp(k.Demand.Since)))
	}
	line("assessed", stamp(k.LastLook))
	line("last success", stamp(k.LastSuccess))
	if k.Failures > 0 {
		line("failing", fmt.Sprintf("since %s, %s", stamp(k.FailingSince), plural(k.Failures, "assessment")))
	}
	line("next", stamp(k.Next))
	line("last mail", stamp(k.LastMail))
	if k.Assessment != nil {
		fmt.Fprintln(p.stdout)
		checkedAs(e.Assessment, policy.DefaultDemand(), "").print(page{w: p.stdout, colour: terminal(p.stdout), now: time.Now()})
	}
	return nil
}

// unpinDomain takes off the pin, and with demand what was demanded. Error: store.ErrUnknown when there is neither.
func (p *program) unpinDomain(ctx context.Context, s *store.Store, d addr.Destination, why string, demand, quiet bool) error {
	e, err := s.Get(ctx, d)
	if err != nil {
		return err
	}
	standing := e.Demand
	demand = demand && standing.Level != ""
	var done []string
	if e.Pin != nil || !demand {
		if err := s.Unpin(ctx, d, why); err != nil {
			return err
		}
		text := "not pinned any more"
		if !demand {
			text += demandNote(standing)
		}
		done = append(done, text)
	}
	if demand {
		if err := s.DropDemand(ctx, d, why); err != nil {
			return err
		}
		done = append(done, "nothing is demanded any more")
	}
	if !quiet {
		fmt.Fprintf(p.stdout, "%s: %s\n", d, strings.Join(done, ", "))
	}
	return nil
}

// demandNote says that mail may wait without a pin, too, and what ends that; "" where
// nothing is demanded.
func demandNote(d store.Demand) string {
	if d.Level == "" {
		return ""
	}
	return fmt.Sprintf("; accepted mail still demands %s, so mail waits where that is missing: unpin --demand drops it", d)
}

func (p *program) domainHistory(ctx context.Context, s *store.Store, d addr.Destination, limit int, asJSON bool) error {
	events, err := s.History(ctx, d, limit)
	if err != nil {
		return err
	}
	if asJSON {
		enc := json.NewEncoder(p.stdout)
		for _, e := range events {
			if err := enc.Encode(e); err != nil {
				return err
			}
		}
		return nil
	}
	t := newTable(p.stdout, "WHEN", "WHAT", "FROM", "TO", "WHY", "SEEN BY")
	for _, e := range events {
		t.row(stamp(e.When), string(e.What), dash(e.From), dash(e.To), dash(e.Why), e.Host)
	}
	t.flush()
	return nil
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// ago is a time in the past as people say it.
func ago(now, t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return span(now.Sub(t))
}

// in is a time to come as people say it.
func in(now, t time.Time) string {
	switch {
	case t.IsZero():
		return "-"
	case !t.After(now):
		return "due"
	}
	return span(t.Sub(now))
}

func span(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// table prints aligned columns that fit a terminal: where they don't, the longest cells are cut. What is no terminal
// gets them whole.
type table struct {
	w     io.Writer
	rows  [][]string
	width int // of the terminal, 0 for none
}

func newTable(w io.Writer, head ...string) *table {
	t := &table{w: w, rows: [][]string{head}}
	if f, ok := w.(*os.File); ok && terminal(w) {
		t.width, _, _ = term.GetSize(int(f.Fd())) // 0 on an error: nothing is cut
	}
	return t
}

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) flush() {
	limits := t.limits()
	w := tabwriter.NewWriter(t.w, 0, 0, 2, ' ', 0)
	for _, row := range t.rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = cut(cell, limits[i])
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	w.Flush()
}

// limits is how wide each column may be: the widest ones give until all fit.
func (t *table) limits() []int {
	limits := make([]int, len(t.rows[0]))
	for _, row := range t.rows {
		for i, cell := range row {
			limits[i] = max(limits[i], utf8.RuneCountInString(cell))
		}
	}
	total := 2 * (len(limits) - 1)
	for _, n := range limits {
		total += n
	}
	for ; t.width > 0 && total > t.width; total-- {
		widest := 0
		for i, n := range limits {
			if n > limits[widest] {
				widest = i
			}
		}
		if limits[widest] <= 8 {
			break
		}
		limits[widest]--
	}
	return limits
}

// cut shortens s to n characters.
func cut(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}
