package web

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/inbound"
	"tlsonly/internal/judge"
	"tlsonly/internal/ledger"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
	"tlsonly/rules"
)

// noon is the tests' time.
var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// world is what a Server shows in tests.
type world struct {
	known   map[addr.Destination]Summary
	entries map[addr.Destination]store.Entry
	events  []store.Event
	away    error // the store's
	clock   time.Time
}

func (w *world) Survey(each func(Summary) bool) {
	for _, k := range w.known {
		if !each(k) {
			return
		}
	}
}

func (w *world) Known(d addr.Destination) (policy.Assessment, bool) {
	e, ok := w.entries[d]
	return e.Assessment, ok && !e.Assessment.When.IsZero()
}

func (w *world) Get(_ context.Context, d addr.Destination) (store.Entry, error) {
	if e, ok := w.entries[d]; ok {
		return e, w.away
	}
	return store.Entry{}, cmp.Or(w.away, store.ErrUnknown)
}

func (w *world) Page(_ context.Context, ds []addr.Destination) ([]store.Entry, map[addr.Destination]time.Time, error) {
	if w.away != nil {
		return nil, nil, w.away
	}
	var found []store.Entry
	since := map[addr.Destination]time.Time{}
	for _, d := range ds {
		if e, ok := w.entries[d]; ok {
			found = append(found, e)
		}
	}
	for _, e := range w.events {
		if e.What == store.LevelChanged && slices.Contains(ds, e.Destination) {
			since[e.Destination] = e.When
		}
	}
	return found, since, nil
}

func (w *world) History(_ context.Context, d addr.Destination, limit int) ([]store.Event, error) {
	return w.some(limit, true, func(e store.Event) bool { return e.Destination == d })
}

func (w *world) Events(_ context.Context, since int64, limit int) ([]store.Event, error) {
	return w.some(limit, false, func(e store.Event) bool { return e.ID > since })
}

func (w *world) Latest(_ context.Context, limit int) ([]store.Event, error) {
	return w.some(limit, true, func(store.Event) bool { return true })
}

func (w *world) some(limit int, newest bool, wanted func(store.Event) bool) ([]store.Event, error) {
	var found []store.Event
	for _, e := range w.events {
		if wanted(e) {
			found = append(found, e)
		}
	}
	if newest {
		slices.Reverse(found)
	}
	return found[:min(limit, len(found))], w.away
}

func (w *world) NextDue(context.Context) (time.Time, error) {
	return w.clock.Add(-90 * time.Second), w.away
}
func (w *world) Healthy() error { return w.away }

// add makes a destination known with the assessment a; its level is what a reaches.
func (w *world) add(a policy.Assessment, change func(*store.Entry)) {
	e := store.Entry{Destination: a.Destination, Assessment: a, Port: 25, Next: w.clock.Add(7 * time.Hour), Used: w.clock.Add(-3 * time.Hour)}
	if a.When.IsZero() {
		e.Assessment = policy.Assessment{}
	}
	if judge.Reached(a).Enforces() {
		e.Track.LastSuccess = a.When
	}
	if change != nil {
		change(&e)
	}
	w.entries[e.Destination] = e
	k := Summary{Destination: e.Destination, Demand: e.Demand, Failures: e.Track.Failures, Pinned: e.Pin != nil}
	if k.Failures > 0 {
		switch reason := judge.Destination(policy.Demand{Level: policy.LevelEncrypt}, a); {
		case reason.Permanent():
			k.Fault = ledger.NoMail
		case reason.Unknown():
			k.Fault = ledger.Unreachable
		default:
			k.Fault = ledger.NoTLS
		}
	}
	if !a.When.IsZero() {
		k.Level = judge.Reached(a)
	}
	k.Lost = k.Pinned && k.Level == policy.LevelMay
	w.known[e.Destination] = k
}

func newWorld() *world {
	return &world{known: map[addr.Destination]Summary{}, entries: map[addr.Destination]store.Entry{}, clock: noon}
}

// seen is an assessment of one or two hosts that do what is said.
func seen(name string, when time.Time, outcome policy.Outcome, change func(*policy.Assessment)) policy.Assessment {
	d := addr.MustDestination(name)
	a := policy.Assessment{Destination: d, When: when, Until: when.Add(24 * time.Hour)}
	for i, host := range []string{"mx1." + d.Host().String(), "mx2." + d.Host().String()} {
		if d.Direct() {
			host = strings.Trim(d.Host().String(), "[]")
		}
		if d.Direct() && i > 0 {
			break
		}
		o := policy.Observation{
			Address: netip.MustParseAddrPort(fmt.Sprintf("192.0.2.%d:25", 10+i)), Outcome: outcome, Stage: policy.StageQuit,
			Banner: host + " ESMTP Postfix", Extensions: []string{"PIPELINING", "SIZE 52428800", "STARTTLS", "8BITMIME", "DSN", "SMTPUTF8", "CHUNKING"},
			Took: 184 * time.Millisecond, When: when,
		}
		switch outcome {
		case policy.SawTLS:
			o.Version, o.Cipher, o.Bits, o.Exchange = policy.TLS13, "TLS_AES_256_GCM_SHA384", 256, "X25519MLKEM768"
			o.Chain = []policy.Certificate{
				{Subject: "CN=" + host, Issuer: "CN=R11,O=Let's Encrypt,C=US", Names: []string{host}, NotBefore: when.AddDate(0, -1, 0), NotAfter: when.AddDate(0, 2, 0),
					Key: "ECDSA P-256", Signature: "SHA256-RSA", Fingerprint: strings.Repeat("3f9ac1d20b7e4856", 4)},
				{Subject: "CN=R11,O=Let's Encrypt,C=US", Issuer: "CN=ISRG Root X1", NotAfter: when.AddDate(2, 0, 0), Key: "RSA 2048", Signature: "SHA256-RSA"},
			}
			o.Trust = policy.Trusted
		case policy.SawNoSTARTTLS:
			o.Extensions = []string{"PIPELINING", "SIZE 52428800"}
		default:
			o.Stage, o.Detail, o.Banner, o.Extensions = policy.StageConnect, "connect: connection refused", "", nil
		}
		h := policy.Host{Name: addr.MustDomain(host), Preference: uint16(10 * (i + 1)), Observations: []policy.Observation{o}}
		a.Hosts = append(a.Hosts, h)
	}
	if change != nil {
		change(&a)
	}
	return a
}

// withDANE has the hosts of an assessment authenticated by TLSA records.
func withDANE(a *policy.Assessment) {
	a.Secure = true
	for i := range a.Hosts {
		h := &a.Hosts[i]
		r := policy.TLSA{Usage: 3, Selector: 1, Matching: 1, Data: []byte("0123456789abcdef0123456789abcdef")}
		h.Secure, h.DANE, h.TLSA, h.TLSABase = true, policy.DANEUsable, []policy.TLSA{r}, h.Name
		h.Observations[0].DANE, h.Observations[0].DANERecord = policy.DANEMatchEE, r.String()
	}
}

func withSTS(a *policy.Assessment) {
	a.MTASTS = policy.STS{ID: "20260901T120000", Mode: policy.STSEnforce, MX: []string{"*." + a.Destination.Host().String()}, Fetched: a.When, Until: a.When.AddDate(0, 0, 30)}
}

// populated is a world such as a site has, with every state there is.
func populated() *world {
	w := newWorld()
	pin := func(by string, age int) func(*store.Entry) {
		return func(e *store.Entry) { e.Pin = &store.Pin{Since: noon.AddDate(0, 0, -age), By: by} }
	}
	look := noon.Add(-5 * time.Hour)
	w.add(seen("lab.example", look, policy.SawTLS, withDANE), func(e *store.Entry) {
		pin("rule:clinic", 200)(e)
		e.Demand = store.Demand{Level: policy.LevelEncrypt, MinVersion: policy.TLS12, MinBits: 128, Since: noon.AddDate(0, 0, -200)}
	})
	w.add(seen("insurance.example", look, policy.SawTLS, withSTS), pin("two successes", 90))
	w.add(seen("hospital.example", look.Add(time.Hour), policy.SawTLS, nil), pin("admin", 3))
	w.add(seen("pharmacy.example", noon.Add(-20*time.Minute), policy.SawNoSTARTTLS, nil), func(e *store.Entry) {
		pin("rule:clinic", 41)(e)
		e.Track = store.Track{Failures: 3, FailingSince: noon.Add(-45 * time.Minute), LastSuccess: noon.Add(-25 * time.Hour)}
	})
	w.add(seen("legacy.example", look, policy.SawNoSTARTTLS, nil), func(e *store.Entry) {
		e.Track = store.Track{Failures: 1, FailingSince: look}
	})
	w.add(seen("unreachable.example", look, policy.SawUnreachable, nil), func(e *store.Entry) {
		e.Track = store.Track{Failures: 12, FailingSince: noon.AddDate(0, 0, -2)}
	})
	w.add(seen("[relay.example.net]:587", look, policy.SawTLS, nil), nil)
	w.add(seen("[192.0.2.77]", look, policy.SawTLS, nil), nil)
	w.add(seen("a-very-long-name-of-a-department-of-a-university.faculty-of-medicine.university-hospital.example", look, policy.SawTLS, nil), nil)
	w.add(policy.Assessment{Destination: addr.MustDestination("new.example")}, nil)
	w.add(policy.Assessment{Destination: addr.MustDestination("gone.example"), When: look, Problem: policy.NoSuchDomain, Detail: "NXDOMAIN"}, func(e *store.Entry) {
		e.Track = store.Track{Failures: 5, FailingSince: look}
	})
	w.add(seen("selfsigned.example", look, policy.SawTLS, func(a *policy.Assessment) {
		for i := range a.Hosts {
			o := &a.Hosts[i].Observations[0]
			o.Trust, o.TrustDetail, o.Chain = policy.TrustSelfSigned, "the leaf signed itself", o.Chain[:1]
			o.Chain[0].NotAfter = look.AddDate(0, -3, 0)
		}
	}), nil)
	for i := range 60 {
		name := fmt.Sprintf("customer%03d.example", i)
		how := []func(*policy.Assessment){nil, withSTS, withDANE, nil, nil}[i%5]
		w.add(seen(name, look.Add(time.Duration(i)*time.Minute), policy.SawTLS, how), pin("two successes", 10+i))
	}
	event := func(ago time.Duration, d string, what store.What, from, to, why string) {
		w.events = append(w.events, store.Event{ID: int64(len(w.events) + 1), When: noon.Add(-ago), Destination: addr.MustDestination(d), What: what,
			From: from, To: to, Why: why, Host: "mx1"})
	}
	event(200*24*time.Hour, "lab.example", store.LevelChanged, "", "encrypt", "")
	event(200*24*time.Hour, "lab.example", store.Demanded, "", "encrypt 1.2 128", "")
	event(200*24*time.Hour, "lab.example", store.Pinned, "", "rule:clinic", "")
	event(90*24*time.Hour, "insurance.example", store.MTASTSChanged, "", "enforce 20260901T120000", "")
	event(41*24*time.Hour, "pharmacy.example", store.LevelChanged, "", "encrypt", "")
	event(30*24*time.Hour, "lab.example", store.DANEChanged, "", "mx1.lab.example mx2.lab.example", "")
	event(30*24*time.Hour, "lab.example", store.LevelChanged, "encrypt", "dane", "")
	event(9*24*time.Hour, "hospital.example", store.HostsChanged, "mx.hospital.example", "mx1.hospital.example mx2.hospital.example", "")
	event(3*24*time.Hour, "hospital.example", store.Pinned, "two successes", "admin", "")
	event(26*time.Hour, "legacy.example", store.Unpinned, "two successes", "", "every look since 2026-10-22 failed")
	event(26*time.Hour, "legacy.example", store.LevelChanged, "encrypt", "may", "no-starttls")
	event(8*time.Hour, "forgotten.example", store.Forgotten, "rule:clinic", "", "no mail since 2026-08-25")
	event(7*time.Hour, "legacy.example", store.ForwardFails, "alice@clinic.example", "alice.private@legacy.example", `rule "clinic": no-starttls`)
	event(5*time.Hour, "customer007.example", store.TLSBack, "", "", "")
	event(45*time.Minute, "pharmacy.example", store.LostTLS, "encrypt", "may", "no-starttls")
	return w
}

// ruleSet is a file of four rules.
func ruleSet(t testing.TB) *rules.Set {
	t.Helper()
	pattern := func(s string) addr.Pattern {
		p, err := addr.ParsePattern(s)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	rule := func(name string, line int, level policy.Level, change func(*rules.Rule)) *rules.Rule {
		r := &rules.Rule{Name: name, Line: line, Level: level, MinVersion: policy.TLS12, MinBits: 128, OnFail: policy.ActionReject, OnUnknown: policy.ActionDefer,
			Mode: policy.Enforce, Pin: true, Honor: policy.Honor{DANE: true, MTASTS: true}}
		change(r)
		return r
	}
	return rules.New([]*rules.Rule{
		rule("legacy exception", 20, policy.LevelMay, func(r *rules.Rule) {
			r.From, r.To, r.Until, r.Why = []addr.Pattern{pattern("@clinic.example")}, []addr.Pattern{pattern("@legacy.example")}, noon.AddDate(0, 2, 0), "contract 4711, until their new server"
		}),
		rule("clinic", 30, policy.LevelEncrypt, func(r *rules.Rule) {
			r.From = []addr.Pattern{pattern("@clinic.example"), pattern("billing@example.com")}
		}),
		rule("lab results", 42, policy.LevelSecure, func(r *rules.Rule) {
			r.User, r.Match, r.OnFail = []string{"lis"}, []addr.Domain{addr.MustDomain("mail.provider.example")}, policy.ActionHold
		}),
		rule("trial", 55, policy.LevelEncrypt, func(r *rules.Rule) { r.Mode, r.OnFail = policy.Observe, policy.ActionTag }),
	})
}

// config shows a world as a daemon would.
func (w *world) config(t testing.TB) Config {
	set := ruleSet(t)
	at := noon.Add(-30 * time.Hour)
	m := NewMeter(func() time.Time { return at })
	at = noon.Add(-3 * time.Hour)
	for d, n := range map[Decision]int{
		{"clinic", policy.Accept, "", policy.Enforce}:                         1843,
		{"clinic", policy.Reject, policy.NoSTARTTLS, policy.Enforce}:          37,
		{"clinic", policy.Defer, policy.Timeout, policy.Enforce}:              12,
		{"clinic", policy.Defer, policy.LostTLS, policy.Enforce}:              4,
		{"legacy exception", policy.Accept, "", policy.Enforce}:               61,
		{"lab results", policy.Accept, "", policy.Enforce}:                    240,
		{"lab results", policy.Hold, policy.NotAuthenticated, policy.Enforce}: 21,
		{"trial", policy.Accept, policy.WeakTLS, policy.Observe}:              9,
	} {
		for range n {
			m.Decided(d, 40*time.Microsecond)
		}
	}
	for range 5 {
		m.Admitted(Decision{"insurer", policy.Reject, policy.Reason(inbound.NoTLS), policy.Enforce})
	}
	in := inbound.New([]*inbound.Rule{{Name: "insurer", Line: 70, Level: inbound.Verified, MinVersion: policy.TLS12, MinBits: 128, Cert: []string{"gw.insurer.example"},
		From: []addr.Pattern{addr.MustPattern("@insurer.example")}, OnFail: policy.ActionReject, Mode: policy.Enforce, Why: "contract 4712"}})
	m.Probed(policy.Observation{Outcome: policy.SawTLS, Took: 200 * time.Millisecond})
	m.Assessed(policy.Assessment{Problem: policy.NullMX}, time.Second)
	return Config{
		Version: "1.4.0",
		Survey:  w.Survey, Remembered: w.Known, Store: w, Meter: m,
		Rules:   func() *rules.Set { return set },
		Inbound: func() *inbound.Set { return in },
		Assess: func(_ context.Context, d addr.Destination) policy.Assessment {
			return seen(d.String(), noon, policy.SawTLS, nil)
		},
		Counts: func() Counts {
			return Counts{Fallback: map[string]uint64{"handed": 3, "again": 1}, Keys: []KeyLookups{{"openpgp", "certain", 4}, {"smime", "none", 2}},
				Sessions: 3, Connections: 51, Messages: 2170, Malformed: 1, Panics: map[string]uint64{"milter": 0, "socketmap": 0},
				Socketmap:         []Answers{{"sender", "ok", 512}, {"forced", "ok", 90}, {"forced", "temp", 1}, {"policy", "notfound", 4000}},
				SocketmapSessions: 2, Cached: map[string]int{"destinations": 142, "hosts": 260}, Lookups: map[string]uint64{"memory": 2200, "look": 81, "joined": 7},
				Changes: map[string]int64{"level": 4, "lost-tls": 1}}
		},
		Checks: []Check{
			{"store", func(context.Context) error { return w.away }},
			{"resolver", func(context.Context) error { return nil }},
			{"listeners", func(context.Context) error { return nil }},
			{"memory", func(context.Context) error { return nil }},
		},
		Explain: func(_ context.Context, from, to addr.Address, user string) Explanation {
			return Explanation{
				Answer: map[string]string{"from": from.String(), "to": to.String(), "user": user, "verdict": "accept"},
				Parts: []Part{{Facts: []Fact{{"from", from.String()}, {"to", to.String()}, {"login", user}, {"verdict", "accept"}},
					Steps: policy.Trace{{Stage: "plan", Text: `rule "clinic" (line 30) asks for encrypt, TLS 1.2, mode enforce`},
						{Stage: "observe", Text: to.Domain.String() + ": from memory, probed at 2026-11-23T07:00:00Z, good until 2026-11-24T07:00:00Z; mx1 TLS 1.3"},
						{Stage: "verdict", Text: "accept"}}}},
			}
		},
		ExplainDelivery: func(_ context.Context, to addr.Destination, from *addr.Address, recipient addr.Address) Explanation {
			who := "everybody"
			if from != nil {
				who = from.String()
			}
			told := Part{Title: `postfix asks the map "policy"`, Facts: []Fact{{"key", to.String()}, {"of", who}, {"answer", "OK secure"}},
				Steps: policy.Trace{{Stage: "demand", Text: "by rule clinic"}}}
			other := told
			other.Title = `sendmail asks the map "sendmail"`
			return Explanation{
				Answer: map[string]string{"delivery": to.String(), "from": who, "to": recipient.String()},
				Parts:  []Part{told, other},
			}
		},
		Advice: func(a policy.Assessment) []string {
			if a.Secure {
				return nil
			}
			return []string{"secure by dane: sign the zone of " + a.Destination.Host().String() + " with DNSSEC: its MX answer is not",
				"secure by mta-sts: publish a policy in mode enforce that names the mail hosts (RFC 8461)"}
		},
		Outage: func() string { return "" },
		Binding: func() (Binding, bool) {
			return Binding{MTA: "postfix", Known: true, OK: true, Since: noon.Add(-time.Hour), Checks: map[string]bool{"milter": true, "policy": true}}, true
		},
		LastAsked: func() map[string]time.Time { return map[string]time.Time{"milter": noon.Add(-time.Minute)} },
		Forwards: func() []Forward {
			return []Forward{{Owner: "alice@clinic.example", Leaves: "alice.private@legacy.example", Origin: policy.Origin{Source: "/home/alice/.forward", File: "/home/alice/.forward", Line: 3},
				Destination: addr.MustDestination("legacy.example"), Rule: "clinic", Reason: policy.NoSTARTTLS},
				{Owner: "@ward.clinic.example", Origin: policy.Origin{Source: "hash:/etc/postfix/virtual", Key: "@ward.clinic.example"}, Rule: "clinic", Reason: policy.Timeout, Detail: "a table doesn't answer"}}
		},
		TestForward: func(_ context.Context, owner, target addr.Address) (any, error) {
			if target.Domain.String() == "away.example" {
				return nil, errors.New("resolver away")
			}
			return map[string]string{"owner": owner.String(), "target": target.String()}, nil
		},
		LogLevel: new(slog.LevelVar),
		Host:     "localhost",
		Now:      func() time.Time { return w.clock },
	}
}

// newTest returns a server of w's.
func newTest(t testing.TB, w *world, change func(*Config)) *Server {
	t.Helper()
	c := w.config(t)
	if change != nil {
		change(&c)
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// ask asks a server without a network, as a browser on this host would.
func ask(s *Server, method, path string, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://localhost:8691"+path, strings.NewReader(body))
	r.RemoteAddr = "127.0.0.1:40000"
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
			continue
		}
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

func status(t *testing.T, w *httptest.ResponseRecorder, want int) {
	t.Helper()
	if w.Code != want {
		t.Errorf("status %d, want %d %s: %s", w.Code, want, http.StatusText(want), w.Body)
	}
}
