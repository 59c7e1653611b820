package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"

	"tlsonly/internal/addr"
	"tlsonly/internal/judge"
	"tlsonly/internal/policy"
)

// news returns a print that is silent about a destination of which there is nothing new since the last time.
func news(print func(checked)) func(checked) {
	last := map[string]string{}
	return func(r checked) {
		if state := r.state(); last[r.Destination] != state {
			last[r.Destination] = state
			print(r)
		}
	}
}

// state is what of an answer is new when it changes: not times, not a host's own words, which have them in them, and not the
// order of hosts and addresses, which resolvers turn round.
func (c checked) state() string {
	if c.Error != "" {
		return c.Error
	}
	a := c.Assessment
	lines := []string{fmt.Sprint(c.Level, c.Reason, a.Problem, a.Secure,
		a.MTASTS.Mode, a.MTASTS.ID, a.MTASTS.MX, a.MTASTS.Problem != "")}
	for _, h := range a.Hosts {
		lines = append(lines, fmt.Sprint(h.Name, h.Preference, h.Problem, h.Alias, h.Secure, h.DANE))
		for _, r := range h.TLSA {
			lines = append(lines, fmt.Sprint(h.Name, r))
		}
		for _, o := range h.Observations {
			line := fmt.Sprint(h.Name, o.Address, o.Outcome, o.Stage, o.Version, o.Cipher, o.Exchange, o.Accepts,
				o.Trust, o.DANE, o.DANERecord)
			for _, cert := range o.Chain {
				line += " " + cert.Fingerprint
			}
			lines = append(lines, line)
		}
	}
	slices.Sort(lines[1:])
	return strings.Join(lines, "\n")
}

// page writes answers for people.
type page struct {
	w      io.Writer
	colour bool
	now    time.Time // for days left
	blind  bool      // nothing is to be seen of DNSSEC
}

// width is where long values are continued on the next line, keyed where they begin.
const (
	width = 110
	keyed = 19
)

// row writes one thing that is known, cleaned of what could be no text for a terminal.
func (p page) row(indent int, key, format string, args ...any) {
	p.hued(indent, key, "", format, args...)
}

// hued is row in a colour.
func (p page) hued(indent int, key, hue, format string, args ...any) {
	at := fmt.Sprintf("%*s%-*s ", indent, "", keyed-1-indent, key)
	for i, line := range wrap(clean(fmt.Sprintf(format, args...)), width-keyed) {
		if i > 0 {
			at = strings.Repeat(" ", keyed)
		}
		if hue != "" {
			line = paint(p.colour, hue, line)
		}
		fmt.Fprintf(p.w, "%s%s\n", at, line)
	}
}

// wrap breaks text at spaces.
func wrap(text string, width int) []string {
	var lines []string
	for len(text) > width {
		at := strings.LastIndexByte(text[:width+1], ' ')
		if at <= 0 {
			if at = strings.IndexByte(text, ' '); at < 0 {
				break
			}
		}
		lines, text = append(lines, text[:at]), text[at+1:]
	}
	return append(lines, text)
}

// clean puts ? where a character could do something else than be seen.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// readable is a name as DNS has it, with what people call it.
func readable(d addr.Domain) string {
	if u := d.Unicode(); u != d.String() {
		return fmt.Sprintf("%s (%s)", d, clean(u))
	}
	return d.String()
}

// print shows the answer to people.
func (c checked) print(p page) {
	if c.Error != "" {
		fmt.Fprintf(p.w, "%s: %s\n", clean(c.Destination), paint(p.colour, red, clean(c.Error)))
		return
	}
	a := c.Assessment
	p.blind = c.Resolver != ""
	fmt.Fprintf(p.w, "%s: %s\n", c.Destination, c.verdict(p.colour))
	if u := a.Destination.Host().Unicode(); u != a.Destination.Host().String() {
		p.row(2, "in letters", "%s", u)
	}
	if a.Detail != "" {
		p.row(2, "problem", "%s", a.Detail)
	}
	if !a.Alias.IsZero() {
		p.row(2, "alias of", "%s", readable(a.Alias))
	}
	if !a.Destination.Direct() && a.Problem == "" {
		none := ""
		if len(a.Hosts) > 0 && a.Hosts[0].Implicit {
			none = "none, "
		}
		p.row(2, "MX records", "%s%s", none, p.signed(a.Secure))
		p.row(2, "MTA-STS", "%s", stsLine(a.MTASTS))
	}
	for i, h := range a.Hosts {
		p.host(*a, h, c.Hosts[i])
	}
	p.advice(c)
	if c.Recipient != "" {
		p.row(2, "for", "%s", c.Recipient)
	}
	for _, m := range c.Methods {
		switch m.State {
		case "certain":
			p.row(4, m.Method, "%s, %s, %s", m.Algorithm, m.Fingerprint, m.Source)
		default:
			p.row(4, m.Method, "%s: %s", m.State, m.Cause)
		}
	}
}

// unknownLevel is said where nothing is known and nothing is asked.
const unknownLevel = "not known"

// verdict is what an answer comes to.
func (c checked) verdict(colour bool) string {
	switch {
	case c.Satisfied && c.Level == "":
		return fmt.Sprintf("%s (asked %s)", paint(colour, yellow, unknownLevel), c.Demanded)
	case c.Satisfied:
		return paint(colour, green, string(c.Level))
	}
	hue := red
	if c.Reason.Unknown() {
		hue = yellow
	}
	reached := ""
	if level := c.Instead(); level != "" {
		reached = ", reached " + string(level)
	}
	return fmt.Sprintf("%s (asked %s%s)", paint(colour, hue, string(c.Reason)), c.Demanded, reached)
}

// host shows one mail host.
func (p page) host(a policy.Assessment, h policy.Host, far judge.HostReport) {
	what := fmt.Sprintf("MX %d", h.Preference)
	switch {
	case a.Destination.Direct():
		what = "host"
	case h.Implicit:
		what = "no MX, the domain itself"
	}
	reached, hue := string(far.Level), green
	switch {
	case far.Reason.Unknown():
		reached, hue = string(far.Reason), yellow
	case far.Reason != "":
		reached, hue = string(far.Reason), red
	case far.Level == "":
		reached, hue = unknownLevel, yellow
	}
	fmt.Fprintf(p.w, "  %s %s: %s\n", what, readable(h.Name), paint(p.colour, hue, reached))
	if !h.Alias.IsZero() {
		forbidden := ""
		if !a.Destination.Direct() && !h.Implicit {
			forbidden = ", which a mail host should not be (RFC 5321, section 5.1)"
		}
		p.row(4, "alias of", "%s%s", readable(h.Alias), forbidden)
	}
	if h.Detail != "" {
		p.row(4, "problem", "%s", h.Detail)
	}
	if h.Problem == "" && !h.Name.IsLiteral() {
		p.row(4, "addresses", "%s", p.signed(h.Secure))
	}
	switch {
	case far.MTASTS == nil:
	case *far.MTASTS:
		p.row(4, "MTA-STS", "matches the policy")
	default:
		p.row(4, "MTA-STS", "does not match the policy: %s", far.STSDetail)
	}
	for _, r := range h.TLSA {
		matched := ""
		if judge.Matched(h, r) {
			matched = "  matched"
		}
		p.row(4, "TLSA", "%s%s", r, matched)
	}
	if h.DANEDetail != "" {
		p.row(4, "TLSA", "%s", h.DANEDetail)
	}
	for _, o := range h.Observations {
		fmt.Fprintf(p.w, "    %s\n", o.Address)
		p.observation(o)
		p.remark("DANE", judge.RemarkDANE(a, h, o))
	}
}

// advice shows what is missing, each text once for all hosts that it is about.
func (p page) advice(c checked) {
	var last judge.Advice
	ways := 0
	for i, m := range c.Missing {
		if i == 0 || m.Level != last.Level || m.Mechanism != last.Mechanism {
			if m.Level != last.Level {
				ways = 0
			}
			ways++
			fmt.Fprintf(p.w, "  %s:\n", heading(c.Report, m, ways > 1))
		}
		last = m
		alike := func(o judge.Advice) bool { return o.Level == m.Level && o.Mechanism == m.Mechanism && o.Text == m.Text }
		if slices.ContainsFunc(c.Missing[:i], alike) {
			continue
		}
		var whose []string
		for _, o := range c.Missing {
			if !alike(o) || o.Host.IsZero() {
				continue
			}
			name := o.Host.String()
			if o.Address.IsValid() {
				name += " at " + o.Address.String()
			}
			whose = append(whose, name)
		}
		text := m.Text
		if len(whose) > 0 {
			text = some(whose, 4) + ": " + text
		}
		fmt.Fprintf(p.w, "    %s\n", clean(text))
	}
}

// heading says what advice is for.
func heading(r judge.Report, m judge.Advice, or bool) string {
	text := "for level " + string(m.Level)
	if r.AtEveryHost(m) {
		text += " at every host"
	}
	switch {
	case m.Mechanism == "" || m.Level == policy.LevelDane:
		return text
	case or:
		text = "or"
	}
	return text + ", by " + map[string]string{judge.ByDANE: "DANE", judge.BySTS: "MTA-STS", judge.ByCertificate: "its certificate"}[m.Mechanism]
}

// some lists the first few.
func some(all []string, n int) string {
	if len(all) <= n {
		return strings.Join(all, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(all[:n], ", "), len(all)-n)
}

// observation shows what one address said, step by step.
func (p page) observation(o policy.Observation) {
	row := func(key, format string, args ...any) { p.row(6, key, format, args...) }
	if o.Banner != "" {
		row("banner", "%s", o.Banner)
	}
	if len(o.Extensions) > 0 {
		row("EHLO", "%s", strings.Join(o.Extensions, ", "))
	}
	key := "STARTTLS"
	tls := judge.RemarkTLS(o)
	if tls.Grade == judge.Doubtful {
		key = stageName(o.Stage)
	}
	p.remark(key, tls)
	if len(o.Accepts) > 0 {
		row("accepts", "TLS %s", list(o.Accepts))
	}
	if len(o.AcceptsUnknown) > 0 {
		row("accepts", "not known of TLS %s", list(o.AcceptsUnknown))
	}
	for i, c := range o.Chain {
		key, by := "", ", by "+orNone(c.Issuer)
		if i == 0 {
			key = "certificate"
		}
		if c.Issuer != "" && c.Issuer == c.Subject {
			by = ", by itself"
		}
		left := ""
		if !c.NotAfter.IsZero() {
			left = fmt.Sprintf(", until %s (%s)", c.NotAfter.Format(time.DateOnly), daysLeft(c.NotAfter, p.now))
		}
		row(key, "%s%s%s, %s", judge.Subject(c), by, left, orNone(c.Key))
	}
	p.remark("authorities", judge.RemarkTrust(o))
}

// remark shows what is said of an address, in the colour of its grade.
func (p page) remark(key string, r judge.Remark) {
	hues := map[judge.Grade]string{judge.Good: green, judge.Doubtful: yellow, judge.Bad: red}
	if r.Text != "" {
		p.hued(6, key, hues[r.Grade], "%s", r.Text)
	}
}

// stageName is where a dialogue ended, in the words of the steps that went well.
func stageName(s policy.Stage) string {
	switch s {
	case policy.StageEHLO, policy.StageSTARTTLS:
		return strings.ToUpper(string(s))
	case policy.StageHandshake:
		return "TLS"
	}
	return string(s)
}

func list(versions []policy.Version) string {
	var all []string
	for _, v := range versions {
		all = append(all, v.String())
	}
	return strings.Join(all, ", ")
}

// daysLeft says how long a certificate is valid still.
func daysLeft(end, now time.Time) string {
	const day = 24 * time.Hour
	left := end.Sub(now)
	switch {
	case left < -day:
		return "expired for " + plural(int(-left/day), "day")
	case left < 0:
		return "expired less than a day ago"
	case left < day:
		return "less than a day left"
	}
	return plural(int(left/day), "day") + " left"
}

func (p page) signed(secure bool) string {
	switch {
	case secure:
		return "signed by DNSSEC"
	case p.blind:
		return "not known from here whether signed by DNSSEC"
	}
	return "not signed by DNSSEC"
}

func stsLine(s policy.STS) string {
	text := "none"
	if s.Mode != "" {
		text = fmt.Sprintf("%s, id %s, until %s", s.Mode, s.ID, s.Until.Format(time.DateOnly))
		if len(s.MX) > 0 {
			text += ", mx " + strings.Join(s.MX, " ")
		}
	}
	switch {
	case s.Problem != "" && s.Mode == "":
		return "not known: " + s.Problem
	case s.Problem != "":
		return text + "; from memory, for now: " + s.Problem
	}
	return text
}

func orNone(s string) string {
	if s == "" {
		return "nobody named"
	}
	return s
}
