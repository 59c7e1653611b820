// Package mtasts answers what a mail domain publishes by MTA-STS now: it reads the record and the policy, fetches
// the policy over HTTPS and keeps it to the end of its max_age. It judges no mail host: policy.STS does, and rules
// say whether that counts.
//
// It follows RFC 8461: section 3.1 (record), 3.2 (policy), 3.3 (fetch), 5.1 (what is kept and until when) and 10
// (what an attacker can take away). A policy once seen ends by its max_age, or because the policy host, with a
// valid certificate, says something else; never because DNS or the policy host is silent.
//
// The caller holds a Keeper for the life of the program, gives it the site's resolver, seeds it with what was saved
// and closes it. It asks for domains that mail is routed to by MX: never for address literals, for which there are
// no policies, nor for a relay in brackets (section 3.4: the relay's own domain would be the one to ask for).
//
// SECURITY: record, policy and certificate are a stranger's. Size, time and number of fetches are bounded, redirects
// are not followed, and a body whose end isn't announced is refused, for anyone on the way could have cut it. A
// policy seen for the first time can be suppressed by who controls the network (section 10.2); DANE can't.
//
// BUGS: certificates are not checked for revocation, which section 3.3 leaves open.
package mtasts

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

const version = "STSv1"

// MaxAge is the longest life of a policy: RFC 8461, section 3.2. A longer one is taken for this.
const MaxAge = 31557600 * time.Second

// ErrSeveral says that there is more than one record, and so none: RFC 8461, section 3.1.
var ErrSeveral = errors.New("there are several, of which none counts")

const wsp = " \t"

// ParseRecord reads the text records at "_mta-sts.<domain>", the strings of each joined. Records that aren't MTA-STS's
// are ignored; found says that one was there. With an error, ErrSeveral or one about syntax, found is true and
// the domain has no policy that could be fetched (RFC 8461, section 3.1). Where
// there is none, one that was clearly meant to be one is an error, too: its
// domain has published something, if not what it thinks.
func ParseRecord(txt []string) (id string, found bool, err error) {
	meant := ""
	for _, s := range txt {
		rest, ok := strings.CutPrefix(s, "v="+version)
		if !ok {
			if strings.Contains(strings.ToLower(s), strings.ToLower(version)) {
				meant = s
			}
			continue
		}
		// The prose has "v=STSv1;", the grammar lets blanks precede the semicolon (erratum 6285). Either is taken; "v=STSv10" isn't.
		rest, ok = strings.CutPrefix(strings.TrimLeft(rest, wsp), ";")
		if !ok {
			meant = s
			continue
		}
		if found {
			return "", true, fmt.Errorf("%s: %w", policy.STSRecord, ErrSeveral)
		}
		found = true
		id, err = parseFields(rest)
	}
	if !found && meant != "" {
		found, err = true, fmt.Errorf("%.80q: want it to begin with %q", meant, "v="+version+";")
	}
	if err != nil {
		return "", true, fmt.Errorf("%s: %w", policy.STSRecord, err)
	}
	return id, found, nil
}

// parseFields reads what follows the version of a record.
func parseFields(s string) (id string, err error) {
	fields := strings.Split(s, ";")
	if n := len(fields); n > 1 && strings.Trim(fields[n-1], wsp) == "" {
		fields = fields[:n-1] // the one semicolon that may stand at the end
	}
	seen := false
	for _, field := range fields {
		field = strings.Trim(field, wsp)
		name, value, ok := strings.Cut(field, "=")
		if !ok || !isName(name) || !isValue(value) {
			return "", fmt.Errorf("field %.80q: want name=value", field)
		}
		// RFC 8461, section 3.2, for both grammars: of a field that is repeated the first counts, unknown ones are ignored.
		if name != "id" || seen {
			continue
		}
		seen = true
		if len(value) > 32 || strings.ContainsFunc(value, func(r rune) bool { return !isAlnum(byte(r)) }) {
			return "", fmt.Errorf("id %.80q: want 1 to 32 letters and digits", value)
		}
		id = value
	}
	if !seen {
		return "", errors.New("no id")
	}
	return id, nil
}

// Policy is a policy as a domain publishes it.
type Policy struct {
	Mode   policy.STSMode
	MX     []string      // "mx.example.com", "*.example.net": lower case, A-labels; none only with mode none
	MaxAge time.Duration // at most MaxAge
}

// ParsePolicy reads a policy file. Errors name the line.
func ParsePolicy(text []byte) (Policy, error) {
	var p Policy
	first := map[string]string{}
	n := 0
	for line := range strings.SplitSeq(string(text), "\n") {
		n++
		// RFC 8461, section 3.2: lines end in LF or CRLF and may have blanks at the end, not at the beginning.
		line = strings.TrimRight(strings.TrimSuffix(line, "\r"), wsp)
		if line == "" {
			continue // not in the grammar, but in use
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || !isName(name) {
			return Policy{}, fmt.Errorf("policy line %d: %.80q: want name: value", n, line)
		}
		if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
			return Policy{}, fmt.Errorf("policy line %d: %s: control character", n, name)
		}
		value = strings.TrimLeft(value, wsp)
		if name == "mx" {
			mx, err := parsePattern(value)
			if err != nil {
				return Policy{}, fmt.Errorf("policy line %d: mx %.80q: %w", n, value, err)
			}
			p.MX = append(p.MX, mx)
			continue
		}
		// RFC 8461, section 3.2: of a key that is repeated the first counts.
		if _, ok := first[name]; !ok {
			first[name] = value
		}
	}
	if v, ok := first["version"]; !ok || v != version {
		return Policy{}, fmt.Errorf("policy version %.80q: want %s", v, version)
	}
	switch first["mode"] {
	case string(policy.STSNone):
		p.Mode = policy.STSNone
	case string(policy.STSTesting):
		p.Mode = policy.STSTesting
	case string(policy.STSEnforce):
		p.Mode = policy.STSEnforce
	default:
		return Policy{}, fmt.Errorf("policy mode %.80q: want enforce, testing or none", first["mode"])
	}
	age := first["max_age"]
	seconds, err := strconv.ParseUint(age, 10, 64)
	if err != nil || len(age) > 10 {
		return Policy{}, fmt.Errorf("policy max_age %.80q: want a number of up to 10 digits", age)
	}
	p.MaxAge = MaxAge
	if seconds < uint64(MaxAge/time.Second) {
		p.MaxAge = time.Duration(seconds) * time.Second
	}
	// RFC 8461, section 3.2: at least one, unless the policy says that there is none.
	if len(p.MX) == 0 && p.Mode != policy.STSNone {
		return Policy{}, fmt.Errorf("policy of mode %s without mx", p.Mode)
	}
	return p, nil
}

// parsePattern takes a host name or "*." and a domain. RFC 8461, section 3.2: A-labels, not U-labels.
func parsePattern(s string) (string, error) {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return "", errors.New("want A-labels")
		}
	}
	name, wildcard := strings.CutPrefix(s, "*.")
	d, err := addr.ParseDomain(name)
	if err != nil {
		return "", err
	}
	if d.IsLiteral() {
		return "", errors.New("an address literal")
	}
	if wildcard {
		return "*." + d.String(), nil
	}
	return strings.Clone(d.String()), nil // so that what is kept for months doesn't keep the file with it
}

// isName is the grammar's sts-ext-name and sts-policy-ext-name, of which the known names are some.
func isName(s string) bool {
	if s == "" || len(s) > 32 || !isAlnum(s[0]) {
		return false
	}
	for i := range len(s) {
		if !isAlnum(s[i]) && !strings.ContainsRune("_-.", rune(s[i])) {
			return false
		}
	}
	return true
}

// isValue is the grammar's sts-ext-value; the semicolon was the end of it.
func isValue(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' || s[i] == '=' {
			return false
		}
	}
	return s != ""
}

func isAlnum(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}
