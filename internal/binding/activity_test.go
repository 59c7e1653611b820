package binding

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"tlsonly/internal/addr"
)

// clock is a time that a test sets.
type clock struct{ at time.Time }

func newClock() *clock { return &clock{time.Date(2026, 3, 2, 8, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time       { return c.at }
func (c *clock) pass(d time.Duration) { c.at = c.at.Add(d) }

func codes(a *Activity, now time.Time) string {
	var all []string
	for _, f := range a.Silent(now) {
		all = append(all, f.Code)
	}
	return strings.Join(all, " ")
}

func sender(n int) addr.Address { return addr.MustAddress(fmt.Sprintf("d%d@clinic.example", n+1)) }

// mail is what one protected message makes of a bound Postfix.
func mail(a *Activity, n int) {
	a.Question("sender", sender(n))
	a.Message()
	a.Decided(true)
	a.Question("sender", sender(n))
	a.Question("forced", addr.Address{})
}

// A month of a small site: days with mail, nights and weekends without, a queue
// that is tried again and again, a weekend's holiday. Nobody is alarmed.
func TestNoFalseAlarm(t *testing.T) {
	c := newClock()
	a := NewActivity(c.now)
	queued := 0 // messages that wait
	for step := range 30 * 24 * 12 {
		c.pass(5 * time.Minute)
		day, hour := step/(24*12), c.at.Hour()
		if day%7 < 5 && day != 17 && hour >= 7 && hour < 18 {
			for n := range 5 {
				mail(a, 10*step+n)
			}
			queued = 40
		}
		for n := range queued { // every message at least each 4000 s
			if (step+n)%13 == 0 {
				a.Question("sender", sender(n%8))
				a.Question("forced", addr.Address{})
			}
		}
		a.Question("sender", addr.Address{}) // others' mail
		if found := codes(a, c.at); found != "" {
			t.Fatalf("%s: %s", c.at, found)
		}
	}
}

// The milter isn't asked about mail that the maps are asked about.
func TestMilterSilent(t *testing.T) {
	c := newClock()
	a := NewActivity(c.now)
	for n := range 40 { // 200 minutes of mail, all well
		mail(a, n)
		c.pass(5 * time.Minute)
	}
	began := c.at
	for n := 100; codes(a, c.at) == ""; n++ {
		a.Question("sender", sender(n))
		a.Question("sender", sender(3)) // which is known
		c.pass(time.Minute)
		if c.at.Sub(began) > time.Hour {
			t.Fatal("not noticed within an hour")
		}
	}
	t.Logf("noticed after %s", c.at.Sub(began))
	if got := codes(a, c.at); got != "milter-silent" {
		t.Errorf("found %s", got)
	}
	if c.at.Sub(began) < 2*slot {
		t.Errorf("noticed after %s: a burst proves nothing", c.at.Sub(began))
	}
	mail(a, 1)
	if got := codes(a, c.at); got != "" {
		t.Errorf("asked again, and found %s", got)
	}
}

// A burst, as after a start of Postfix that had stood still, proves nothing, nor
// does what is seen before it is known who is new.
func TestMilterSilentNot(t *testing.T) {
	c := newClock()
	a := NewActivity(c.now)
	for n := range 100 {
		a.Question("sender", sender(n))
		c.pass(time.Minute)
	}
	if got := codes(a, c.at); got != "" {
		t.Errorf("soon after the start: %s", got)
	}
	c.pass(24 * time.Hour)
	for n := range 100 {
		a.Question("sender", sender(n))
		c.pass(5 * time.Second)
	}
	if got := codes(a, c.at); got != "" {
		t.Errorf("a burst: %s", got)
	}
}

// The maps aren't asked about mail that the milter took.
func TestMapsSilent(t *testing.T) {
	for _, sendmail := range []bool{false, true} {
		c := newClock()
		a := NewActivity(c.now)
		if sendmail {
			a.Question("tls_rcpt", addr.Address{})
		}
		began := c.at
		for codes(a, c.at) == "" {
			a.Message()
			a.Decided(true)
			a.Question("policy", addr.Address{}) // about others' mail
			c.pass(time.Minute)
			if c.at.Sub(began) > 4*time.Hour {
				t.Fatal("not noticed")
			}
		}
		t.Logf("Sendmail %t: noticed after %s", sendmail, c.at.Sub(began))
		if got := codes(a, c.at); got != "maps-silent" {
			t.Errorf("found %s", got)
		}
		if took := c.at.Sub(began); took < 2*slot || sendmail && took < slotOfQueues {
			t.Errorf("noticed after %s", took)
		}
		a.Question(map[bool]string{false: "forced", true: "tls_rcpt"}[sendmail], addr.Address{})
		if got := codes(a, c.at); got != "" {
			t.Errorf("asked again, and found %s", got)
		}
	}
	// What was refused, or stays here, is asked about by nobody.
	c := newClock()
	a := NewActivity(c.now)
	for range 100 {
		a.Decided(false)
		c.pass(time.Minute)
	}
	if got := codes(a, c.at); got != "" {
		t.Errorf("without mail that leaves: %s", got)
	}
}

// Nobody asks at all, though many did at this time on each of the last days.
func TestNobodyAsks(t *testing.T) {
	c := newClock()
	a := NewActivity(c.now)
	hour := func(n int) {
		for range n {
			a.Question("sender", addr.Address{})
			c.pass(time.Hour / 60)
		}
		c.pass(time.Duration(60-n) * time.Hour / 60)
	}
	for range 8 * 24 {
		hour(busy)
		if got := codes(a, c.at); got != "" {
			t.Fatalf("%s: %s", c.at, got)
		}
	}
	began := c.at
	for codes(a, c.at) == "" && c.at.Sub(began) < 5*time.Hour {
		c.pass(time.Minute)
	}
	if got := codes(a, c.at); got != "nobody-asks" || c.at.Sub(began) < quietHours*time.Hour {
		t.Errorf("found %q after %s", got, c.at.Sub(began))
	}
	a.Question("sender", addr.Address{})
	if got := codes(a, c.at); got != "" {
		t.Errorf("asked again, and found %s", got)
	}
	// One day of seven with less is enough for a site that rests at times.
	for range 7 * 24 {
		hour(busy)
	}
	for range 24 {
		hour(1)
	}
	c.pass(6 * time.Hour)
	if got := codes(a, c.at); got != "" {
		t.Errorf("after a quiet day: %s", got)
	}
}

func TestLast(t *testing.T) {
	c := newClock()
	a := NewActivity(c.now)
	if got := a.Last(); len(got) > 0 {
		t.Errorf("before anybody has asked: %v", got)
	}
	a.Message()
	a.Question("forced", addr.Address{})
	a.Question("unknown", addr.Address{})
	c.pass(time.Hour)
	a.Question("policy", addr.Address{})
	got := a.Last()
	if len(got) != 3 || !got["policy"].Equal(c.at) || !got[ByMilter].Equal(c.at.Add(-time.Hour)) || !got["forced"].Equal(got[ByMilter]) {
		t.Errorf("%v", got)
	}
}

// The memory of senders is bounded, and may be used by many at once.
func TestAskedMany(t *testing.T) {
	c := newClock()
	a := NewActivity(c.now)
	var wg sync.WaitGroup
	for part := range 4 {
		wg.Go(func() {
			for n := range mostSenders / 2 {
				a.Question("sender", sender(part*mostSenders+n))
				if n%1000 == 0 {
					a.Decided(true)
					a.Silent(c.now())
				}
			}
		})
	}
	wg.Wait()
	if n := len(a.senders); n != mostSenders {
		t.Errorf("%d senders are remembered", n)
	}
	c.pass(2 * remembered)
	a.Question("sender", sender(-1))
	if n := len(a.senders); n != 1 {
		t.Errorf("%d senders are remembered", n)
	}
}

func BenchmarkQuestion(b *testing.B) {
	a := NewActivity(nil)
	from := sender(1)
	for b.Loop() {
		a.Question("sender", addr.Address{})
		a.Question("sender", from)
	}
}
