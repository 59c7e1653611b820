package aliases

import (
	"errors"
	"fmt"
	"strings"

	"tlsonly/internal/addr"
)

// Kind says what a Target is.
type Kind string

// The kinds. A caller must treat what it doesn't expect as Unknown.
const (
	Address Kind = "address" // user@domain
	Name    Kind = "name"    // a name without a domain: a user or alias here, or the MTA adds its own domain
	Include Kind = "include" // :include:/path: a list in a file
	Command Kind = "command" // |command
	Path    Kind = "file"    // /path, in Postfix also ~/path; /dev/null discards
	Error   Kind = "error"   // mail is refused (Sendmail's virtusertable; no alias has it)
	Unknown Kind = "unknown" // it isn't known where this goes: never "nowhere"
)

// Target is one value of an alias, of a .forward file or of an included list.
type Target struct {
	Kind Kind
	// Address is set for Address and Name, not folded. A local part with "%" or "!" in it (or "@", that was quoted) goes
	// on from a domain that is the MTA's own; where, its settings say.
	Address addr.Address
	Text    string // path, command line, error text; for Unknown what stands in the file
	Escaped bool   // \user: neither alias nor .forward is applied again (in Postfix "\\user" in quotes, nothing less)
	Line    int    // in the file or text parsed, from 1
}

// ParseList reads the text of a .forward file or of an included list; name is for the faults only. Each line is a list of its
// own, a line that begins with "#" is a comment, nothing continues a line.
func ParseList(text, name string, d Dialect) ([]Target, []Fault) {
	p := parser{name: name, dialect: d}
	line := 0
	var targets []Target
	for s := range strings.SplitSeq(text, "\n") {
		line++
		if s == "" || s[0] == '#' {
			continue
		}
		if len(s) > lineLimit {
			// Postfix goes on in the middle of an address, Sendmail too.
			p.fault(line, "line longer than %d octets, which the MTA takes for several", lineLimit)
			targets = append(targets, Target{Kind: Unknown, Text: s[:40] + "…", Line: line})
			continue
		}
		if d == Sendmail {
			s = cutComment(s)
		}
		targets = append(targets, p.value(s, line)...)
	}
	return targets, p.faults
}

// ParseValue reads the right-hand side of an alias, as a table returns it (postalias -q) or as it stands in a file; line is that
// of its targets and faults. A value that names nothing is one Unknown target.
func ParseValue(text, name string, line int, d Dialect) ([]Target, []Fault) {
	p := parser{name: name, dialect: d}
	targets := p.value(text, line)
	if len(targets) == 0 {
		p.fault(line, "no value")
		targets = []Target{{Kind: Unknown, Text: text, Line: line}}
	}
	return targets, p.faults
}

// lineLimit is Postfix's line_length_limit and Sendmail's MAXLINE.
const lineLimit = 2048

// cutComment cuts Sendmail's other comment: " #@#" between blanks, anywhere but at the beginning.
func cutComment(s string) string {
	for i := 1; i+3 <= len(s); i++ {
		if s[i:i+3] == "#@#" && isBlank(s[i-1]) && (i+3 == len(s) || isBlank(s[i+3])) {
			return strings.TrimRight(s[:i], " \t\r")
		}
	}
	return s
}

// parser collects the faults of one text.
type parser struct {
	name    string
	dialect Dialect
	faults  []Fault
}

func (p *parser) fault(line int, format string, args ...any) {
	p.faults = append(p.faults, Fault{File: p.name, Line: line, Text: fmt.Sprintf(format, args...)})
}

// value reads one list of targets.
func (p *parser) value(text string, line int) []Target {
	var targets []Target
	add := func(t Target, err error) {
		if err != nil {
			p.fault(line, "%v", err)
		}
		t.Line = line
		targets = append(targets, t)
	}
	if p.dialect == Sendmail {
		for element := range elements(text) {
			add(sendmailTarget(element))
		}
		return targets
	}
	for _, tokens := range split(scan(text)) {
		add(postfixTarget(tokens))
	}
	return targets
}

// special makes a target of text that isn't an address.
func special(text string, d Dialect) (Target, bool) {
	switch {
	case strings.HasPrefix(text, "|"):
		return Target{Kind: Command, Text: trim(text[1:])}, true
	case strings.HasPrefix(text, "/"):
		return Target{Kind: Path, Text: text}, true
	case strings.HasPrefix(text, "~") && d != Sendmail: // local(8) of Postfix; in Sendmail it is a user's name
		return Target{Kind: Path, Text: text}, true
	case hasFold(text, include):
		return Target{Kind: Include, Text: trim(text[len(include):])}, true
	}
	return Target{}, false
}

const include = ":include:"

var errRoute = errors.New("where this goes hangs on the MTA's settings")

// mailbox makes a target of an address in its quoted form.
func mailbox(text string) (Target, error) {
	a, err := addr.ParsePath(text)
	switch {
	case err != nil:
		return Target{Kind: Unknown, Text: text}, err
	case a.IsNull():
		return Target{Kind: Unknown, Text: text}, errors.New("empty address")
	case !a.Domain.IsZero():
		return Target{Kind: Address, Address: a}, nil
	case strings.ContainsAny(a.Local, "@%!"):
		// "user%domain", "host!user", and "user@domain" in quotes: both MTAs send them on by default (Postfix:
		// allow_percent_hack, swap_bangpath, resolve_dequoted_address).
		return Target{Kind: Unknown, Text: text}, fmt.Errorf("address %q: %w", text, errRoute)
	}
	return Target{Kind: Name, Address: a}, nil
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// blanks are what an MTA takes off the ends of a text. Unicode has more, which are part of a name.
const blanks = " \t\r\n\v\f"

func trim(s string) string { return strings.Trim(s, blanks) }
