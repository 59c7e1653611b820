package maillog

import (
	"bytes"
	"time"
)

// mta is whose line it is.
type mta int

const (
	other mta = iota
	postfix
	sendmail
)

// header is what syslog puts before a line's text. It points into the line.
type header struct {
	stamp   []byte
	host    []byte
	tag     []byte // "postfix/smtp", "sm-mta"
	program []byte // the tag's last part
	pid     uint32
	text    []byte
	mta     mta
}

// split reads the front of a line. It knows:
//
//	Nov 23 17:00:00 host tag[1]: text          traditional (RFC 3164), Postfix's maillog_file, and without a host
//	2026-11-23T17:00:00.123+01:00 host tag[1]: text    rsyslog's FileFormat, journalctl -o short-iso
//	<22>1 2026-11-23T17:00:00Z host tag 1 - - text     RFC 5424, section 6
func (h *header) split(line []byte) bool {
	*h = header{}
	rfc5424 := false
	if len(line) > 0 && line[0] == '<' {
		end := bytes.IndexByte(line, '>')
		if end < 2 || end > 4 {
			return false
		}
		line = line[end+1:]
		if bytes.HasPrefix(line, []byte("1 ")) {
			line, rfc5424 = line[2:], true
		}
	}
	switch {
	case len(line) > 16 && line[3] == ' ' && line[6] == ' ' && line[9] == ':' && line[12] == ':' && line[15] == ' ':
		h.stamp, line = line[:15], line[16:]
	case len(line) > 20 && line[4] == '-' && line[7] == '-' && (line[10] == 'T' || line[10] == ' ') && line[13] == ':':
		end := bytes.IndexByte(line[11:], ' ')
		if end < 0 {
			return false
		}
		h.stamp, line = line[:11+end], line[12+end:]
	default:
		return false
	}
	if rfc5424 {
		return h.fields(line)
	}
	end := bytes.IndexByte(line, ' ')
	if end <= 0 {
		return false
	}
	if line[end-1] != ':' { // "tag[1]:" is no host
		h.host, line = line[:end], line[end+1:]
		if end = bytes.IndexByte(line, ' '); end <= 0 {
			return false
		}
	}
	if line[end-1] != ':' {
		return false
	}
	tag := line[:end-1]
	h.text = line[end+1:]
	if n := len(tag); n > 2 && tag[n-1] == ']' {
		open := bytes.LastIndexByte(tag, '[')
		if open < 0 {
			return false
		}
		h.pid = number(tag[open+1 : n-1])
		tag = tag[:open]
	}
	return h.named(tag)
}

// fields reads HOSTNAME APP-NAME PROCID MSGID STRUCTURED-DATA MSG.
func (h *header) fields(line []byte) bool {
	var field [4][]byte
	for i := range field {
		end := bytes.IndexByte(line, ' ')
		if end < 0 {
			return false
		}
		field[i], line = line[:end], line[end+1:]
	}
	h.host, h.pid = field[0], number(field[2])
	for bytes.HasPrefix(line, []byte("[")) { // RFC 5424, section 6.3: in a value "]" is escaped
		end := 1
		for end < len(line) && line[end] != ']' {
			if line[end] == '\\' {
				end++
			}
			end++
		}
		if end >= len(line) {
			return false
		}
		line = line[end+1:]
	}
	line = bytes.TrimPrefix(bytes.TrimPrefix(line, []byte("-")), []byte(" "))
	h.text = bytes.TrimPrefix(line, []byte("\ufeff"))
	return h.named(field[1])
}

// named finds out whose line it is.
func (h *header) named(tag []byte) bool {
	h.tag = tag
	if slash := bytes.LastIndexByte(tag, '/'); slash >= 0 {
		h.program, h.mta = tag[slash+1:], postfix
		return true
	}
	if bytes.HasPrefix(tag, []byte("sendmail")) || bytes.HasPrefix(tag, []byte("sm-")) {
		h.program, h.mta = tag, sendmail
	}
	if bytes.HasPrefix(h.text, []byte("[ID ")) { // Solaris: "[ID 197553 mail.info] "
		if end := bytes.Index(h.text, []byte("] ")); end > 0 {
			h.text = h.text[end+2:]
		}
	}
	return true
}

func number(digits []byte) uint32 {
	var n uint32
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0
		}
		n = n*10 + uint32(c-'0')
	}
	return n
}

// clock gives traditional stamps their year: they have none.
type clock struct {
	zone  *time.Location
	year  int       // of the latest traditional stamp; 0: not known yet
	base  int       // of the first one
	month int       // of the latest one
	last  time.Time // an instant the first stamp isn't after
	seen  [40]byte
	size  int
}

// see notes the stamp of each line: a year ends where December is followed by January. A stamp that is none is false.
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

// time reads a stamp.
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
	for _, layout := range []string{"2006-01-02T15:04:05Z07:00", "2006-01-02T15:04:05Z0700"} {
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
