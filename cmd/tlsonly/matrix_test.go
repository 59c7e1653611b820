package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"

	"tlsonly/internal/addr"
	"tlsonly/internal/config"
	"tlsonly/internal/judge"
	"tlsonly/internal/policy"
	"tlsonly/internal/testnet"
	"tlsonly/internal/testnet/rig"
)

// A matrixCase is one destination, to which mail is sent under each level that enforces.
type matrixCase struct {
	name  string
	hosts []mailHost // in MX order
	want  policy.Level
	more  destinationOf
	// differs says for a level why Postfix, told what we tell it, delivers where we would not, or doesn't where we would.
	differs differs
}

type differs map[policy.Level]string

// destinationOf is what is particular about a case's destination.
type destinationOf struct {
	label    string // of its zone; "": made from its number
	at       string // its name below its zone, an alias of that zone's name
	wild     bool   // it is below its zone, by a wildcard
	direct   bool   // it is the first host, in brackets
	unsigned bool
	nsec3    bool
	records  string   // in place of MX records
	sts      string   // the mx patterns of its MTA-STS policy, "@" being its zone
	testing  bool     // mode of the policy
	noPolicy bool     // its policy is not to be had
	match    string   // key match of the rule
	fault    dnsFault // of one answer
}

// verdict is what came of one message.
type verdict struct {
	taken  bool
	by     string // the address of the host that took it
	detail string
}

// matrixLine is a case with what both say of it.
type matrixLine struct {
	matrixCase
	destination addr.Destination
	mail        string // the domain of its recipients
	known       policy.Assessment
	bound       map[policy.Level]policy.TLSPolicy
	postfix     map[policy.Level]verdict
}

func matrixLevels() []policy.Level {
	return []policy.Level{policy.LevelEncrypt, policy.LevelSecure, policy.LevelDane}
}

func (c matrixCase) demand(l policy.Level) policy.Demand {
	d := policy.DefaultDemand()
	d.Level = l
	if c.more.match != "" {
		d.Match = []addr.Domain{addr.MustDomain(c.more.match)}
	}
	return d
}

// TestMTAMatrix holds what we say of destinations, good and bad, against what a real Postfix does with a message for them,
// told by a static table what our binding would tell it.
func TestMTAMatrix(t *testing.T) {
	long(t)
	isolated(t)
	w := newMatrixWorld(t)
	var lines []*matrixLine
	for i, c := range matrixCases() {
		lines = append(lines, w.place(i, c))
	}
	w.serve()
	for _, l := range lines {
		if f := l.more.fault; f.fault != "" {
			w.signed.SetFault(strings.ReplaceAll(f.name, "@", l.mail), f.qtype, f.fault)
		}
	}
	w.assess(lines)
	t.Run("Postfix", func(t *testing.T) { w.compare(t, lines, "") })
	t.Run("Postfix 3.10", func(t *testing.T) { w.compare(t, lines, needPostfix310(t)) })
}

// compare has the Postfix of a root directory deliver and judges that.
func (w *matrixWorld) compare(t *testing.T, lines []*matrixLine, root string) {
	outer := w.t
	w.t = t
	defer func() { w.t = outer }()
	for _, l := range lines {
		l.postfix = map[policy.Level]verdict{}
	}
	w.deliver(lines, root)
	judgeMatrix(t, lines)
}

// place makes the destination of case number i and its hosts.
func (w *matrixWorld) place(i int, c matrixCase) *matrixLine {
	w.t.Helper()
	label := c.more.label
	if label == "" {
		label = fmt.Sprintf("c%02d", i+1)
	}
	zone := label + ".example"
	name, hop := zone, ""
	w.zone(zone, c.more.unsigned, c.more.nsec3)
	owner := zone // of the MX records
	if c.more.wild {
		name, owner = "any."+zone, "*."+zone
	}
	if c.more.at != "" {
		name = c.more.at + "." + zone
		w.add(zone, "%s. CNAME %s.", name, zone)
	}
	for n, h := range c.hosts {
		host := w.start(h, n, name, zone)
		if h.in != "-" {
			w.add(zone, "%s. MX %d %s.", owner, 10*(n+1), host)
		}
		if c.more.direct {
			hop = "[" + host + "]"
		}
	}
	w.add(zone, "%s", c.more.records)
	if c.more.sts != "" {
		w.add(zone, "mta-sts.%s. A %s", zone, w.sts.Address().Addr())
		w.add(zone, "_mta-sts.%s. TXT \"v=STSv1; id=1\"", zone)
		mode := "enforce"
		if c.more.testing {
			mode = "testing"
		}
		text := "version: STSv1\nmode: " + mode + "\nmax_age: 86400\n"
		for pattern := range strings.FieldsSeq(c.more.sts) {
			text += "mx: " + strings.ReplaceAll(pattern, "@", zone) + "\n"
		}
		w.sts.SetPolicy(zone, text)
		if c.more.noPolicy {
			w.sts.SetFault(zone, testnet.STSNotFound)
		}
	}
	return &matrixLine{matrixCase: c, destination: addr.MustDestination(cmp.Or(hop, name)), mail: name,
		bound: map[policy.Level]policy.TLSPolicy{}}
}

// assess has our engine look at all destinations.
func (w *matrixWorld) assess(lines []*matrixLine) {
	w.t.Helper()
	c, err := config.Parse("tlsonly.toml", []byte(fmt.Sprintf("[dns]\nresolver = %q\n[probe]\nhelo = \"mta.test\"\ntimeout = \"2m\"\nca_file = %q\n",
		w.unbound.Addr, w.caFile)), time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	// A resolver on a busy machine may be slow to answer what it could, once.
	ctx, left := patient(w.t), lines
	for range 3 {
		left = w.assessOnce(ctx, c, left)
	}
	for _, l := range lines {
		// A question that had no answer is asked again soon.
		unknown := judge.Destination(l.demand(policy.LevelEncrypt), l.known).Unknown()
		if kept := l.known.Until.Sub(l.known.When); unknown && kept > c.Cache.Unknown {
			w.t.Errorf("%s: not known, and kept for %s", l.name, kept)
		}
		for _, level := range matrixLevels() {
			bound, ok := judge.Enforcement(l.demand(level), l.known)
			if !ok { // mail waits, whatever Postfix could do
				bound = policy.TLSPolicy{Level: level, Match: []string{l.destination.Host().String()}}
			}
			l.bound[level] = bound
		}
	}
}

// assessOnce finds out what is known of destinations, a few at a time, and
// returns those for which the resolver had no answer, but those that are to have
// none.
func (w *matrixWorld) assessOnce(ctx context.Context, c *config.Config, lines []*matrixLine) (left []*matrixLine) {
	w.t.Helper()
	engine, err := newEngine(c, slog.New(slog.DiscardHandler), nil, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	defer engine.Close()
	looks := new(errgroup.Group)
	looks.SetLimit(16)
	for _, l := range lines {
		looks.Go(func() error { l.known = engine.Assess(ctx, l.destination, nil); return nil })
	}
	if err := looks.Wait(); err != nil {
		w.t.Fatal(err)
	}
	for _, l := range lines {
		late := l.known.Problem == policy.Timeout ||
			slices.ContainsFunc(l.known.Hosts, func(h policy.Host) bool { return h.Problem == policy.Timeout })
		if late && l.more.fault.fault == "" {
			left = append(left, l)
		}
	}
	return left
}

// deliver sends each destination a message under each level.
func (w *matrixWorld) deliver(lines []*matrixLine, root string) {
	w.t.Helper()
	var master []string
	routes := ""
	for _, level := range matrixLevels() {
		table := ""
		for _, l := range lines {
			table += l.destination.String() + " " + tlsPolicy(l.bound[level]) + " protocols=>=TLSv1.2 ciphers=medium\n"
			routes += fmt.Sprintf("%s@%s m%s:", level, l.mail, level)
			if l.more.direct {
				routes += l.destination.String()
			}
			routes += "\n"
		}
		master = append(master, fmt.Sprintf("m%s unix - - n - 8 smtp -o smtp_tls_security_level=encrypt"+
			" -o smtp_tls_mandatory_protocols=>=TLSv1.2 -o smtp_tls_policy_maps=texthash:%s", level, write(w.dir(), string(level), table)))
	}
	p, err := rig.StartPostfix(patient(w.t), rig.PostfixConfig{Root: root, Master: master, Main: map[string]string{
		"smtp_dns_support_level": "dnssec",
		"smtp_tls_CAfile":        w.caFile,
		"transport_maps":         "texthash:" + write(w.dir(), "routes", routes),
		"minimal_backoff_time":   "1h", // one try is enough
	}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.closes(p.Stop)
	for _, level := range matrixLevels() {
		client := dial(w.t, p.Addr)
		client.expect("MAIL FROM:<"+doctor+">", "250")
		for _, l := range lines {
			client.expect(fmt.Sprintf("RCPT TO:<%s@%s>", level, l.mail), "250")
		}
		client.data("250", "Subject: matrix")
		client.expect("QUIT", "221")
	}
	tried := regexp.MustCompile(`to=<(\w+)@([^>]+)>, relay=(?:none|[^[]*\[([^]]*)\]:25).* status=(\w+) \((.*)\)`)
	byName := map[string]*matrixLine{}
	for _, l := range lines {
		byName[l.mail] = l
	}
	waitFor(w.t, "Postfix to have tried all", func() bool {
		left := len(lines) * len(matrixLevels())
		for _, m := range tried.FindAllStringSubmatch(p.Log(), -1) {
			if l := byName[m[2]]; l != nil { // else it is a bounce
				l.postfix[policy.Level(m[1])] = verdict{m[4] == "sent", m[3], m[5]}
			}
		}
		for _, l := range lines {
			left -= len(l.postfix)
		}
		return left == 0
	})
	for _, h := range w.hosts {
		for _, m := range h.Messages() {
			if !m.TLS || m.Version < uint16(policy.TLS12) {
				w.t.Errorf("%s took %q over TLS %t, version %#x", h.Address(), m.To, m.TLS, m.Version)
			}
		}
	}
}

// tlsPolicy writes a binding as the socketmap does, but for the TLS version and ciphers.
func tlsPolicy(b policy.TLSPolicy) string {
	switch b.Level {
	case policy.LevelSecure:
		return "secure match=" + strings.Join(b.Match, ":") + " servername=hostname"
	case policy.LevelDane:
		return "dane-only"
	}
	return "encrypt"
}

// judgeMatrix compares, and shows it all.
func judgeMatrix(t *testing.T, lines []*matrixLine) {
	t.Helper()
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "case\tlevel\tbound by\tours\tPostfix\t")
	same, different := 0, 0
	for _, l := range lines {
		for _, level := range matrixLevels() {
			demand := l.demand(level)
			reason := judge.Destination(demand, l.known)
			if ours, want := reason == "", level.Rank() <= l.want.Rank(); ours != want {
				t.Errorf("%s, %s: we say %t (%s), want %t\n%+v", l.name, level, ours, reason, want, l.known)
			}
			got, ours := l.postfix[level], "accept"
			if reason != "" {
				ours = string(reason)
			}
			agree := got.taken == (reason == "")
			if i := slices.IndexFunc(l.known.Hosts, func(h policy.Host) bool { return seenAt(h, got.by) }); agree && got.taken {
				// Accepted because of one host, and taken by another that isn't good enough?
				if i < 0 {
					t.Errorf("%s, %s: taken by %s, which is none of %+v", l.name, level, got.by, l.known.Hosts)
				} else if why := judge.Host(demand, l.known, l.known.Hosts[i]); why != "" {
					agree, ours = false, fmt.Sprintf("accept, host %d %s", i+1, why)
				}
			}
			what := "same"
			if agree {
				same++
			} else {
				different++
				what = "DIFFERS: " + l.differs[level]
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", l.name, level, tlsPolicy(l.bound[level]), ours, got, what)
			switch known := l.differs[level]; {
			case agree && known != "":
				t.Errorf("%s, %s: both say the same; no longer %q", l.name, level, known)
			case !agree && known == "":
				t.Errorf("%s, %s: we say %s, Postfix, told %q: %s: %s", l.name, level, ours, tlsPolicy(l.bound[level]), got, got.detail)
			}
		}
	}
	table.Flush()
	t.Logf("%d destinations, %d verdicts the same, %d different:\n%s", len(lines), same, different, text.String())
}

func (v verdict) String() string {
	if v.taken {
		return "sent to " + v.by
	}
	return "not sent"
}

// seenAt reports whether a host has been looked at at an address.
func seenAt(h policy.Host, ip string) bool {
	return slices.ContainsFunc(h.Observations, func(o policy.Observation) bool { return o.Address.Addr().String() == ip })
}
