package ledger

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
	"tlsonly/internal/store"
)

// site is the destination number i, with one host at an address of its own.
func site(i int) addr.Destination { return addr.MustDestination(fmt.Sprintf("d%d.example", i)) }

// one is a look at a site, now.
func (b *bench) one(i int, outcome policy.Outcome, stage policy.Stage) {
	b.Helper()
	b.at(site(i), i, outcome, stage)
}

// at is a look at a destination with the host of a site.
func (b *bench) at(d addr.Destination, i int, outcome policy.Outcome, stage policy.Stage) {
	b.Helper()
	a := saw(d, b.now(), outcome)
	o := &a.Hosts[0].Observations[0]
	o.Address = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 25)
	o.Stage = stage
	b.Record(a)
	if b.recordAll(b.Context(), false) {
		b.Fatal("the store is away")
	}
}

// TestOwnNetwork looks at sites one after the other, a second apart, a letter a look: t TLS, c no connection, s silence at connect,
// m mangled, n no STARTTLS, u an answer 421; and then whether our network is suspected. "|" begins with the first site again, "-" lets
// eleven minutes pass, "=" a day, "~" seventy minutes.
func TestOwnNetwork(t *testing.T) {
	for _, test := range []struct {
		name, looks string
		suspect     bool
		told        string
	}{
		{"port 25 closed", "tttttt|ccccc", true, "own-network"},
		{"silence", "tttttt|sssss", true, "own-network"},
		{"mangled", "tttttt|mmmmm", true, "own-network"},
		{"all together", "tttttt|cmscm", true, "own-network"},
		{"too few", "tttttt|cccc", false, ""},
		{"half are well", "tttttttttt|tttttccccc", false, ""},
		{"more than half fail", "ttttttttttt|tttttcccccc", true, "own-network"},
		{"never known to be well", "cccccccccc", false, ""},
		{"well too long ago", "tttttt==|cccccc", false, ""},
		{"well a day ago", "tttttt=|cccccc", true, "own-network"},
		{"not at one time", "tttttt|cc-cc-cc", false, ""},
		{"the same host again", "tttttt|c|c|c|c|c|c", false, ""},
		{"they lost STARTTLS", "tttttt|nnnnnn", false, ""},
		{"they are too busy", "tttttt|uuuuuu", false, ""},
		{"and back", "tttttt|ccccc|t", false, "own-network own-network-ok"},
		{"not seen to end", "ttttttt|ccccc~~", false, "own-network"},
		{"another is well", "tttttttt|cccccct", true, "own-network"},
		{"most are well", "ttttttttttttttt|cccccttttt", false, "own-network own-network-ok"},
		{"nothing seen for long", "tttttt|ccccc~|n", false, "own-network own-network-ok"},
		{"goes on", "tttttt|ccccc-|ccccc-|ccccc-|ccccc", true, "own-network"},
		{"twice", "tttttt|ccccc|tccccc", true, "own-network own-network-ok own-network"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t)
			i := 0
			for _, letter := range test.looks {
				if jump, ok := map[rune]time.Duration{'-': 11 * time.Minute, '=': 24 * time.Hour, '~': 70 * time.Minute}[letter]; ok {
					b.pass(jump)
					continue
				}
				if letter == '|' {
					i = 0
					continue
				}
				b.pass(time.Second)
				i++
				switch letter {
				case 't':
					b.one(i, policy.SawTLS, policy.StageQuit)
				case 'c':
					b.one(i, policy.SawUnreachable, policy.StageConnect)
				case 's':
					b.one(i, policy.SawTimeout, policy.StageConnect)
				case 'm':
					b.one(i, policy.SawMangled, policy.StageEHLO)
				case 'n':
					b.one(i, policy.SawNoSTARTTLS, policy.StageEHLO)
				case 'u':
					b.one(i, policy.SawUnreachable, policy.StageBanner)
				}
			}
			if got := b.Suspect(); (got != "") != test.suspect {
				t.Errorf("suspect %q, want %v", got, test.suspect)
			}
			var told []string
			for _, e := range b.events() {
				if what := strings.Fields(e)[0]; strings.HasPrefix(what, "own-network") {
					told = append(told, what)
				}
			}
			if got := strings.Join(told, " "); got != test.told {
				t.Errorf("told %q, want %q", got, test.told)
			}
			history, err := b.store.History(t.Context(), addr.Destination{}, 10)
			must(t, err)
			equal(t, "in the history", len(history), len(told))
		})
	}
}

// While our own network is suspected, looks that found out nothing don't count against those that fail with it; a loss of
// STARTTLS does, and so does what fails otherwise.
func TestOwnNetworkExcuses(t *testing.T) {
	b := newBench(t)
	for i := range 8 {
		must(t, b.Owe(t.Context(), site(i), "clinic", policy.DefaultDemand(), true))
		b.one(i, policy.SawTLS, policy.StageQuit)
	}
	for range 30 {
		b.pass(time.Hour)
		for i := range 6 {
			b.one(i, policy.SawMangled, policy.StageEHLO)
		}
	}
	if !strings.Contains(b.Suspect(), "overwrites") {
		t.Fatalf("suspect %q", b.Suspect())
	}
	e := b.entry(site(5))
	equal(t, "failures of one that fails alike", e.Track.Failures, 0)
	if gap := e.Next.Sub(b.now()); gap > 17*time.Minute {
		t.Errorf("looked at again after %s", gap)
	}
	equal(t, "failures of the first, before the suspicion", b.entry(site(0)).Track.Failures, 1)
	b.events()
	b.one(6, policy.SawNoSTARTTLS, policy.StageEHLO)
	equal(t, "failures of one without STARTTLS", b.entry(site(6)).Track.Failures, 1)
	same(t, "told", b.events(), "d6.example lost-tls encrypt may")
	b.one(7, policy.SawBroken, policy.StageHandshake)
	equal(t, "failures of one that can't do TLS", b.entry(site(7)).Track.Failures, 1)
}

// A look that doesn't count ends no pin either, however long others have failed.
func TestOwnNetworkPin(t *testing.T) {
	b := newBench(t)
	must(t, b.Owe(t.Context(), far, "clinic", policy.DefaultDemand(), true))
	lost := func() {
		b.Record(policy.Assessment{Destination: far, Problem: policy.DNSFailure, When: b.now()})
		if b.recordAll(t.Context(), false) {
			t.Fatal("the store is away")
		}
	}
	for range 29 {
		lost()
		b.pass(24 * time.Hour)
	}
	b.pass(48 * time.Hour)
	for _, outcome := range []policy.Outcome{policy.SawTLS, policy.SawUnreachable} {
		for i := range 5 {
			b.pass(time.Second)
			b.one(i, outcome, policy.StageConnect)
		}
	}
	b.at(far, 0, policy.SawUnreachable, policy.StageConnect)
	equal(t, "pinned after a look that doesn't count", b.Pinned(far), true)
	lost()
	equal(t, "pinned after one that does", b.Pinned(far), false)
}

// What was known to be well before a restart is so after it.
func TestOwnNetworkRestart(t *testing.T) {
	b := newBench(t)
	for i := range 5 {
		b.one(i, policy.SawTLS, policy.StageQuit)
	}
	b.restart()
	b.pass(time.Hour)
	for i := range 5 {
		b.one(i, policy.SawUnreachable, policy.StageConnect)
	}
	if b.Suspect() == "" {
		t.Error("not suspected")
	}
	equal(t, "counted", b.Stats().Events[store.Outage], 1)
}

// What is remembered of hosts is bounded, and those seen well long ago make room.
func TestOwnNetworkBound(t *testing.T) {
	n := newOutage(24 * time.Hour)
	fill := func(block byte, when time.Time) {
		for i := range maxWell + 10 {
			a := saw(far, when, policy.SawTLS)
			a.Hosts[0].Observations[0].Address = netip.AddrPortFrom(netip.AddrFrom4([4]byte{block, 0, byte(i >> 8), byte(i)}), 25)
			n.seed(a, when)
		}
	}
	fill(10, begin)
	fill(11, begin.Add(time.Hour))
	first := netip.MustParseAddrPort("10.0.0.0:25")
	if _, ok := n.well[first]; !ok || len(n.well) != maxWell {
		t.Errorf("%d remembered, the first among them: %v", len(n.well), ok)
	}
	fill(12, begin.Add(48*time.Hour))
	if _, ok := n.well[first]; ok || len(n.well) != maxWell {
		t.Errorf("%d remembered two days later, the first among them: %v", len(n.well), ok)
	}
}
