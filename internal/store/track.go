package store

import "time"

const (
	// pinApart is the time between two successes that pin: one lucky look isn't a habit.
	pinApart = time.Hour
	// A pin ends after so long and so many looks, every one failed. The number is there because a clock that jumps
	// makes 30 days of two looks.
	unpinAfter = 30 * 24 * time.Hour
	unpinLooks = 10
)

// Track is how the looks at a destination went.
type Track struct {
	FirstSuccess time.Time // since the last unpinning
	LastSuccess  time.Time
	FailingSince time.Time // the first of the failures since then
	Failures     int       // looks in a row that failed
}

// After returns the track after one more look. A look earlier than what the track remembers means that the clock was
// set back, and the track begins anew there, rather than wait for a day that was never meant.
func (t Track) After(when time.Time, ok bool) Track {
	if !ok {
		t.Failures++
		if t.FailingSince.IsZero() || when.Before(t.FailingSince) {
			t.FailingSince = when
		}
		return t
	}
	if t.FirstSuccess.IsZero() || when.Before(t.FirstSuccess) {
		t.FirstSuccess = when
	}
	t.LastSuccess = when
	t.Failures, t.FailingSince = 0, time.Time{}
	return t
}

// EarnsPin reports whether two successes lie at least an hour apart.
func (t Track) EarnsPin() bool {
	return !t.FirstSuccess.IsZero() && t.LastSuccess.Sub(t.FirstSuccess) >= pinApart
}

// EndsPin reports whether every look of 30 days failed.
func (t Track) EndsPin(now time.Time) bool {
	return t.Failures >= unpinLooks && now.Sub(t.FailingSince) >= unpinAfter
}
