package web

import (
	"context"
	"log/slog"
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"tlsonly/internal/ledger"
)

// Counts are counters and states of other parts of the daemon. Words in them are of closed sets.
type Counts struct {
	Sessions     int               // of MTAs, now
	Connections  uint64            // of MTAs, ever
	Messages     uint64            // that some rule could concern
	Malformed    uint64            // milter packets refused, each with its connection
	Unattested   uint64            // protected recipients whose transport was found not to enforce TLS
	UnattestedAt time.Time         // of the last of these
	Unwatched    uint64            // recipients of rules that only observe that weren't judged
	Panics       map[string]uint64 // recovered, by part of the daemon

	Socketmap          []Answers
	SocketmapSessions  int    // connections now
	SocketmapRefused   uint64 // connections closed at once, because there were too many
	SocketmapMalformed uint64 // connections closed, because no netstring came

	// Fallback are recipients of mail that fell back, by what became of it; nil
	// without a gateway.
	Fallback map[string]uint64

	Cached  map[string]int    // answers in memory, by kind
	Lookups map[string]uint64 // questions to memory, by how they were answered
	Changes map[string]int64  // by store.What
	Keys    []KeyLookups
	Waiting int // looks to be stored
}

// Answers says how many questions to a map got an answer.
type Answers struct {
	Map, Answer string
	Count       uint64
}

// KeyLookups says how often it was known of a recipient's key that there is one,
// that there is none, or neither.
type KeyLookups struct {
	Method, State string
	Count         uint64
}

// Survey is what all destinations come to.
type totals struct {
	Known, Pinned, Lost int
	NoTLS, Unreachable  int            // by what their last look failed for
	Levels              map[string]int // by levelWord
	lost                []string       // the first names, sorted
}

func (c *Config) totals() totals {
	s := totals{Levels: map[string]int{}}
	for _, l := range levels() {
		s.Levels[l] = 0
	}
	c.Survey(func(k Summary) bool {
		s.Known++
		s.Levels[levelWord(k.Level)]++
		if k.Pinned {
			s.Pinned++
		}
		switch k.Fault {
		case ledger.NoTLS:
			s.NoTLS++
		case ledger.Unreachable:
			s.Unreachable++
		}
		if k.Lost {
			s.Lost++
			s.lost = firstLost(s.lost, k.Destination.String())
		}
		return true
	})
	return s
}

// storeTime is how long the store may take to say how it is.
const storeTime = 3 * time.Second

// newMetrics answers with everything, from a registry of its own.
func newMetrics(c *Config) (http.Handler, error) {
	registry := prometheus.NewRegistry()
	for _, each := range []prometheus.Collector{
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		c.Meter.decision, c.Meter.assessment, c.Meter.probing, c.Meter.seconds,
		newCollector(c),
	} {
		if err := registry.Register(each); err != nil {
			return nil, err
		}
	}
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(c.Log.Handler(), slog.LevelWarn),
		MaxRequestsInFlight: maxLists,
	}), nil
}

// collector reads what others count at the time it is asked.
type collector struct {
	c     *Config
	descs map[string]*prometheus.Desc
}

// metric is a metric's name without "tlsonly_", its help and its labels.
type metric struct {
	name, help string
	labels     []string
}

func metrics() []metric {
	return []metric{
		{"build_info", "Version of this program; always 1.", []string{"version", "goversion"}},
		{"decisions_total", "Decisions about recipients that match a rule. If mode is observe, what the rule would have decided.", []string{"rule", "mode", "verdict", "reason"}},
		{"inbound_decisions_total", "Decisions of inbound rules about recipients. If mode is observe, what the rule would have decided.", []string{"rule", "mode", "verdict", "reason"}},
		{"destinations", "Known destinations, by the level they reach.", []string{"level"}},
		{"destinations_pinned", "Destinations that are pinned.", nil},
		{"destinations_failing", "Destinations whose last assessment failed, except those that accept no mail at all.", nil},
		{"destinations_unreachable", "Destinations of which no host could be reached at the last assessment.", nil},
		{"destinations_lost_tls", "Pinned destinations that offer no TLS any more.", nil},
		{"changes_total", "Changes that this daemon saw or made.", []string{"what"}},
		{"forwards_failing", "Forwards that break a rule.", nil},
		{"bound", "1 while the MTA's own configuration binds it to the daemon, by check.", []string{"check"}},
		{"last_asked_timestamp_seconds", "Time of the last question of an MTA since the start, by interface.", []string{"interface"}},
		{"own_network_suspect", "1 while your own network may be at fault for what destinations seem to do.", nil},
		{"cache_entries", "Results in memory, about destinations and about hosts.", []string{"kind"}},
		{"cache_lookups_total", "Lookups of destinations, by how they were answered.", []string{"answer"}},
		{"key_lookups_total", "Look-ups of recipients' keys, by what was known.", []string{"method", "state"}},
		{"looks_waiting", "Assessments that are not stored yet.", nil},
		{"store_up", "1 while the store answers.", nil},
		{"store_read_duration_seconds", "Time that the store took to answer this scrape.", nil},
		{"monitor_lag_seconds", "How long the oldest assessment that is due has been due.", nil},
		{"milter_sessions", "Connections of MTAs at the milter now.", nil},
		{"milter_connections_total", "Connections of MTAs at the milter since the start.", nil},
		{"milter_malformed_packets_total", "Malformed milter packets; each ended its connection.", nil},
		{"messages_total", "Messages that some rule could match.", nil},
		{"observe_skipped_total", "Recipients of rules in observe mode that were not judged, because too many came at the same time.", nil},
		{"unbound_recipients_total", "Recipients of protected senders whose transport does not enforce TLS.", nil},
		{"panics_total", "Panics in the daemon that were recovered, by part.", []string{"part"}},
		{"socketmap_requests_total", "Questions at delivery, by map and answer.", []string{"map", "answer"}},
		{"socketmap_sessions", "Connections of MTAs at the maps now.", nil},
		{"socketmap_refused_connections_total", "Connections at the maps that were closed because there were too many.", nil},
		{"socketmap_malformed_connections_total", "Connections at the maps that were closed because no netstring came.", nil},
		{"fallback_recipients_total", "Recipients of mail that could not have its TLS, by what became of it.", []string{"outcome"}},
		{"config_reloads_total", "Reloads of the configuration file.", []string{"result"}},
		{"config_last_reload_successful", "1 if the last reload succeeded, and before the first.", nil},
		{"config_last_reload_timestamp_seconds", "Time of the last reload, or of the start.", nil},
	}
}

func newCollector(c *Config) *collector {
	x := &collector{c: c, descs: map[string]*prometheus.Desc{}}
	for _, m := range metrics() {
		x.descs[m.name] = prometheus.NewDesc("tlsonly_"+m.name, m.help, m.labels, nil)
	}
	return x
}

// Describe names all metrics.
func (x *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range x.descs {
		out <- d
	}
}

// Collect reads them.
func (x *collector) Collect(out chan<- prometheus.Metric) {
	send := func(kind prometheus.ValueType, name string, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(x.descs[name], kind, value, labels...)
	}
	gauge := func(name string, value float64, labels ...string) {
		send(prometheus.GaugeValue, name, value, labels...)
	}
	count := func(name string, value uint64, labels ...string) {
		send(prometheus.CounterValue, name, float64(value), labels...)
	}
	c := x.c

	gauge("build_info", 1, c.Version, runtime.Version())
	for _, d := range c.Meter.counts() {
		count("decisions_total", d.Count, d.Rule, string(d.Mode), string(d.Verdict), string(d.Reason))
	}
	for _, d := range c.Meter.inboundCounts() {
		count("inbound_decisions_total", d.Count, d.Rule, string(d.Mode), string(d.Verdict), string(d.Reason))
	}
	r := c.Meter.reload()
	count("config_reloads_total", r.Done, "ok")
	count("config_reloads_total", r.Refused, "failed")
	gauge("config_last_reload_successful", bit(r.Err == nil))
	gauge("config_last_reload_timestamp_seconds", float64(r.Last.UnixMilli())/1000)

	s := c.totals()
	for level, n := range s.Levels {
		gauge("destinations", float64(n), level)
	}
	gauge("destinations_pinned", float64(s.Pinned))
	gauge("destinations_failing", float64(s.NoTLS+s.Unreachable))
	gauge("destinations_unreachable", float64(s.Unreachable))
	gauge("destinations_lost_tls", float64(s.Lost))
	if c.Forwards != nil {
		gauge("forwards_failing", float64(len(c.Forwards())))
	}
	if b, ok := c.binding(); ok && b.Known {
		for check, well := range b.Checks {
			gauge("bound", bit(well), check)
		}
	}
	if c.LastAsked != nil {
		for by, at := range c.LastAsked() {
			gauge("last_asked_timestamp_seconds", float64(at.UnixMilli())/1000, by)
		}
	}
	if c.Outage != nil {
		gauge("own_network_suspect", bit(c.Outage() != ""))
	}

	took, lag, err := c.pingStore(context.Background())
	gauge("store_up", bit(err == nil))
	gauge("store_read_duration_seconds", took.Seconds())
	if err == nil {
		gauge("monitor_lag_seconds", lag.Seconds())
	}

	n := c.Counts()
	for kind, entries := range n.Cached {
		gauge("cache_entries", float64(entries), kind)
	}
	for answer, times := range n.Lookups {
		count("cache_lookups_total", times, answer)
	}
	for what, times := range n.Changes {
		count("changes_total", uint64(times), what)
	}
	for _, k := range n.Keys {
		count("key_lookups_total", k.Count, k.Method, k.State)
	}
	gauge("looks_waiting", float64(n.Waiting))
	gauge("milter_sessions", float64(n.Sessions))
	count("milter_connections_total", n.Connections)
	count("milter_malformed_packets_total", n.Malformed)
	count("messages_total", n.Messages)
	count("unbound_recipients_total", n.Unattested)
	count("observe_skipped_total", n.Unwatched)
	for part, times := range n.Panics {
		count("panics_total", times, part)
	}
	for outcome, times := range n.Fallback {
		count("fallback_recipients_total", times, outcome)
	}
	for _, a := range n.Socketmap {
		count("socketmap_requests_total", a.Count, a.Map, a.Answer)
	}
	gauge("socketmap_sessions", float64(n.SocketmapSessions))
	count("socketmap_refused_connections_total", n.SocketmapRefused)
	count("socketmap_malformed_connections_total", n.SocketmapMalformed)
}

// pingStore says how long the store takes to answer, and for how long the look
// that is due longest has been due.
func (c *Config) pingStore(ctx context.Context) (took, lag time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	start := time.Now()
	due, err := c.Store.NextDue(ctx)
	took = time.Since(start)
	if err == nil {
		err = c.Store.Healthy()
	}
	if now := c.Now(); !due.IsZero() && due.Before(now) {
		lag = now.Sub(due)
	}
	return took, lag, err
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
