package observe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
	"tlsonly/rules"
)

// kept is a store that adds up, and fails as often as it is told to.
type kept struct {
	mu     sync.Mutex
	fails  int
	calls  int
	times  map[string]int64
	stored chan struct{}
}

func (k *kept) AddObserved(_ context.Context, seen ...store.Observed) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.calls++
	if k.fails > 0 {
		k.fails--
		return errors.New("disk full")
	}
	for _, o := range seen {
		k.times[fmt.Sprint(o.Day.Format(time.DateOnly), " ", o.Rule, " ", o.Verdict, " ", o.Reason, " ", o.Destination.String(), " ", Estimate(o.Senders), " ", Estimate(o.Recipients))] += o.Times
	}
	k.stored <- struct{}{}
	return nil
}

// Decisions of one kind are one row, a store that fails loses nothing, and the
// end stores what is left.
func TestRecorder(t *testing.T) {
	now := time.Date(2026, 11, 30, 23, 59, 0, 0, time.UTC)
	k := &kept{fails: 1, times: map[string]int64{}, stored: make(chan struct{}, 10)}
	r := New(k, slog.New(slog.DiscardHandler), func() time.Time { return now })
	d := Decision{Rule: "clinic", Destination: addr.MustDestination("oldlab.example"), Reason: policy.NoSTARTTLS, Would: policy.Reject,
		From: addr.MustAddress("Doctor@clinic.example"), To: addr.MustAddress("u@oldlab.example")}
	r.Add(d)
	d.From = addr.MustAddress("doctor@Clinic.example") // the same
	r.Add(d)
	d.From = addr.MustAddress("nurse@clinic.example")
	r.Add(d)
	if r.flush(t.Context()) {
		t.Error("a store that fails stored")
	}
	now = now.Add(2 * time.Minute)
	d.Would, d.Reason = policy.Accept, ""
	r.Add(d)
	ctx, stop := context.WithCancel(t.Context())
	var run sync.WaitGroup
	run.Go(func() { r.Run(ctx) })
	<-k.stored
	d.To = addr.MustAddress("v@oldlab.example")
	r.Add(d)
	stop()
	run.Wait()
	want := map[string]int64{"2026-11-30 clinic reject no-starttls oldlab.example 2 1": 3, "2026-12-01 clinic accept   1 1": 2}
	if fmt.Sprint(k.times) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", k.times, want)
	}
	for i := range 2 * store.MostObserved {
		d.Destination, d.Would = addr.MustDestination(fmt.Sprintf("d%d.example", i)), policy.Reject
		r.Add(d)
	}
	if len(r.seen) > store.MostObserved+1 {
		t.Errorf("%d rows are kept while nobody stores them", len(r.seen))
	}
}

func TestEstimate(t *testing.T) {
	for _, n := range []int{0, 1, 2, 5, 20, 100} {
		set := uint64(0)
		for i := range n {
			set |= bit(addr.MustAddress(fmt.Sprintf("user%d@clinic.example", i)))
		}
		if got := Estimate(set); got < n*7/10 || got > n*13/10+1 {
			t.Errorf("%d addresses are taken for %d", n, got)
		}
	}
	if Estimate(1<<64-1) != 266 {
		t.Error("more than can be told")
	}
}

func TestSummarize(t *testing.T) {
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	pattern := func(texts ...string) (found []addr.Pattern) {
		for _, s := range texts {
			found = append(found, addr.MustPattern(s))
		}
		return found
	}
	rule := func(name string, level policy.Level, mode policy.Mode, to ...string) *rules.Rule {
		return &rules.Rule{Name: name, From: pattern("@clinic.example"), To: pattern(to...), Level: level, Mode: mode, MinVersion: policy.TLS12}
	}
	clinic := rule("clinic", policy.LevelEncrypt, policy.Observe)
	row := func(rule, domain string, verdict policy.Verdict, reason policy.Reason, times int64) store.Observed {
		o := store.Observed{Day: now.Truncate(24 * time.Hour), Rule: rule, Verdict: verdict, Reason: reason, Times: times, Senders: 1, Recipients: 3, Last: now}
		if domain != "" {
			o.Destination = addr.MustDestination(domain)
		}
		return o
	}
	good := row("clinic", "", policy.Accept, "", 408)
	lab := row("clinic", "oldlab.example", policy.Reject, policy.NoSTARTTLS, 3)
	silent := row("clinic", "silent.example", policy.Defer, policy.Timeout, 1)
	known := func(d addr.Destination) (policy.Assessment, bool) {
		if d.String() != "oldlab.example" {
			return policy.Assessment{}, false
		}
		return policy.Assessment{Destination: d, Hosts: []policy.Host{{Name: addr.MustDomain("mx.oldlab.example"), Observations: []policy.Observation{
			{Outcome: policy.SawTLS, Version: policy.TLS13, Bits: 256}}}}}, true
	}
	unknown := func(addr.Destination) (policy.Assessment, bool) { return policy.Assessment{}, false }
	for _, c := range []struct {
		name  string
		rules []*rules.Rule
		rows  []store.Observed
		known func(addr.Destination) (policy.Assessment, bool)
		ready bool
		now   []string // what is so of each destination
		why   string
	}{
		{"all is well", []*rules.Rule{clinic}, []store.Observed{good}, unknown, true, nil, "every recipient judged would be accepted today"},
		{"nothing judged", []*rules.Rule{clinic}, nil, unknown, false, nil, `rule "clinic" has judged no mail`},
		{"refusals", []*rules.Rule{clinic}, []store.Observed{good, lab, silent}, unknown, false, []string{"oldlab.example fails ", "silent.example fails "},
			"mail for 2 destinations would not be accepted (4 recipients in this time)"},
		{"mended", []*rules.Rule{clinic}, []store.Observed{good, lab}, known, true, []string{"oldlab.example satisfied "}, "every recipient"},
		{"excepted", []*rules.Rule{rule("legacy", policy.LevelMay, policy.Enforce, "@.oldlab.example"), clinic}, []store.Observed{good, lab}, unknown, true,
			[]string{"oldlab.example excepted legacy"}, "every recipient"},
		{"excepted for others only", []*rules.Rule{{Name: "legacy", From: pattern("x@clinic.example"), To: pattern("@oldlab.example"), Level: policy.LevelMay}, clinic},
			[]store.Observed{good, lab}, unknown, false, []string{"oldlab.example fails "}, "1 destination"},
		{"excepted for some there only", []*rules.Rule{rule("legacy", policy.LevelMay, policy.Enforce, "u@oldlab.example"), clinic},
			[]store.Observed{good, lab}, unknown, false, []string{"oldlab.example fails "}, "1 destination"},
		{"excepted too late", []*rules.Rule{clinic, rule("legacy", policy.LevelMay, policy.Enforce, "@oldlab.example")},
			[]store.Observed{good, lab}, unknown, false, []string{"oldlab.example fails "}, "1 destination"},
		{"enforces by now", []*rules.Rule{rule("clinic", policy.LevelEncrypt, policy.Enforce)}, []store.Observed{good, lab}, unknown, true,
			[]string{"oldlab.example other "}, "no rule only observes"},
		{"gone", []*rules.Rule{rule("legacy", policy.LevelMay, policy.Enforce)}, []store.Observed{lab}, unknown, false, []string{"oldlab.example other "}, "no rule requires TLS"},
		{"too many to tell", []*rules.Rule{clinic}, []store.Observed{good, row("clinic", "", policy.Reject, policy.NoSTARTTLS, 1)}, unknown, false,
			[]string{" fails "}, "1 destination"},
	} {
		s := Summarize(rules.New(c.rules), c.rows, now.AddDate(0, 0, -7), now, c.known)
		var is []string
		for _, d := range s.Destinations {
			name := ""
			if !d.Destination.IsZero() {
				name = d.Destination.String()
			}
			is = append(is, name+" "+d.Now+" "+d.By)
		}
		if s.Ready != c.ready || !slices.Equal(is, c.now) || len(s.Why) == 0 || !strings.Contains(s.Why[0], c.why) {
			t.Errorf("%s: ready %t, %q, %q", c.name, s.Ready, is, s.Why)
		}
	}
	s := Summarize(rules.New([]*rules.Rule{clinic}), []store.Observed{good, lab, silent}, now.AddDate(0, 0, -1), now, unknown)
	if r := s.Rules[0]; r.Judged != 412 || r.Accepted != 408 || r.Refused != 3 || r.Deferred != 1 || len(r.Reasons) != 3 {
		t.Errorf("%+v", r)
	}
	if line := s.Line(); !strings.Contains(line, "of 412 recipients since") || !strings.Contains(line, "would have refused 3 and deferred 1") {
		t.Error(line)
	}
	if line := Summarize(rules.New(nil), nil, now, now, unknown).Line(); line != "" {
		t.Error(line)
	}
}
