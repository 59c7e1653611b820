package addr

import "strings"

// Originals returns the addresses from which a was made by those who rewrite
// senders, the nearest first, none where a shows none: by the Sender Rewriting
// Scheme of forwarders (SRS0=HASH=TIME=DOMAIN=LOCAL@…, SRS1=HASH=HOST==…), and by
// Bounce Address Tag Validation (prvs=TAG=LOCAL@…, btv1==TAG==LOCAL@…).
//
// SECURITY: anybody can write such an address, so it gives nobody anything: what
// a rule asks of mail of the original is asked of this, too. Of what can be read
// in several ways each is returned.
func (a Address) Originals() []Address {
	const (
		deepest = 5  // one scheme may be put around another
		most    = 64 // no rewriter's, but of one who wants to keep us busy
	)
	if len(a.unwrapped()) == 0 {
		return nil // as for nearly all
	}
	var found []Address
	seen := map[Address]bool{a.Fold(): true}
	level := []Address{a}
	for range deepest {
		var next []Address
		for _, b := range level {
			for _, o := range b.unwrapped() {
				if f := o.Fold(); !seen[f] && len(seen) <= most {
					seen[f] = true
					next = append(next, o)
				}
			}
		}
		if len(next) == 0 {
			break
		}
		found = append(found, next...)
		level = next
	}
	return found
}

// unwrapped takes one scheme off.
func (a Address) unwrapped() []Address {
	lower := strings.ToLower(a.Local)
	for _, tag := range []string{"prvs=", "msprvs1=", "btv1=="} {
		if strings.HasPrefix(lower, tag) {
			return a.untagged(a.Local[len(tag):])
		}
	}
	at := strings.Index(lower, "srs")
	// Some put the forwarder's own user before it: user+SRS=….
	if at < 0 || at > 0 && lower[at-1] != '+' {
		return nil
	}
	rest := a.Local[at+3:]
	kind := rest
	if rest = strings.TrimLeft(rest, "01"); rest == "" || !strings.ContainsRune("=+-", rune(rest[0])) {
		return nil
	}
	kind = kind[:len(kind)-len(rest)]
	fields := strings.Split(rest[1:], "=")
	var found []Address
	for i := range fields {
		if i == 0 || i == len(fields)-1 {
			continue // a hash before, or nothing after
		}
		d, err := ParseDomain(fields[i])
		if err != nil {
			continue
		}
		if kind == "1" && i == 1 {
			// The first forwarder, and what its address was: the separator is
			// the second's, what follows is as the first wrote it.
			local := strings.Join(fields[i+1:], "=")
			found = append(found, Address{Local: "SRS0" + local, Domain: d})
			continue
		}
		if local := strings.Join(fields[i+1:], "="); local != "" {
			found = append(found, Address{Local: local, Domain: d})
		}
	}
	return found
}

// untagged takes the tag off a local part, which stands before or after it.
func (a Address) untagged(rest string) []Address {
	var found []Address
	for _, sep := range []string{"==", "=", "/"} {
		for i := 0; i < len(rest); i++ {
			if !strings.HasPrefix(rest[i:], sep) {
				continue
			}
			for _, local := range []string{rest[:i], rest[i+len(sep):]} {
				if local != "" {
					found = append(found, Address{Local: local, Domain: a.Domain})
				}
			}
		}
	}
	return found
}
