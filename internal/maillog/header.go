package maillog

import (
	"bytes"
)

// mta is whose line it is.
type mta int

const (
	other mta = iota
	postfix
	sendmail
)

// header is what a log puts before a line's text. It points into the line, or into
// buffers of its own that the next line uses again.
type header struct {
	stamp   []byte // nil: the line has no time of day
	host    []byte
	tag     []byte // "postfix/smtp", "sm-mta"
	program []byte // the tag's last part; empty: the log doesn't name it
	pid     uint32
	text    []byte
	mta     mta
	form    Form
	lost    string // why the text isn't in the log, "" when it is

	normal [48]byte // a stamp in a form that clock reads
	// The last host that was found to be one.
	plain     [64]byte
	plainSize int
}

// split reads the front of a line. The common forms go first, for they are read
// without a second look:
//
//	Nov 23 17:00:00 host tag[1]: text          traditional (RFC 3164), Postfix's maillog_file, and without a host
//	2026-11-23T17:00:00.123+01:00 host tag[1]: text    rsyslog's FileFormat, journalctl -o short-iso
//	<22>1 2026-11-23T17:00:00Z host tag 1 - - text     RFC 5424, section 6
//
// What is neither goes to unwrap. It is false for a line without a header.
func (h *header) split(line []byte) bool {
	h.clear()
	if h.common(line) && h.plainHost() {
		// A container, or a relay, may have put its own header before the MTA's.
		if h.mayWrap() {
			h.inside(0)
		}
		return true
	}
	h.clear()
	return h.unwrap(line, nil, 0)
}

func (h *header) clear() {
	h.stamp, h.host, h.tag, h.program, h.text, h.lost = nil, nil, nil, nil, nil, ""
	h.pid, h.mta, h.form = 0, other, FormSyslog
}

// plainHost reports whether the host is one, and neither a mark nor another time.
func (h *header) plainHost() bool {
	if n := h.plainSize; n > 0 && string(h.host) == string(h.plain[:n]) {
		return true
	}
	if mark(h.host) || bytes.ContainsAny(h.host, "[]{}|") || stampEnd(h.host) > 0 {
		return false
	}
	if h.plainSize = 0; len(h.host) <= len(h.plain) {
		h.plainSize = copy(h.plain[:], h.host)
	}
	return true
}

// common reads the common forms.
func (h *header) common(line []byte) bool {
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
		h.form = FormISO
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
	h.text = line[end+1:]
	return h.tagged(line[:end-1])
}

// tagged takes "tag[1]" apart.
func (h *header) tagged(tag []byte) bool {
	if n := len(tag); n > 2 && tag[n-1] == ']' {
		open := bytes.LastIndexByte(tag, '[')
		if open < 0 {
			return false
		}
		h.pid = number(tag[open+1 : n-1])
		tag = tag[:open]
	}
	h.named(tag)
	return true
}

// fields reads HOSTNAME APP-NAME PROCID MSGID STRUCTURED-DATA MSG.
func (h *header) fields(line []byte) bool {
	h.form = FormRFC5424
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
	line = bytes.TrimLeft(bytes.TrimPrefix(line, []byte("-")), " ") // rsyslog writes two
	h.text = bytes.TrimPrefix(line, []byte("\ufeff"))
	h.named(field[1])
	return true
}

// named finds out whose line it is. Postfix's tag is syslog_name and the program,
// whatever syslog_name is; a log that cuts it at the slash (rsyslog's RFC 5424), or
// has the unit for it (journalctl -o with-unit), doesn't name the program.
func (h *header) named(tag []byte) {
	h.tag = tag
	if bytes.HasPrefix(h.text, []byte("[ID ")) { // Solaris, illumos: "[ID 197553 mail.info] "
		if end := bytes.Index(h.text, []byte("] ")); end > 0 {
			h.text = h.text[end+2:]
		}
	}
	if slash := bytes.LastIndexByte(tag, '/'); slash >= 0 {
		if program := tag[slash+1:]; postfixProgram(program) || bytes.HasPrefix(tag, []byte("postfix")) {
			h.program, h.mta = program, postfix
		}
		return
	}
	if rest, ok := bytes.CutPrefix(tag, []byte("postfix")); ok && (len(rest) == 0 || bytes.IndexByte([]byte("@-._"), rest[0]) >= 0) {
		h.mta = postfix
		return
	}
	if bytes.HasPrefix(tag, []byte("sendmail")) || bytes.HasPrefix(tag, []byte("sm-")) {
		h.program, h.mta = tag, sendmail
	}
}

// postfixProgram reports whether a program is one of Postfix's that log.
func postfixProgram(name []byte) bool {
	switch string(name) {
	case "smtp", "lmtp", "qmgr", "nqmgr", "oqmgr", "master", "smtpd", "local", "virtual", "pipe", "discard", "error", "retry",
		"cleanup", "pickup", "bounce", "defer", "trace", "verify", "flush", "proxymap", "proxywrite", "scache", "anvil", "tlsmgr",
		"tlsproxy", "postscreen", "dnsblog", "trivial-rewrite", "showq", "qmqpd", "spawn", "postlogd", "postlog", "postqueue",
		"postdrop", "postsuper", "postmap", "postalias", "postcat", "postkick", "sendmail", "postfix-script", "post-install":
		return true
	}
	return false
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
