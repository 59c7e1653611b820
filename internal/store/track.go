package store

import "time"

const (
	// pinApart is the time between two successes that pin: one lucky look isn't a habit.
	pinApart = time.Hour
	// A pin ends after so long, with looks on so many days, every one failed. The number is there because a clock that
	// jumps makes 30 days of two looks.
	unpinAfter = 30 * 24 * time.Hour
	unpinDays  = 10
	// dayApart is what makes the looks of two days: a little less than what lies between two that aren't for mail.
	dayApart = 20 * time.Hour
)

// Track is how the looks at a destination went.
type Track struct {
	FirstSuccess time.Time // since the last unpinning
	LastSuccess  time.Time
	FailingSince time.Time // the first of the failures since then
	Failures     int       // looks in a row that failed
	FailingDays  int       // days on which they did
	DayCounted   time.Time // the look that made the last of these days
}

// After returns the track after one more look. A look earlier than what the track remembers means that the clock was
// set back, and the track begins anew there, rather than wait for a day that was never meant.
func (t Track) After(when time.Time, ok bool) Track {
	if !ok {
		t.Failures++
		if t.FailingSince.IsZero() || when.Before(t.FailingSince) {
			t.FailingSince = when
		}
		if t.FailingDays == 0 || when.Sub(t.DayCounted) >= dayApart {
			t.FailingDays++
			t.DayCounted = when
		} else if when.Before(t.DayCounted) {
			t.DayCounted = when
		}
		return t
	}
	if t.FirstSuccess.IsZero() || when.Before(t.FirstSuccess) {
		t.FirstSuccess = when
	}
	t.LastSuccess = when
	t.Failures, t.FailingSince, t.FailingDays, t.DayCounted = 0, time.Time{}, 0, time.Time{}
	return t
}

// EarnsPin reports whether two successes lie at least an hour apart.
func (t Track) EarnsPin() bool {
	return !t.FirstSuccess.IsZero() && t.LastSuccess.Sub(t.FirstSuccess) >= pinApart
}

// EndsPin reports whether every look of 30 days failed, and there were looks on ten of them.
func (t Track) EndsPin(now time.Time) bool {
	return t.FailingDays >= unpinDays && now.Sub(t.FailingSince) >= unpinAfter
}
