package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/csv"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"tlsonly/internal/config"
	"tlsonly/internal/maillog"
	"tlsonly/rules"
)

// reportFlags is the command line of report.
type reportFlags struct {
	asJSON, asCSV, summary bool
	html                   string
	journal, tlsLogged     bool
	since, until           time.Time
	year                   int
}

func (p *program) report(ctx context.Context, args []string) int {
	fs := flag.NewFlagSet("report", flag.ContinueOnError)
	file := configFlag(fs)
	var o reportFlags
	fs.BoolVar(&o.asJSON, "json", false, "answer in JSON: one object with the summary and the violations")
	fs.BoolVar(&o.asCSV, "csv", false, "answer in CSV: one line for each delivery, no summary")
	fs.StringVar(&o.html, "html", "", "write a page that you can print to `FILE`; - is standard output")
	fs.BoolVar(&o.summary, "summary", false, "show only the summary, not each delivery")
	fs.BoolVar(&o.journal, "journal", false, "read the systemd journal")
	fs.BoolVar(&o.tlsLogged, "tls-logged", false, "the MTA logged TLS all the time: a delivery without a TLS line was in the clear")
	fs.Func("since", "only deliveries from this `DATE` on: 2026-11-23 or 2026-11-23T17:00", day(&o.since, 0))
	fs.Func("until", "only deliveries up to the end of this `DATE`, or before this time", day(&o.until, 1))
	fs.IntVar(&o.year, "year", 0, "`YEAR` of each log's first line, if lines have none; default: from the file's time")
	rest, code, ok := p.parse(fs, args)
	switch {
	case !ok:
		return code
	case len(rest) == 0 && !o.journal:
		return p.fail("report needs logs: files, - for standard input, or --journal")
	case len(rest) > 0 && o.journal:
		return p.fail("--journal takes no files")
	case o.asJSON && o.asCSV || o.html == "-" && (o.asJSON || o.asCSV):
		return p.fail("--json, --csv and --html - exclude each other")
	case !o.since.IsZero() && !o.until.IsZero() && !o.since.Before(o.until):
		return p.fail("--since is after --until")
	}
	c, ok := p.load(*file, false)
	if !ok {
		return exitUsage
	}

	audit := maillog.NewAudit(c.Rules)
	emit, flush := p.lister(audit, o)
	reader := maillog.New(maillog.Config{
		Wanted: audit.Wanted, Emit: emit, TLSLogged: o.tlsLogged, Year: o.year, Since: o.since, Until: o.until,
	})
	var read []maillog.Stats
	var err error
	if o.journal {
		read, err = readJournal(ctx, reader, o)
	} else {
		read, err = p.readLogs(ctx, reader, rest, o)
	}
	if ctx.Err() != nil {
		return exitUnknown
	}
	if err = errors.Join(err, flush()); err != nil {
		return p.fail("%v", err)
	}
	report := audit.Report(reader, read)
	if err := p.show(report, o); err != nil {
		return p.fail("%v", err)
	}
	if !o.asJSON && !o.asCSV && o.html != "-" {
		p.tellObserving(ctx, c)
	}
	notKnown := report.NotKnown()
	if o.asCSV && notKnown != "" { // deliveries alone are on standard output
		fmt.Fprintf(p.stderr, "not known: %s\n", notKnown)
	}
	switch {
	case report.Deliveries.Violations > 0:
		return exitNo
	case notKnown != "":
		return exitUnknown
	}
	return exitOK
}

// tellObserving says what rules that only observe would have done in the last day.
func (p *program) tellObserving(ctx context.Context, c *config.Config) {
	now := time.Now()
	summary, err := observed(ctx, c, now.AddDate(0, 0, -1), now)
	switch {
	case err != nil && !observes(c.Rules, now):
	case err != nil:
		fmt.Fprintf(p.stdout, "\nobserving: what the rules would have done is not known: %v\n", err)
	case summary.Line() != "":
		fmt.Fprintf(p.stdout, "\nobserving: %s\n", summary.Line())
		for i, d := range summary.Destinations {
			if i == 5 {
				fmt.Fprintln(p.stdout, "  and more: tlsonly observe")
				break
			}
			fmt.Fprintf(p.stdout, "  %d for %s: %s, rule %s\n", d.Times, d.Name(), d.Reason, d.Rule)
		}
	}
}

// observes reports whether any rule only observes.
func observes(set *rules.Set, now time.Time) bool {
	return len(doctorObserving(set, now)) > 0
}

// day reads a date, to which days are added, or a time.
func day(t *time.Time, days int) func(string) error {
	return func(s string) error {
		if d, err := time.ParseInLocation(time.DateOnly, s, time.Local); err == nil {
			*t = d.AddDate(0, 0, days)
			return nil
		}
		for _, layout := range []string{"2006-01-02T15:04", "2006-01-02T15:04:05"} {
			if d, err := time.ParseInLocation(layout, s, time.Local); err == nil {
				*t = d
				return nil
			}
		}
		return errors.New("want 2026-11-23 or 2026-11-23T17:00")
	}
}

func (p *program) readLogs(ctx context.Context, r *maillog.Reader, names []string, o reportFlags) ([]maillog.Stats, error) {
	files, err := maillog.Order(names, p.stdin, time.Local, o.year)
	if err != nil {
		return nil, err
	}
	var all []maillog.Stats
	for _, f := range files {
		stats, err := r.ReadFile(ctx, f)
		if err != nil {
			return nil, err
		}
		all = append(all, stats)
	}
	return all, nil
}

// readJournal runs journalctl for the mail facility, whatever the MTA calls itself.
func readJournal(ctx context.Context, r *maillog.Reader, o reportFlags) ([]maillog.Stats, error) {
	args := []string{"--quiet", "--no-pager", "--output=short-iso"}
	for _, bound := range []struct {
		flag string
		t    time.Time
	}{{"--since", o.since}, {"--until", o.until}} {
		if !bound.t.IsZero() {
			args = append(args, bound.flag+"="+bound.t.Format(time.DateTime))
		}
	}
	cmd := exec.CommandContext(ctx, "journalctl", append(args, "SYSLOG_FACILITY=2")...) // #nosec G204 -- fixed words, and times that we write
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("journalctl: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("journalctl: %w", err)
	}
	stats, err := r.Read(ctx, maillog.Source{Name: "journal", Lines: out, ModTime: time.Now()})
	if err != nil {
		return nil, errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("journalctl: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return []maillog.Stats{stats}, nil
}

// lister returns what takes each delivery, and what ends the list.
func (p *program) lister(audit *maillog.Audit, o reportFlags) (emit func(*maillog.Delivery) error, flush func() error) {
	if o.asCSV {
		w := csv.NewWriter(p.stdout)
		_ = w.Write([]string{"time", "logger", "queue_id", "from", "user", "to", "orig_to", "relay", "outcome", "security",
			"version", "cipher", "bits", "trust", "dsn", "detail", "rule", "violation"})
		return func(d *maillog.Delivery) error {
			if e, ok := audit.Add(d); ok {
				return w.Write(record(e))
			}
			return nil
		}, func() error { w.Flush(); return w.Error() }
	}
	quiet := o.summary || o.asJSON || o.html == "-"
	colour := terminal(p.stdout)
	return func(d *maillog.Delivery) error {
		e, ok := audit.Add(d)
		if ok && !quiet {
			printEntry(p.stdout, e, colour)
		}
		return nil
	}, func() error { return nil }
}

// record is a line of --csv. A spreadsheet must not take what a stranger wrote for a formula.
func record(e maillog.Entry) []string {
	tls := cmp.Or(e.TLS, &maillog.Session{})
	bits := ""
	if tls.Bits > 0 {
		bits = strconv.Itoa(tls.Bits)
	}
	fields := []string{e.Time.Format(time.RFC3339), e.Logger, e.QueueID, e.From, e.User, e.To, e.OrigTo, e.Relay,
		string(e.Outcome), string(e.Security), tls.Version.String(), tls.Cipher, bits, string(tls.Trust), e.DSN, e.Detail, e.Rule, string(e.Violation)}
	for i, f := range fields {
		if f != "" && strings.ContainsRune("=+-@\t\r", rune(f[0])) {
			fields[i] = "'" + f
		}
	}
	return fields
}

// printEntry shows a delivery to people.
func printEntry(w io.Writer, e maillog.Entry, colour bool) {
	what, hue := string(e.Outcome), yellow
	switch {
	case e.Security == maillog.Encrypted:
		what, hue = "TLS", green
		if e.TLS.Version != 0 {
			what += " " + e.TLS.Version.String()
		}
		what = strings.TrimSpace(what + " " + string(e.TLS.Trust))
	case e.Security == maillog.Clear:
		what, hue = "CLEAR", red
	case e.Security == maillog.ByTransport:
		what, hue = "by transport", green
	case e.Security == maillog.Content:
		what, hue = "encrypted message", green
	case e.Security == maillog.Unknown:
		what = "TLS unknown"
	case e.Outcome == maillog.Here:
		hue = green
	}
	if e.Violation != "" {
		hue = red
	}
	if e.Outcome != maillog.Sent && e.Outcome != maillog.Here {
		what = strings.TrimSpace(string(e.Outcome) + " " + e.DSN)
		if e.Security == maillog.Clear {
			what += " CLEAR"
		}
	}
	line := fmt.Sprintf("%s  %-15s  %s  %s -> %s", e.Time.Format(time.DateTime), e.QueueID,
		paint(colour, hue, fmt.Sprintf("%-17s", what)), printable(cmp.Or(e.From, "<>")), printable(e.To))
	if e.Relay != "" && e.Relay != "none" {
		line += "  " + printable(e.Relay)
	}
	switch {
	case e.Outcome == maillog.Deferred, e.Outcome == maillog.Bounced:
		line += "  " + e.Detail
	case e.TLS != nil && e.TLS.Cipher != "":
		line += fmt.Sprintf("  %s %d bits", e.TLS.Cipher, e.TLS.Bits)
	}
	if e.Violation != "" {
		line += "  " + paint(colour, red, fmt.Sprintf("violation of rule %q: %s", e.Rule, e.Violation))
	}
	fmt.Fprintln(w, line)
}

// show prints the report in the form asked for, and writes the page.
func (p *program) show(r *maillog.Report, o reportFlags) error {
	if o.html != "" {
		var page bytes.Buffer
		if err := r.HTML(&page, "Encryption of protected mail", time.Now()); err != nil {
			return err
		}
		if o.html == "-" {
			_, err := p.stdout.Write(page.Bytes())
			return err
		}
		// The page names senders and recipients: it's the administrator's.
		if err := os.WriteFile(o.html, page.Bytes(), 0o600); err != nil {
			return err
		}
	}
	switch {
	case o.asJSON:
		return p.answer(r)
	case !o.asCSV:
		printReport(p.stdout, r, o.summary, terminal(p.stdout))
	}
	return nil
}

// chartWidth is how many characters wide the busiest day's bar is.
const chartWidth = 50

// shownDestinations is how many destinations people are shown.
const shownDestinations = 20

func printReport(w io.Writer, r *maillog.Report, summary, colour bool) {
	if !summary && r.Deliveries.All() > 0 {
		fmt.Fprintln(w)
	}
	sentence, state := r.Verdict()
	fmt.Fprintln(w, paint(colour, map[string]string{"good": green, "open": yellow, "bad": red}[state], sentence))
	if chart := r.Chart(chartWidth); chart != "" {
		fmt.Fprintf(w, "\n%s\n", chart)
	}
	if !r.First.IsZero() {
		fmt.Fprintf(w, "logs from %s to %s\n", r.First.Format(time.DateTime), r.Last.Format(time.DateTime))
	}
	printLines(w, r)
	d := r.Deliveries
	fmt.Fprintf(w, "messages of protected senders: %d\n"+
		"deliveries over TLS: %d, in the clear: %d, by transport: %d, encrypted messages: %d, unknown: %d, on this machine: %d, deferred: %d, bounced: %d\n",
		r.Messages, d.Encrypted, d.Clear, d.ByTransport, d.Content, d.Unknown, d.Here, d.Deferred, d.Bounced)
	if r.Senderless > 0 {
		fmt.Fprintf(w, "deliveries to other hosts whose sender isn't in these logs: %d\n", r.Senderless)
	}
	table := func(title string, rows []maillog.Row, most int) {
		if len(rows) == 0 {
			return
		}
		wide := 30
		for _, row := range rows[:min(len(rows), most)] {
			wide = min(max(wide, len(row.Name)), 64)
		}
		fmt.Fprintf(w, "\n%-*s      TLS    clear  by tr. encrypt.  unknown     here deferred  bounced violations\n", wide, title)
		for _, row := range rows[:min(len(rows), most)] {
			violations := fmt.Sprintf("%10d", row.Violations)
			if row.Violations > 0 {
				violations = paint(colour, red, violations)
			}
			fmt.Fprintf(w, "%-*s %8d %8d %8d %8d %8d %8d %8d %8d %s\n", wide, row.Name, row.Encrypted, row.Clear, row.ByTransport, row.Content, row.Unknown,
				row.Here, row.Deferred, row.Bounced, violations)
		}
		if more := len(rows) - most; more > 0 {
			fmt.Fprintf(w, "and %d more\n", more)
		}
	}
	table("day", r.Days, len(r.Days))
	table("destination", r.Destinations, shownDestinations)
	if len(r.Violations) > 0 && summary {
		fmt.Fprintln(w)
		for _, e := range r.Violations[:min(len(r.Violations), shownDestinations)] {
			printEntry(w, e, colour)
		}
	}
	fmt.Fprintln(w)
	notKnown := r.NotKnown()
	if d.Violations > 0 {
		fmt.Fprintln(w, paint(colour, red, fmt.Sprintf("violations: %d", d.Violations)))
	}
	switch {
	case notKnown != "":
		fmt.Fprintln(w, paint(colour, yellow, "not known: "+notKnown))
	case d.Violations == 0:
		fmt.Fprintln(w, paint(colour, green, "no violation"))
	}
	for _, a := range r.Advice {
		fmt.Fprintln(w, a)
	}
}

// printLines says what was read, and what wasn't understood of it.
func printLines(w io.Writer, r *maillog.Report) {
	l := r.Lines
	fmt.Fprintf(w, "lines read: %d, of Postfix or Sendmail: %d, not understood: %d, of others: %d\n", l.Read, l.Mail, l.Missed, l.Others)
	for _, f := range r.Files {
		switch {
		case f.Unread() && f.Missed == 0:
			fmt.Fprintf(w, "  %s: in no known format\n", printable(f.Name))
		case f.Without() && f.Missed == 0:
			fmt.Fprintf(w, "  %s: no line of Postfix or Sendmail\n", printable(f.Name))
		}
		for _, m := range f.Examples {
			fmt.Fprintf(w, "  %s:%d: %s: %s\n", printable(f.Name), m.Line, m.Why, printable(m.Text))
		}
		if more := f.Missed - int64(len(f.Examples)); len(f.Examples) > 0 && more > 0 {
			fmt.Fprintf(w, "  %s: and %d more\n", printable(f.Name), more)
		}
	}
}
