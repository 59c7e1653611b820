package forward

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"tlsonly/internal/addr"
	"tlsonly/internal/forward/virtual"
)

// postfixConfig is Postfix's settings, ready for use.
type postfixConfig struct {
	set        map[string]string
	lists      map[string][]string // the same, taken apart
	transports map[string]string
	origin     addr.Domain // what bare names get
	below      addr.Domain // mydomain: what names of hosts get
	self       map[netip.Addr]bool
	delimiters string
	widest     int // virtual_alias_expansion_limit
}

func newPostfixConfig(parameters, transports map[string]string) (*postfixConfig, error) {
	n := &postfixConfig{set: parameters, lists: make(map[string][]string, len(parameters)), transports: transports,
		self: map[netip.Addr]bool{}, delimiters: parameters["recipient_delimiter"]}
	for name, value := range parameters {
		n.lists[name] = splitList(value)
	}
	origin := n.set["myorigin"]
	if strings.HasPrefix(origin, "/") { // postconf(5): or a file, as on Debian
		text, err := os.ReadFile(origin)
		if err != nil {
			return nil, fmt.Errorf("myorigin: %w", err)
		}
		origin, _, _ = strings.Cut(string(text), "\n")
		origin = strings.TrimSpace(origin)
	}
	var err error
	if n.origin, err = addr.ParseDomain(origin); err != nil {
		return nil, fmt.Errorf("myorigin: %w", err)
	}
	if domain := n.set["mydomain"]; domain != "" {
		if n.below, err = addr.ParseDomain(domain); err != nil {
			return nil, fmt.Errorf("mydomain: %w", err)
		}
	}
	if n.widest, err = strconv.Atoi(n.set["virtual_alias_expansion_limit"]); err != nil {
		n.widest = 1000
	}
	return n, n.addresses()
}

// addresses finds out which address literals are this host.
func (n *postfixConfig) addresses() error {
	for _, item := range append(splitList(n.set["inet_interfaces"]), splitList(n.set["proxy_interfaces"])...) {
		if ip, err := netip.ParseAddr(strings.Trim(item, "[]")); err == nil {
			n.self[ip.Unmap()] = true
			continue
		}
		if item != "all" && item != "loopback-only" {
			continue // a name: its addresses are others' to look up
		}
		interfaces, err := net.InterfaceAddrs()
		if err != nil {
			return fmt.Errorf("inet_interfaces: %w", err)
		}
		for _, a := range interfaces {
			if p, err := netip.ParsePrefix(a.String()); err == nil && (item == "all" || p.Addr().IsLoopback()) {
				n.self[p.Addr().Unmap()] = true
			}
		}
	}
	return nil
}

func (n *postfixConfig) maps(name string) []string { return n.lists[name] }

// has reports whether a parameter that is a list has a word.
func (n *postfixConfig) has(name, word string) bool { return slices.Contains(n.maps(name), word) }

// propagates reports whether extensions that a kind of table doesn't know go over to its results.
func (n *postfixConfig) propagates(kind string) bool {
	return n.has("propagate_unmatched_extensions", kind)
}

// qualify makes an address whole; trivial-rewrite(8): bare names get myorigin, domains without a dot mydomain.
func (n *postfixConfig) qualify(a addr.Address) addr.Address {
	if a.IsNull() {
		return a
	}
	if a.Domain.IsZero() {
		a.Domain = n.origin
	}
	if d := a.Domain.String(); n.set["append_dot_mydomain"] == "yes" && !n.below.IsZero() && !strings.ContainsAny(d, ".[") {
		if whole, err := addr.ParseDomain(d + "." + n.below.String()); err == nil && d != "localhost" {
			a.Domain = whole
		}
	}
	return a
}

// split takes the extension off a local name; delimiter is what stood between. local(8), "ADDRESS EXTENSION", and
// owner_request_special.
func (n *postfixConfig) split(local string) (name, delimiter, extension string) {
	i := strings.IndexAny(local, n.delimiters)
	if n.delimiters == "" || i <= 0 || local == "mailer-daemon" || local == "double-bounce" {
		return local, "", ""
	}
	if strings.Contains(n.delimiters, "-") && n.set["owner_request_special"] != "no" &&
		(strings.HasPrefix(local, "owner-") || strings.HasSuffix(local, "-request")) {
		return local, "", ""
	}
	return local[:i], local[i : i+1], local[i+1:]
}

// matches reports whether a list of domains has d. parents says that domains below an item match, too.
func (n *postfixConfig) matches(r *expansion, name string, d addr.Domain, parents bool) (bool, error) {
	return n.inList(r, n.maps(name), d, parents)
}

func (n *postfixConfig) inList(r *expansion, items []string, d addr.Domain, parents bool) (bool, error) {
	var pending error
	for _, item := range items {
		found, yes := false, true
		for strings.HasPrefix(item, "!") {
			item, yes = item[1:], !yes
		}
		switch {
		case strings.HasPrefix(item, "/"):
			text, err := once(r.session, "list "+item, func() (string, error) { return readFile(item) })
			if err != nil {
				return false, err
			}
			if found, err = n.inList(r, splitList(text), d, parents); err != nil {
				return false, err
			}
		case strings.Contains(item, ":") && !strings.HasPrefix(item, "["):
			for p, key := d, d.String(); !found; {
				_, hit, err := r.lookup(item, key)
				if err != nil {
					pending = err
					break
				}
				found = hit
				if p = p.Parent(); !parents || p.IsZero() {
					break
				}
				key = p.String()
			}
		default:
			name := lower(item)
			below, dotted := strings.CutPrefix(name, ".")
			found = name == d.String() || (parents || dotted) && strings.HasSuffix(d.String(), "."+below)
		}
		if found && pending == nil {
			return yes, nil
		}
	}
	return false, pending
}

// isSelf reports whether a domain is this host: mydestination, or a literal of its own address.
func (n *postfixConfig) isSelf(r *expansion, d addr.Domain) (bool, error) {
	if d.IsLiteral() && n.self[d.IP().Unmap()] {
		return true, nil
	}
	return n.matches(r, "mydestination", d, false)
}

// keys returns what tables of addresses are asked for a, and the site as the parser of results must know it.
func (n *postfixConfig) keys(r *expansion, a addr.Address, propagate bool) ([]string, virtual.Site, error) {
	own, err := n.isSelf(r, a.Domain)
	if err != nil {
		return nil, virtual.Site{}, err
	}
	local := func(d addr.Domain) bool { return d == a.Domain && own || d == n.origin }
	s := virtual.Site{Local: local, Delimiters: n.delimiters, Propagate: propagate}
	return virtual.Keys(virtual.Virtual, a, s), s, nil
}

// splitList splits a list at blanks and commas outside braces.
func splitList(value string) []string {
	depth := 0
	return strings.FieldsFunc(value, func(c rune) bool {
		switch {
		case c == '{':
			depth++
		case c == '}' && depth > 0:
			depth--
		}
		return depth == 0 && strings.ContainsRune(", \t\r\n", c)
	})
}

// lower folds a key as postmap(1) does.
func lower(s string) string { return strings.ToLower(s) }

// expandMacros puts values in the places of $name, ${name}, $(name), ${name?value} and ${name:value}. defined is false when
// one has no value: then Postfix goes on to the next path.
func expandMacros(text string, values map[string]string) (result string, defined bool) {
	var b strings.Builder
	defined = true
	for i := 0; i < len(text); i++ {
		if text[i] != '$' || i+1 == len(text) {
			b.WriteByte(text[i])
			continue
		}
		i++
		if text[i] == '$' {
			b.WriteByte('$')
			continue
		}
		name := ""
		if shut := map[byte]byte{'{': '}', '(': ')'}[text[i]]; shut != 0 {
			end, depth := i, 0
			for ; end < len(text); end++ {
				if text[end] == text[i] {
					depth++
				} else if text[end] == shut {
					if depth--; depth == 0 {
						break
					}
				}
			}
			if end == len(text) {
				return "", false
			}
			name, i = text[i+1:end], end
		} else {
			end := i
			for end < len(text) && (text[end] == '_' || '0' <= text[end] && text[end] <= '9' ||
				'a' <= text[end]|0x20 && text[end]|0x20 <= 'z') {
				end++
			}
			name, i = text[i:end], end-1
		}
		at := strings.IndexAny(name, "?:")
		if at < 0 {
			defined = defined && values[name] != ""
			b.WriteString(values[name])
			continue
		}
		yes, no := name[at+1:], ""
		if name[at] == ':' {
			yes, no = "", yes
		} else if inner, other, ok := strings.Cut(yes, "}:{"); ok && strings.HasPrefix(inner, "{") {
			yes, no = inner+"}", "{"+other
		}
		chosen := no
		if values[name[:at]] != "" {
			chosen = yes
		}
		if inner, ok := strings.CutPrefix(chosen, "{"); ok {
			chosen = strings.TrimSuffix(inner, "}")
		}
		chosen, ok := expandMacros(chosen, values)
		defined = defined && ok
		b.WriteString(chosen)
	}
	return b.String(), defined
}
