package store

import (
	"testing"
	"time"

	"tlsonly/internal/policy"
)

func TestTrack(t *testing.T) {
	t0 := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	const day = 24 * time.Hour
	type look struct {
		after time.Duration
		ok    bool
	}
	failures := func(from, every time.Duration, n int) (looks []look) {
		for i := range n {
			looks = append(looks, look{from + time.Duration(i)*every, false})
		}
		return looks
	}
	for _, test := range []struct {
		why          string
		looks        []look
		earned, ends bool
	}{
		{"nothing seen", nil, false, false},
		{"one success", []look{{0, true}}, false, false},
		{"two within the hour", []look{{0, true}, {time.Hour - 1, true}}, false, false},
		{"two an hour apart", []look{{0, true}, {time.Hour, true}}, true, false},
		{"a failure between them", []look{{0, true}, {time.Minute, false}, {time.Hour, true}}, true, false},
		{"clock set back a day after the first", []look{{day, true}, {0, true}}, false, false},
		{"and an hour later", []look{{day, true}, {0, true}, {time.Hour, true}}, true, false},
		{"29 days of failures", append([]look{{0, true}}, failures(day, day, 30)...), false, false},
		{"30 days of failures", append([]look{{0, true}}, failures(day, day, 31)...), false, true},
		{"a success among them", append(failures(0, day, 20), append([]look{{20 * day, true}}, failures(21*day, day, 20)...)...), false, false},
		{"a clock that jumps a year", []look{{0, false}, {365 * day, false}}, false, false},
		{"many looks in three hours, and a jump", append(failures(0, 15*time.Minute, 12), failures(40*day, 15*time.Minute, 60)...), false, false},
		{"and nine days more", append(failures(0, 15*time.Minute, 12), failures(40*day, 3*time.Hour, 73)...), false, true},
		{"a look each hour", failures(0, time.Hour, 30*24+1), false, true},
		{"looks on nine days of them", append(failures(0, day, 8), failures(30*day, 6*time.Hour, 3)...), false, false},
		{"a day ahead for one look, later", append(append(failures(0, day, 10), look{12 * day, false}), failures(10*day, day, 21)...), false, true},
		{"a clock a day ahead, put right", append([]look{{day, false}}, failures(0, day, 31)...), false, true},
	} {
		var track Track
		last := t0
		for _, l := range test.looks {
			last = t0.Add(l.after)
			track = track.After(last, l.ok)
		}
		if track.EarnsPin() != test.earned || track.EndsPin(last) != test.ends {
			t.Errorf("%s: earned %t, ends %t: %+v", test.why, track.EarnsPin(), track.EndsPin(last), track)
		}
	}
}

// FuzzDemand checks that no order of raises lets any part of a demand fall.
func FuzzDemand(f *testing.F) {
	f.Add(uint8(2), uint16(policy.TLS12), uint16(128), uint8(3), uint16(0), uint16(0))
	f.Add(uint8(4), uint16(0), uint16(0), uint8(0), uint16(policy.TLS13), uint16(256))
	f.Fuzz(func(t *testing.T, l1 uint8, v1 uint16, b1 uint16, l2 uint8, v2 uint16, b2 uint16) {
		levels := policy.Levels()
		a := Demand{Level: levels[int(l1)%len(levels)], MinVersion: policy.Version(v1), MinBits: int(b1)}
		b := Demand{Level: levels[int(l2)%len(levels)], MinVersion: policy.Version(v2), MinBits: int(b2)}
		merged := a.Merge(b)
		if !merged.Covers(a) || !merged.Covers(b) || merged != b.Merge(a) || merged.Merge(a) != merged {
			t.Fatalf("%v and %v make %v", a, b, merged)
		}
		if none := (Demand{}); a != none.Merge(a) {
			t.Fatalf("%v alone makes %v", a, none.Merge(a))
		}
	})
}

func TestHostList(t *testing.T) {
	for _, bad := range []string{"x", "10", "10/", "/mx", "70000/mx", "-1/mx", "10/a  20/b", " ", "i/mx"} {
		if refs, err := parseHostList(bad); err == nil {
			t.Errorf("%q: %v", bad, refs)
		}
	}
}
