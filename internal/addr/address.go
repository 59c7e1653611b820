package addr

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// Address is a mailbox of an envelope. The zero value is the null sender, "<>". Addresses are comparable with ==
// when both come from Fold.
type Address struct {
	// Local is the local part, unquoted, in the case the client typed.
	Local string
	// Domain is zero for the null sender and for a bare name ("root"), to which an MTA adds its own domain.
	Domain Domain
}

// maxPath is generous: RFC 5321, section 4.5.3.1.3, says 256 octets, MTAs take more.
const maxPath = 2048

// blank is what may stand around a path. A no-break space isn't blank: it can be part of a mailbox's name.
const blank = " \t\r\n"

// ParsePath parses a reverse-path or forward-path as an MTA hands it over: with or without angle brackets, quoted
// or not, with a source route (dropped, RFC 5321, appendix C) or without. "" and "<>" are the null sender.
//
// SECURITY: a sender must not escape its rule by another spelling that an MTA takes for the same mailbox. So quotes
// are taken anywhere in the local part (RFC 5322, section 4.4), comments and blanks around dots and the "@" are
// dropped, as Postfix and Sendmail do. What an MTA makes of a bare name, of "user%domain" or "host!user" depends on
// its settings and isn't seen here: a caller that has the MTA's own resolved form asks with that, too. A path that
// can't be parsed is an error, and no error means "not protected".
func ParsePath(s string) (Address, error) {
	path := strings.Trim(s, blank)
	if len(path) > maxPath {
		return Address{}, fmt.Errorf("address longer than %d octets", maxPath)
	}
	for i := range len(path) {
		if path[i] < ' ' && path[i] != '\t' || path[i] == 0x7f {
			return Address{}, fmt.Errorf("address %q: control character", s)
		}
	}
	if inner, ok := strings.CutPrefix(path, "<"); ok {
		if inner, ok = strings.CutSuffix(inner, ">"); !ok {
			return Address{}, fmt.Errorf("address %q: no closing >", s)
		}
		path = strings.Trim(inner, blank)
	}
	if path == "" {
		return Address{}, nil
	}
	a, err := parseMailbox(path)
	if err != nil {
		return Address{}, fmt.Errorf("address %q: %w", s, err)
	}
	return a, nil
}

func parseMailbox(path string) (Address, error) {
	path, err := cutRoute(path)
	if err != nil {
		return Address{}, err
	}
	local, domain, found, err := splitMailbox(path)
	switch {
	case err != nil:
		return Address{}, err
	case local == "":
		return Address{}, errors.New("empty local part")
	case !found:
		return Address{Local: local}, nil
	}
	d, err := ParseDomain(domain)
	if err != nil {
		return Address{}, err
	}
	return Address{Local: local, Domain: d}, nil
}

// cutRoute takes source routes off: "@a.example,@[IPv6:2001:db8::1]:user@c.example".
func cutRoute(path string) (string, error) {
	for strings.HasPrefix(path, "@") {
		end, inLiteral := -1, false
		for i := 0; i < len(path) && end < 0; i++ {
			switch path[i] {
			case '[':
				inLiteral = true
			case ']':
				inLiteral = false
			case ':':
				if !inLiteral {
					end = i
				}
			}
		}
		if end < 0 {
			return "", errors.New("no local part")
		}
		path = strings.TrimLeft(path[end+1:], blank)
	}
	return path, nil
}

// splitMailbox splits path at the last "@" outside quotes and comments, as Postfix and Sendmail do, and takes
// quotes, backslashes, comments and superfluous blanks off both sides.
func splitMailbox(path string) (local, domain string, found bool, err error) {
	var b strings.Builder // what is read since the last "@"
	blanks := 0           // seen since the last character kept
	for i := 0; i < len(path); i++ {
		c := path[i]
		switch c {
		case ' ', '\t':
			blanks++
			continue
		case '(':
			if i = CloseComment(path, i); i < 0 {
				return "", "", false, errors.New("no closing parenthesis")
			}
			continue
		case '@', '.':
			blanks = 0
		}
		kept := b.String()
		if blanks > 0 && kept != "" && kept[len(kept)-1] != '.' {
			b.WriteByte(' ') // "a b": as if it stood in quotes
		}
		blanks = 0
		switch c {
		case '"':
			if i, err = readQuoted(&b, path, i); err != nil {
				return "", "", false, err
			}
		case '\\':
			if i++; i == len(path) {
				return "", "", false, errors.New("backslash at the end")
			}
			b.WriteByte(path[i])
		case '@':
			if found {
				local += "@"
			}
			local += kept
			found = true
			b.Reset()
		default:
			b.WriteByte(c)
		}
	}
	if !found {
		return b.String(), "", false, nil
	}
	return local, b.String(), true, nil
}

// CloseComment returns the index of the ")" that closes the comment begun at i (RFC 5322, section 3.2.2: comments nest), -1 for
// none.
func CloseComment(s string, i int) int {
	for depth := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

// readQuoted appends the text of the quoted string begun at i to b and returns the index of its closing quote.
func readQuoted(b *strings.Builder, s string, i int) (int, error) {
	for i++; i < len(s); i++ {
		switch s[i] {
		case '\\':
			if i++; i < len(s) {
				b.WriteByte(s[i])
			}
		case '"':
			return i, nil
		default:
			b.WriteByte(s[i])
		}
	}
	return 0, errors.New("no closing quote")
}

// MustAddress is ParsePath for constants and tests; it panics on an error.
func MustAddress(s string) Address {
	a, err := ParsePath(s)
	if err != nil {
		panic(err)
	}
	return a
}

// IsNull reports whether a is the null sender.
func (a Address) IsNull() bool { return a == Address{} }

// Fold returns a with the local part in the one form that is compared: without case and in NFC. RFC 5321 leaves the
// case of a local part to its own host; no mail system in use tells two mailboxes apart by it, and a protected
// sender must not escape a rule by typing ALICE.
func (a Address) Fold() Address { return Address{Local: foldText(a.Local), Domain: a.Domain} }

// foldText is Unicode's canonical caseless matching (Unicode 15, section 3.13, D145), so that NFC and NFD, "ß" and
// "ẞ", "σ" and "ς" don't make two mailboxes.
func foldText(s string) string {
	if plainASCII(s) {
		return strings.ToLower(s)
	}
	return norm.NFC.String(strings.Map(cherokee, cases.Fold().String(norm.NFD.String(s))))
}

// cherokee folds the script whose small letters fold to capitals (CaseFolding.txt); cases.Fold exchanges the two.
func cherokee(r rune) rune {
	switch {
	case 0x13f8 <= r && r <= 0x13fd:
		return r - 8
	case 0xab70 <= r && r <= 0xabbf:
		return r - 0xab70 + 0x13a0
	}
	return r
}

// Base returns a without its address extension: "local+detail" becomes "local". A local part that begins with the
// delimiter has no base and stays.
func (a Address) Base() Address {
	if i := strings.IndexByte(a.Local, '+'); i > 0 {
		a.Local = a.Local[:i]
	}
	return a
}

// String returns the address without brackets, quoted where RFC 5321 wants it, and "<>" for the null sender.
func (a Address) String() string {
	switch {
	case a.IsNull():
		return "<>"
	case a.Domain.IsZero():
		return quote(a.Local)
	default:
		return quote(a.Local) + "@" + a.Domain.String()
	}
}

// MarshalText gives String.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText is ParsePath.
func (a *Address) UnmarshalText(b []byte) error {
	var err error
	*a, err = ParsePath(string(b))
	return err
}

const atomSpecials = "!#$%&'*+-/=?^_`{|}~."

func quote(local string) string {
	plain := local != "" && local[0] != '.' && local[len(local)-1] != '.' && !strings.Contains(local, "..")
	for i := 0; plain && i < len(local); i++ {
		c := local[i]
		plain = 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c >= 0x80 ||
			strings.IndexByte(atomSpecials, c) >= 0
	}
	if plain {
		return local
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(local) + `"`
}
