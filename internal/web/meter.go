package web

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tlsonly/internal/judge"
	"tlsonly/internal/policy"
)

// Meter counts what happens, for metrics and pages. Make one with NewMeter; its methods are safe for concurrent use, cost
// less than a microsecond and never wait.
type Meter struct {
	start time.Time

	decision            prometheus.Histogram
	assessment, probing *prometheus.HistogramVec
	seconds             *prometheus.CounterVec

	now func() time.Time

	mu        sync.Mutex
	decisions map[Decision]uint64
	hours     [recentHours]hour // decisions of the last day; hour n is at n % recentHours
	inbound   map[Decision]uint64
	reloads   [2]uint64 // refused, done
	reloaded  time.Time // last try
	reloadErr error     // of the last try
}

// Decision is what is counted of a decision about one recipient. Rule is a name of the file, the others are words of packages
// policy and inbound, so there are only so many of them.
type Decision struct {
	Rule    string
	Verdict policy.Verdict // of a rule that only observes: that it would have given
	Reason  policy.Reason  // "" where the rule was satisfied
	Mode    policy.Mode
}

// recentHours are those of which decisions are told apart: a day, and the hour
// that has begun.
const recentHours = 25

// hour counts the decisions of one hour, which is that many after 1970.
type hour struct {
	is        int64
	decisions map[Decision]uint64
}

// NewMeter returns a Meter that has seen the configuration loaded now.
func NewMeter(now func() time.Time) *Meter {
	start := now()
	m := &Meter{
		now:       now,
		start:     start,
		reloaded:  start,
		decisions: map[Decision]uint64{},
		inbound:   map[Decision]uint64{},
		decision: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "tlsonly_decision_duration_seconds",
			Help:    "Time from RCPT to the reply, for recipients that match a rule.",
			Buckets: []float64{.00001, .0001, .001, .01, .1, .5, 1, 2.5, 5, 10, 20},
		}),
		assessment: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "tlsonly_assessment_duration_seconds",
			Help:    "Time of an assessment of a destination, by the level it reaches.",
			Buckets: []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 10, 15, 30},
		}, []string{"level"}),
		probing: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "tlsonly_probe_duration_seconds",
			Help:    "Time of a probe, from connect to QUIT, by its outcome.",
			Buckets: []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 10, 15, 30},
		}, []string{"outcome"}),
		seconds: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tlsonly_second_probes_total",
			Help: "Destinations whose mail hosts were probed again before a refusal, by result.",
		}, []string{"result"}),
	}
	for _, result := range SecondProbes() {
		m.seconds.WithLabelValues(result)
	}
	return m
}

// SecondProbes lists what a second probe can come to: it agrees with the first,
// shows good TLS after all, or shows nothing.
func SecondProbes() []string { return []string{"agreed", "differed", "unsure"} }

// Decided counts a decision and how long it took.
func (m *Meter) Decided(d Decision, took time.Duration) {
	m.decision.Observe(took.Seconds())
	is := m.now().Unix() / 3600
	m.mu.Lock()
	defer m.mu.Unlock()
	m.decisions[d]++
	h := &m.hours[is%recentHours]
	if h.is != is || h.decisions == nil {
		*h = hour{is, map[Decision]uint64{}}
	}
	h.decisions[d]++
}

// recent counts the decisions of the last hours, recentHours at most, with the
// one that has begun: since their beginning, or the start if that is later.
func (m *Meter) recent(hours int64) (decisions map[Decision]uint64, since time.Time) {
	is := m.now().Unix() / 3600
	first := is - hours + 1
	decisions = map[Decision]uint64{}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, h := range m.hours {
		if h.is < first || h.is > is {
			continue // older, or of a clock that was set back
		}
		for d, n := range h.decisions {
			decisions[d] += n
		}
	}
	if since = m.start; since.Before(time.Unix(first*3600, 0)) {
		since = time.Unix(first*3600, 0)
	}
	return decisions, since
}

// Admitted counts a decision about how mail for a recipient comes in.
func (m *Meter) Admitted(d Decision) {
	m.mu.Lock()
	m.inbound[d]++
	m.mu.Unlock()
}

// Assessed counts a finished look at a destination and how long it took.
func (m *Meter) Assessed(a policy.Assessment, took time.Duration) {
	m.assessment.WithLabelValues(levelWord(judge.Reached(a))).Observe(took.Seconds())
}

// Probed counts a look at one address.
func (m *Meter) Probed(o policy.Observation) {
	m.probing.WithLabelValues(string(o.Outcome)).Observe(o.Took.Seconds())
}

// Second counts a second probe by its result, one of SecondProbes.
func (m *Meter) Second(result string) { m.seconds.WithLabelValues(result).Inc() }

// Reloaded counts a reload of the configuration: err says why it was refused.
func (m *Meter) Reloaded(at time.Time, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reloaded, m.reloadErr = at, err
	if err == nil {
		m.reloads[1]++
	} else {
		m.reloads[0]++
	}
}

// counted is a decision and how often it was made.
type counted struct {
	Decision
	Count uint64
}

// counts lists all decisions, in an order that doesn't change.
func (m *Meter) counts() []counted { return m.sorted(m.decisions) }

// inboundCounts lists those about how mail comes in.
func (m *Meter) inboundCounts() []counted { return m.sorted(m.inbound) }

func (m *Meter) sorted(decisions map[Decision]uint64) []counted {
	m.mu.Lock()
	all := make([]counted, 0, len(decisions))
	for d, n := range decisions {
		all = append(all, counted{d, n})
	}
	m.mu.Unlock()
	slices.SortFunc(all, func(a, b counted) int {
		return cmp.Or(cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Verdict.Rank(), b.Verdict.Rank()), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Mode, b.Mode))
	})
	return all
}

// reload is how the configuration stands.
type reload struct {
	Refused, Done uint64
	Last          time.Time
	Err           error
}

func (m *Meter) reload() reload {
	m.mu.Lock()
	defer m.mu.Unlock()
	return reload{m.reloads[0], m.reloads[1], m.reloaded, m.reloadErr}
}

// levelWord is a level as a label and on pages: what isn't known has a word, too.
func levelWord(l policy.Level) string { return cmp.Or(string(l), "unknown") }

// levels lists what levelWord can return, the best first.
func levels() []string {
	var words []string
	for _, l := range slices.Backward(policy.Levels()) {
		words = append(words, string(l))
	}
	return append(words, levelWord(""))
}
