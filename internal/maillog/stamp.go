package maillog

import (
	"bytes"
	"regexp"
	"strconv"
	"time"
)

// clock gives traditional stamps their year: they have none.
type clock struct {
	zone  *time.Location
	year  int       // of the latest traditional stamp; 0: not known yet
	base  int       // of the first one
	month int       // of the latest one
	last  time.Time // an instant the first stamp isn't after
	seen  [48]byte
	size  int
}

// see notes the stamp of each line: a year ends where December is followed by
// January. A stamp that is none is false.
func (c *clock) see(stamp []byte) bool {
	c.size = copy(c.seen[:], stamp)
	if len(stamp) != 15 {
		return true
	}
	month := monthOf(stamp)
	if month == c.month && c.base != 0 {
		return true
	}
	if month == 0 {
		return false
	}
	if c.base == 0 {
		if c.year == 0 {
			c.year = c.last.In(c.zone).Year()
			if t, ok := c.time(stamp); ok && t.After(c.last.AddDate(0, 0, 1)) {
				c.year--
			}
		}
		c.base = c.year
	} else if month-c.month <= -6 {
		c.year++
	} else if month-c.month >= 6 && c.year > c.base { // a late line of December
		c.year--
	}
	c.month = month
	return true
}

// latest is the time of the last line seen.
func (c *clock) latest() time.Time {
	t, _ := c.time(c.seen[:c.size])
	return t
}

const months = "JanFebMarAprMayJunJulAugSepOctNovDec"

func monthOf(stamp []byte) int {
	for i := 0; i < len(months); i += 3 {
		if months[i] == stamp[0] && months[i+1] == stamp[1] && months[i+2] == stamp[2] {
			return i/3 + 1
		}
	}
	return 0
}

// time reads a stamp: a traditional one, an ISO one, or what normalize made.
func (c *clock) time(stamp []byte) (time.Time, bool) {
	if len(stamp) == 15 {
		day := stamp[4:6]
		if day[0] == ' ' {
			day = day[1:]
		}
		d, hour, minute, second := number(day), number(stamp[7:9]), number(stamp[10:12]), number(stamp[13:15])
		month := monthOf(stamp)
		if month == 0 || d == 0 || d > 31 || hour > 23 || minute > 59 || second > 60 {
			return time.Time{}, false
		}
		return time.Date(c.year, time.Month(month), int(d), int(hour), int(minute), int(second), 0, c.zone), true
	}
	text, zone, named := bytes.Cut(stamp, []byte(" "))
	if named && len(zone) > 0 && (zone[0] < '0' || zone[0] > '9') {
		return c.inZone(string(text), string(zone))
	}
	for _, layout := range []string{"2006-01-02T15:04:05Z07:00", "2006-01-02T15:04:05Z0700", "2006-01-02 15:04:05Z07:00", "2006-01-02 15:04:05Z0700"} {
		if t, err := time.Parse(layout, string(stamp)); err == nil {
			return t, true
		}
	}
	for _, layout := range []string{"2006-01-02T15:04:05", "2006-01-02 15:04:05"} {
		if t, err := time.ParseInLocation(layout, string(stamp), c.zone); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

// inZone reads a stamp with the short name of a zone. Such names are ambiguous: one
// that the clock's own zone doesn't have says nothing.
func (c *clock) inZone(text, name string) (time.Time, bool) {
	zone := c.zone
	if name == "UTC" || name == "GMT" {
		zone = time.UTC
	}
	t, err := time.ParseInLocation("2006-01-02T15:04:05", text, zone)
	if err != nil {
		return time.Time{}, false
	}
	// The hour that comes twice in autumn is told apart by the name.
	for _, shift := range []time.Duration{0, time.Hour, -time.Hour, 30 * time.Minute, -30 * time.Minute} {
		at := t.Add(shift)
		if short, _ := at.Zone(); short == name && at.Format("15:04:05") == t.Format("15:04:05") {
			return at, true
		}
	}
	return t, true
}

const (
	weekdays   = `(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)`
	monthNames = `(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)`
)

// stamps are the forms of time stamps, at a line's front. The groups of each:
//
//	1 to 4: date, time, fraction, zone     Mon 2026-11-23 17:00:00.1 CET, of journalctl
//	5 to 8: date, time, fraction, zone     2026-11-23T17:00:00.1+01:00
//	9 to 14: year, month, day, year, time, fraction, 15: year
//	                                       Nov 23 17:00:00.1, 2026 Nov 23 17:00:00, Mon Nov 23 17:00:00 2026
//	16, 17: seconds since 1970, fraction   1795454774.123456
var stamps = regexp.MustCompile(`^(?:` +
	weekdays + ` (\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)(?:\.(\d{1,9}))? ([A-Z]{2,5}|[+-]\d\d(?:\d\d)?)` +
	`|(\d{4}[-/]\d\d[-/]\d\d)[T ](\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))?(Z| ?[+-]\d\d(?::?\d\d)?)?` +
	`|(?:` + weekdays + ` )?(?:(\d{4}) )?(` + monthNames + `) ([ \d]?\d) (?:(\d{4}) )?(\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))?(?: (\d{4}))?` +
	`|(\d{10})(?:\.(\d{1,9}))?` +
	`)(?:[\s|]|$)`)

// stampEnd returns where the time stamp ends that b begins with, 0 when it begins
// with none.
func stampEnd(b []byte) int {
	if len(b) < 10 || (b[0] < '0' || b[0] > '9') && (b[0] < 'A' || b[0] > 'W') {
		return 0
	}
	groups := stamps.FindSubmatchIndex(b)
	end := 0
	for i := 2; i < len(groups); i++ {
		end = max(end, groups[i])
	}
	return end
}

// normalize writes a stamp that stampEnd found as clock reads it: traditional where
// it has no year, with whole seconds; else ISO, with a zone's short name after a
// space.
func normalize(to, b []byte) []byte {
	groups := stamps.FindSubmatchIndex(b)
	group := func(n int) []byte {
		if groups == nil || groups[2*n] < 0 {
			return nil
		}
		return b[groups[2*n]:groups[2*n+1]]
	}
	to = to[:0]
	for _, first := range []int{1, 5} {
		if group(first) == nil {
			continue
		}
		to = append(to, group(first)...)
		to[4], to[7] = '-', '-'
		to = append(append(to, 'T'), group(first+1)...)
		zone := bytes.TrimLeft(group(first+3), " ")
		if len(zone) > 1 && zone[0] >= 'A' {
			return append(append(to, ' '), zone...)
		}
		if fraction := group(first + 2); fraction != nil {
			to = append(append(to, '.'), fraction...)
		}
		if to = append(to, zone...); len(zone) == 3 { // "+01"
			to = append(to, "00"...)
		}
		return to
	}
	if seconds := group(16); seconds != nil {
		return unixStamp(to, string(seconds), string(group(17)))
	}
	month, day, year := group(10), bytes.TrimLeft(group(11), " "), group(9)
	for _, n := range []int{12, 15} {
		if year == nil {
			year = group(n)
		}
	}
	switch {
	case month == nil:
		return nil
	case year == nil:
		to = append(append(to, month...), ' ')
		if len(day) == 1 {
			to = append(to, ' ')
		}
		return append(append(append(to, day...), ' '), group(13)...)
	}
	to = append(append(to, year...), '-')
	to = append(append(to, strconv.Itoa(100 + monthOf(month))[1:]...), '-')
	if len(day) == 1 {
		to = append(to, '0')
	}
	return append(append(append(to, day...), 'T'), group(13)...)
}

// unixStamp writes seconds since 1970 and the digits of a fraction as a stamp.
func unixStamp(to []byte, seconds, fraction string) []byte {
	s, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil || s < 0 || s > 1<<36 {
		return nil
	}
	n, err := strconv.ParseInt((fraction + "000000000")[:9], 10, 64)
	if err != nil {
		return nil
	}
	return time.Unix(s, n).UTC().AppendFormat(to[:0], time.RFC3339Nano)
}

// zoned reports whether a stamp names an instant whatever the clock's zone and year:
// of two stamps of a line that one is better.
func zoned(stamp []byte) bool {
	n := len(stamp)
	return n > 19 && stamp[n-1] == 'Z' || n > 19 && bytes.ContainsAny(stamp[19:], "+-")
}
