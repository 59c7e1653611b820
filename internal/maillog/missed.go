package maillog

import (
	"bytes"
	"slices"
)

// Missed is a line that wasn't understood.
type Missed struct {
	Line int64  `json:"line"` // counted from 1
	Why  string `json:"why"`
	Text string `json:"text"` // its beginning
}

// Why a line wasn't understood.
const (
	noForm    = "its beginning is in no known format"
	noTime    = "it has no time of day that can be read"
	badTime   = "its time is none"
	tooLong   = "it is too long"
	noProgram = "its program isn't known as one of Postfix or Sendmail"
	noQueueID = "its queue id can't be read"
	noStatus  = "it is a delivery, and its end is missing"
	noPath    = "it is a delivery, and its recipient can't be read"
	noPart    = "it is a part of a line whose others are missing"
	noText    = "its text isn't in the log (journalctl wants --all)"
)

// maxExamples is how many lines that weren't understood are shown of a source.
const maxExamples = 3

// miss counts lines that weren't understood.
func (s *Stats) miss(at, lines int64, line []byte, why string) {
	if s.Missed += lines; len(s.Examples) < maxExamples {
		s.Examples = append(s.Examples, Missed{Line: at, Why: why, Text: clip(bytes.TrimSpace(line))})
	}
}

// form notes the form of a line.
func (s *Stats) form(f Form) {
	if !slices.Contains(s.Forms, f) {
		s.Forms = append(s.Forms, f)
	}
}

// couldDeliver reports whether a text has what each delivery of Postfix and Sendmail
// has, whatever stands around it: a recipient, and after it where the message went,
// and for how long or what became of it.
func couldDeliver(text []byte) bool {
	for rest := text; ; {
		at := bytes.Index(rest, []byte("to="))
		if at < 0 {
			return false
		}
		alone := at == 0 || !letter(rest[at-1]) // "proto=" is another word
		if rest = rest[at+3:]; alone {
			has := func(word string) bool { return bytes.Contains(rest, []byte(word)) }
			return (has("relay=") || has("mailer=")) && (has("status=") || has("stat=") || has("delay="))
		}
	}
}

func letter(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_' }

// looksMailed reports whether a line whose header can't be read may be one of Postfix
// or Sendmail: it could be a delivery, or has one of their tags.
func looksMailed(line []byte) bool {
	return couldDeliver(line) || hasTag(line)
}

// hasTag looks for "postfix/…[1]", "sm-…[1]" and "sendmail[1]"; the slash may have a
// backslash before it, as in JSON.
func hasTag(line []byte) bool {
	for _, name := range []string{"postfix", "sm-", "sendmail"} {
		for rest := line; ; {
			at := bytes.Index(rest, []byte(name))
			if at < 0 {
				break
			}
			alone := at == 0 || !letter(rest[at-1])
			rest = rest[at+len(name):]
			end := bytes.IndexAny(rest, "[ \t")
			if !alone || end < 0 || rest[end] != '[' || name == "postfix" && bytes.IndexByte(rest[:end], '/') < 0 {
				continue
			}
			digits := len(rest[end+1:]) - len(bytes.TrimLeft(rest[end+1:], "0123456789"))
			if after := rest[end+1+digits:]; digits > 0 && len(after) > 0 && after[0] == ']' {
				return true
			}
		}
	}
	return false
}
