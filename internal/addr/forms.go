package addr

import (
	"errors"
	"slices"
	"strings"
)

// SRS says whose mail is what came under a rewritten sender (Sender Rewriting
// Scheme: a host that forwards puts a domain of its own in place of the
// sender's, and keeps the sender in the local part).
type SRS string

// What SRS can be.
const (
	SRSIgnore SRS = "ignore" // the sender's inside; the default
	SRSMatch  SRS = "match"  // that of both: the sender inside, and the address as it stands
)

// Forms says in which forms an address can come that others have put something
// around, or behind, and whose mail that is. The zero value knows all forms,
// with SRSIgnore and the delimiter "+".
//
// SECURITY: anybody can write such a form. So what isn't of its exact syntax is
// taken for every address that it may mean and for itself, too.
type Forms struct {
	// Delimiter holds the characters that begin an address extension, as
	// Postfix's recipient_delimiter; "+" always does.
	Delimiter string `json:"delimiter,omitempty"`
	SRS       SRS    `json:"srs,omitempty"`
}

// Join returns the forms by which whatever is protected under f or g is.
func (f Forms) Join(g Forms) Forms {
	for _, c := range g.Delimiter {
		if !strings.ContainsRune(f.Delimiter, c) {
			f.Delimiter += string(c)
		}
	}
	if g.SRS == SRSMatch {
		f.SRS = SRSMatch
	}
	return f
}

// Normal returns f as it is compared: every form that means the same is equal.
func (f Forms) Normal() Forms {
	chars := []rune(strings.ReplaceAll(f.Delimiter, "+", ""))
	slices.Sort(chars)
	f.Delimiter = string(slices.Compact(chars))
	if f.SRS == SRSIgnore {
		f.SRS = ""
	}
	return f
}

// Bounds of what is read in one address. Nobody's software comes near them.
const (
	deepest  = 40
	mostRead = 200
)

// errWrapped says that nobody can tell whose address it is.
var errWrapped = errors.New("wrapped too often")

// Senders returns the addresses whose mail a sender's is, at least one: itself,
// or where it has one of these forms the address inside.
//
//	prvs=TAG=LOCAL@…, prvs=LOCAL=TAG@…     Bounce Address Tag Validation
//	btv1==TAG==LOCAL@…, msprvs1=TAG=LOCAL@…  the same by others
//	SRS0=HASH=TIME=DOMAIN=LOCAL@…          Sender Rewriting Scheme, also with
//	SRS1=HASH=HOST==HASH=TIME=…@…          "+" or "-" after the first word
//	USER+SRS=HASH=TIME=DOMAIN=LOCAL@…      the same by others
//
// The error says that the forms are put around each other so often that nobody
// can tell.
func (f Forms) Senders(a Address) ([]Address, error) {
	if !Wrapped(a.Local) {
		return []Address{a}, nil // as for nearly all
	}
	r := reader{forms: f, seen: map[Address]bool{}, found: map[Address]bool{}}
	if !r.read(a, 0) {
		return nil, errWrapped
	}
	return r.senders, nil
}

// reader takes an address apart.
type reader struct {
	forms   Forms
	seen    map[Address]bool // folded
	found   map[Address]bool // folded
	senders []Address
}

func (r *reader) add(a Address) {
	if k := a.Fold(); !r.found[k] {
		r.found[k] = true
		r.senders = append(r.senders, a)
	}
}

// read adds whose mail a is; false where there is too much to read.
func (r *reader) read(a Address, depth int) bool {
	if k := a.Fold(); r.seen[k] {
		return true
	} else if r.seen[k] = true; depth > deepest || len(r.seen) > mostRead {
		return false
	}
	inside, kind, ok := unwrap(a)
	if !ok {
		r.add(a)
		return true
	}
	if kind == doubtful || kind == rewritten && r.forms.SRS == SRSMatch {
		r.add(a)
	}
	for _, b := range inside {
		if !r.read(b, depth+1) {
			return false
		}
	}
	return true
}

// wrapping says what is around an address.
type wrapping int

const (
	tagged    wrapping = iota // BATV
	rewritten                 // SRS
	doubtful                  // it begins like one of them and isn't of its syntax
)

// unwrap takes one form off. Of what can be read in several ways each is
// returned; ok is false for an address without.
func unwrap(a Address) (inside []Address, kind wrapping, ok bool) {
	lower := strings.ToLower(a.Local)
	for _, t := range []struct {
		prefix string
		seps   []string
		isTag  func(string) bool
	}{
		{"prvs=", []string{"=", "/"}, isPRVS},
		{"msprvs1=", []string{"="}, isTag},
		{"btv1==", []string{"=="}, isTag},
	} {
		if strings.HasPrefix(lower, t.prefix) {
			inside, kind = untag(a, a.Local[len(t.prefix):], t.seps, t.isTag)
			return inside, kind, true
		}
	}
	if strings.HasPrefix(lower, "srs") {
		return unrewrite(a, a.Local)
	}
	// Some put the forwarder's own user before it: it is that user's address
	// with an extension, and nobody knows who wrote it.
	if at := strings.Index(lower, "+srs="); at > 0 {
		inside, _, ok = unrewrite(a, a.Local[at+1:])
		return inside, doubtful, ok
	}
	return nil, 0, false
}

// Wrapped reports whether a local part, quoted or not, has one of the forms.
func Wrapped(local string) bool {
	_, _, ok := unwrap(Address{Local: strings.Trim(local, `" `)})
	return ok
}

// isPRVS knows a tag of prvs: a digit for the key, three for the day, and six
// hexadecimal ones.
func isPRVS(s string) bool {
	return len(s) == 10 && allOf(s[:4], isDigit) && allOf(s[4:], isHex)
}

// isTag knows the tags of others: letters and digits, some of each.
func isTag(s string) bool {
	return len(s) >= 8 && allOf(s, isAlnum) && strings.ContainsAny(s, "0123456789")
}

func allOf(s string, is func(byte) bool) bool {
	for i := range len(s) {
		if !is(s[i]) {
			return false
		}
	}
	return true
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
func isHex(c byte) bool   { return isDigit(c) || 'a' <= c|0x20 && c|0x20 <= 'f' }
func isAlnum(c byte) bool { return isDigit(c) || 'a' <= c|0x20 && c|0x20 <= 'z' }

// untag takes the tag off a local part, which stands before or after it.
func untag(a Address, rest string, seps []string, isTag func(string) bool) ([]Address, wrapping) {
	var exact, parts []Address
	add := func(list *[]Address, local string) {
		if local != "" {
			*list = append(*list, Address{Local: local, Domain: a.Domain})
		}
	}
	for _, sep := range seps {
		before, after, ok := strings.Cut(rest, sep)
		if ok && isTag(before) {
			add(&exact, after)
		}
		if last := strings.LastIndex(rest, sep); ok && isTag(rest[last+len(sep):]) {
			add(&exact, rest[:last])
		}
	}
	if len(exact) > 0 {
		return exact, tagged
	}
	for _, sep := range []string{"==", "=", "/"} {
		for at := range len(rest) {
			if strings.HasPrefix(rest[at:], sep) {
				add(&parts, rest[:at])
				add(&parts, rest[at+len(sep):])
			}
		}
	}
	return parts, doubtful
}

// unrewrite reads a local part from its "SRS" on.
func unrewrite(a Address, local string) (inside []Address, kind wrapping, ok bool) {
	rest := local[len("SRS"):]
	number := ""
	if rest != "" && (rest[0] == '0' || rest[0] == '1') {
		number, rest = rest[:1], rest[1:]
	}
	if rest == "" || strings.IndexByte("=+-", rest[0]) < 0 {
		return nil, 0, false // somebody's name
	}
	fields := strings.Split(rest[1:], "=")
	inner := func(i int) (Address, bool) {
		d, err := ParseDomain(fields[i])
		if err != nil || i+1 >= len(fields) {
			return Address{}, false
		}
		local := strings.Join(fields[i+1:], "=")
		return Address{Local: local, Domain: d}, local != ""
	}
	if number == "1" && len(fields) > 2 && fields[0] != "" {
		// The first forwarder, and what its address was: the separator is the
		// second's, what follows is as the first wrote it.
		if b, ok := inner(1); ok && strings.Contains(b.Domain.String(), ".") {
			b.Local = "SRS0" + b.Local
			if _, kind, ok := unwrap(b); ok && kind == rewritten {
				return []Address{b}, rewritten, true
			}
		}
	}
	if number != "1" && len(fields) > 3 && fields[0] != "" && isTime(fields[1]) {
		if b, ok := inner(2); ok && strings.Contains(b.Domain.String(), ".") {
			return []Address{b}, rewritten, true
		}
	}
	for i := range fields {
		if b, ok := inner(i); ok {
			inside = append(inside, b)
			if number == "1" {
				inside = append(inside, Address{Local: "SRS0" + b.Local, Domain: b.Domain})
			}
		}
	}
	return inside, doubtful, true
}

// isTime knows SRS's days, in base 32.
func isTime(s string) bool {
	return 1 <= len(s) && len(s) <= 4 && allOf(s, func(c byte) bool { return isAlnum(c) && strings.IndexByte("0189", c) < 0 })
}

// Bases returns what an address is an extension of, folded, the longest first:
// "local+detail" is "local", and so with the other delimiters. Variable envelope
// return paths, which have the recipient behind the sender
// ("list-bounces+user=domain@…", "bounces-user=domain@…"), have "-" for one, too.
// A local part that begins with a delimiter has no base there.
func (f Forms) Bases(a Address) []Address {
	local := a.Local
	var at []int
	for _, c := range "+" + f.Delimiter {
		if i := strings.IndexRune(local, c); i > 0 {
			at = append(at, i)
		}
	}
	if to := strings.LastIndexByte(local, '='); to > 0 && isVERP(local[to+1:]) {
		for i := 1; i < to; i++ {
			if local[i] == '-' || local[i] == '+' {
				at = append(at, i)
			}
		}
	}
	if len(at) == 0 {
		return nil
	}
	slices.Sort(at)
	at = slices.Compact(at)
	var found []Address
	for _, i := range slices.Backward(at) {
		found = append(found, Address{Local: local[:i], Domain: a.Domain}.Fold())
		if len(found) == mostRead {
			break
		}
	}
	return found
}

// isVERP knows the domain of a recipient inside a sender.
func isVERP(s string) bool {
	d, err := ParseDomain(s)
	return err == nil && !d.IsLiteral() && strings.Contains(d.String(), ".")
}

// Selects reports whether a pattern selects an address, or what it is an
// extension of.
func (f Forms) Selects(p Pattern, a Address) bool {
	return p.Match(a) || p.Kind() == Exact && slices.Contains(f.Bases(a.Fold()), p.addr)
}
