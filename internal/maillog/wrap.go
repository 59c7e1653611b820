package maillog

import (
	"bytes"
	"encoding/json"
	"strings"
)

// Form is how the lines of a log are written.
type Form string

// The forms, by what their headers are like.
const (
	FormSyslog  Form = "syslog"                   // RFC 3164 and its relatives
	FormISO     Form = "syslog with ISO times"    // rsyslog's, Postfix's own, journalctl -o short-iso
	FormRFC5424 Form = "syslog, RFC 5424"         //
	FormTimes   Form = "syslog with other times"  // since 1970, with a year, a weekday or a zone
	FormJSON    Form = "JSON"                     // of journalctl, Docker, rsyslog, syslog-ng, log shippers
	FormExport  Form = "journal, export format"   //
	FormVerbose Form = "journal, verbose"         //
	FormTwice   Form = "a header before a header" // of a container, of a relay, of grep
)

// FormsRead names the forms that are read, for people.
const FormsRead = "syslog (RFC 3164, RFC 5424, ISO times, times since 1970; of rsyslog, syslog-ng, Solaris, AIX, the BSDs and Postfix itself); " +
	"journalctl with -o short, short-full, short-iso, short-iso-precise, short-precise, short-unix, with-unit, verbose, export, json, json-pretty, " +
	"json-sse, json-seq; JSON lines of Docker, rsyslog, syslog-ng and log shippers; any of them behind what docker logs -t, docker compose logs, " +
	"kubectl logs --prefix, a container runtime (CRI) or grep puts before it; plain, or packed by gzip or bzip2"

// Limits of a header: how many words it has besides times and marks, and how many
// headers stand one in the other.
const (
	maxWords = 8
	maxDepth = 3
)

// wrapped reports whether a text may begin with a header of its own.
func wrapped(text []byte) bool {
	text = bytes.TrimLeft(text, " \t")
	return len(text) > 0 && (text[0] == '{' || text[0] == '<' || stampEnd(text) > 0)
}

// unwrap reads the front of a line in any other form: times, marks and words in any
// order, and the tag, which ends it. A tag of another program may be followed by a
// header of its own. The time is the last one, or the last one with a zone; outer is
// one that was read before. The host is the first word that isn't the name of a
// facility, a severity or a stream.
func (h *header) unwrap(line, outer []byte, depth int) bool {
	h.stamp = h.keep(outer)
	words, times := 0, 0
	var source []byte // a container's name, for a host where there is none
	if outer != nil {
		times = 1
	}
	for words <= maxWords {
		line = bytes.TrimLeft(line, " \t\x1e")
		line = bytes.TrimPrefix(line, []byte("\ufeff"))
		if len(line) == 0 {
			return false
		}
		if line[0] == 0x1b { // a colour of docker compose
			end := bytes.IndexByte(line, 'm')
			if end < 0 {
				return false
			}
			line = line[end+1:]
			continue
		}
		if end := stampEnd(line); end > 0 {
			h.time(line[:end], times)
			line, times, h.host = line[end:], times+1, nil
			continue
		}
		switch line[0] {
		case '|': // docker compose: "name-1  | "
			if source == nil {
				source = h.host
			}
			line, words, h.host = line[1:], 0, nil
			continue
		case '{':
			return h.json(line, depth)
		case '<':
			end := bytes.IndexByte(line, '>')
			if end < 2 || !mark(line[:end+1]) {
				return false
			}
			line = line[end+1:]
			if rest, ok := bytes.CutPrefix(line, []byte("1 ")); ok {
				end := stampEnd(rest)
				switch {
				case end > 0:
					h.time(rest[:end], times)
				case len(rest) > 0 && rest[0] == '-': // NILVALUE
					end = 1
				default:
					continue
				}
				return h.fields(bytes.TrimPrefix(rest[end:], []byte(" ")))
			}
			continue
		case '[': // "[pod/name/container]", "[    5.001000 <    0.001000 >]", "[2026-11-23T17:00:00Z]"
			end := bytes.IndexByte(line, ']')
			if end < 0 {
				return false
			}
			if inner := line[1:end]; stampEnd(inner) == len(inner) && end > 1 {
				h.time(inner, times)
				times++
			} else if bytes.IndexByte(inner, '/') > 0 {
				source = inner
			}
			line = line[end+1:]
			words++
			continue
		}
		end := bytes.IndexAny(line, " \t")
		if end < 0 {
			return false
		}
		token := line[:end]
		if token[len(token)-1] == ':' && len(token) > 1 {
			if h.host == nil {
				h.host = source
			}
			return h.ends(token[:len(token)-1], line[min(end+1, len(line)):], depth)
		}
		if rest := afterFileName(line, end); rest != nil {
			line, words, h.host, h.form = rest, 0, nil, FormTwice
			continue
		}
		// macOS: "tag[1] <Info>: text"
		if rest := line[end+1:]; token[len(token)-1] == ']' && len(rest) > 1 && rest[0] == '<' {
			if mark, text, ok := bytes.Cut(rest, []byte(">: ")); ok && len(mark) < 12 {
				return h.ends(token, text, depth)
			}
		}
		if words++; h.host == nil && !mark(token) {
			h.host = token
		}
		line = line[end+1:]
	}
	return false
}

// time takes a stamp of the line, as the clock reads it, unless it has a better one.
func (h *header) time(stamp []byte, before int) {
	next := normalize(make([]byte, 0, len(h.normal)), stamp)
	if before > 0 {
		h.form = FormTwice
	}
	if len(next) == 0 || zoned(h.stamp) && !zoned(next) {
		return
	}
	h.stamp = h.keep(next)
	switch {
	case len(next) == 15, h.form == FormTwice:
	case len(stamp) > 10 && stamp[4] == '-' && stamp[10] == 'T':
		h.form = FormISO
	default:
		h.form = FormTimes
	}
}

// keep has the header keep a stamp.
func (h *header) keep(stamp []byte) []byte {
	if stamp == nil || len(stamp) > len(h.normal) {
		return nil
	}
	return h.normal[:copy(h.normal[:], stamp)]
}

// ends takes the tag, and goes on where another header follows it.
func (h *header) ends(tag, text []byte, depth int) bool {
	h.text = text
	if bytes.ContainsAny(tag, `<>="`) || !h.tagged(tag) {
		return false
	}
	if depth < maxDepth && h.mayWrap() {
		h.inside(depth)
	}
	return true
}

// inside takes the header that the text begins with, if there is one.
func (h *header) inside(depth int) bool {
	inner := header{form: FormTwice}
	if !inner.unwrap(h.text, h.stamp, depth+1) || inner.mta == other && h.mta == other && len(h.tag) > 0 {
		return false
	}
	if inner.host == nil {
		inner.host = h.host
	}
	*h = inner
	return true
}

// mayWrap reports whether a line's text may have a header of its own: it begins like
// one, and the program isn't known to be an MTA's. A container may be called smtp.
func (h *header) mayWrap() bool {
	return (h.mta == other || h.mta == postfix && !bytes.HasPrefix(h.tag, []byte("postfix"))) && wrapped(h.text)
}

// afterFileName returns what follows the name of a file that grep put before a time:
// "mail.log:12:Nov 23 17:00:00 …". It is nil where there is none.
func afterFileName(line []byte, end int) []byte {
	for i, c := range line[:end] {
		if (c == ':' || c == '-') && i > 0 && stampEnd(line[i+1:]) > 0 {
			return line[i+1:]
		}
	}
	return nil
}

// mark reports whether a word is a facility, a severity, both, or a stream's name,
// in any of their forms: "<22>", "<2.6>", "<mail.info>", "mail.info", "mail:info",
// "info", "stdout", "F".
func mark(word []byte) bool {
	if n := len(word); n > 2 && word[0] == '<' && word[n-1] == '>' {
		word = word[1 : n-1]
		if len(bytes.Trim(word, "0123456789.")) == 0 {
			return true
		}
	}
	if len(word) == 0 || len(word) > 20 {
		return false
	}
	facility, severity, both := bytes.Cut(word, []byte("."))
	if !both {
		facility, severity, both = bytes.Cut(word, []byte(":"))
	}
	if both {
		return facilities[string(bytes.ToLower(facility))] && severities[string(bytes.ToLower(severity))]
	}
	name := string(bytes.ToLower(word))
	return severities[name] || facilities[name] && name != "mail" || name == "stdout" || name == "stderr" || string(word) == "F" || string(word) == "P"
}

var severities = set("emerg panic alert crit critical err error warning warn notice info debug none")

var facilities = set("kern user mail daemon auth authpriv security syslog lpr news uucp cron ftp " +
	"local0 local1 local2 local3 local4 local5 local6 local7")

func set(names string) map[string]bool {
	m := map[string]bool{}
	for name := range strings.FieldsSeq(names) {
		m[name] = true
	}
	return m
}

// json reads an object: an entry of the journal, or what Docker, rsyslog, syslog-ng
// or a log shipper writes of a line.
func (h *header) json(line []byte, depth int) bool {
	var object map[string]any
	if err := json.Unmarshal(line, &object); err != nil {
		return false
	}
	entry := map[string]string{}
	for name, v := range object {
		if s, ok := textOf(v); ok {
			entry[strings.ToLower(name)] = s
		}
	}
	ok := h.entry(entry, depth)
	h.form = FormJSON
	return ok
}

// textOf is a value as text: the journal has octets that aren't UTF-8 as numbers,
// and a field that occurs more than once as a list, of which the first counts.
func textOf(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case float64:
		b, err := json.Marshal(v)
		return string(b), err == nil
	case []any:
		octets := make([]byte, 0, len(v))
		for _, x := range v {
			n, ok := x.(float64)
			if !ok || n < 0 || n > 255 {
				return textOf(v[0])
			}
			octets = append(octets, byte(n))
		}
		return string(octets), true
	}
	return "", false
}

// entry reads an entry of named fields; the names are in small letters.
func (h *header) entry(entry map[string]string, depth int) bool {
	first := func(names string) string {
		for name := range strings.FieldsSeq(names) {
			if v := entry[name]; v != "" && v != "-" {
				return v
			}
		}
		return ""
	}
	at := first("_source_realtime_timestamp __realtime_timestamp timereported isodate timestamp @timestamp time timegenerated date ts")
	if stamp := entryStamp(at); stamp != nil && !(zoned(h.stamp) && !zoned(stamp)) {
		h.stamp = h.keep(stamp)
	}
	if host := first("_hostname hostname host logsource"); host != "" {
		h.host = []byte(host)
	}
	text, told := entry["message"]
	for _, name := range []string{"msg", "log", "short_message"} {
		if !told {
			text, told = entry[name]
		}
	}
	h.text = []byte(strings.TrimRight(text, "\r\n"))
	tag := strings.TrimSuffix(first("syslog_identifier syslogtag program app-name appname _application_name programname ident tag"), ":")
	if tag != "" {
		h.text = bytes.TrimLeft(h.text, " ")
		if !h.tagged([]byte(tag)) {
			return false
		}
		if pid := first("syslog_pid _pid pid procid process_id _process_id"); h.pid == 0 {
			h.pid = number([]byte(pid))
		}
		if !told {
			h.lost = noText
		}
	}
	if h.mta != other {
		return true
	}
	return depth < maxDepth && told && h.inside(depth) || tag != ""
}

// entryStamp reads the time of an entry: a stamp, or a number of seconds,
// milliseconds, microseconds or nanoseconds since 1970.
func entryStamp(at string) []byte {
	if at == "" {
		return nil
	}
	if whole, fraction, _ := strings.Cut(at, "."); len(whole) >= 10 && strings.Trim(at, "0123456789.") == "" {
		digits := whole + fraction
		return unixStamp(nil, digits[:10], digits[10:])
	}
	if end := stampEnd([]byte(at)); end == 0 || end != len(at) {
		return nil
	}
	return normalize(nil, []byte(at))
}
