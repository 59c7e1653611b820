package forward

import "tlsonly/internal/addr"

// Owners are the addresses by way of which mail for to is sent on, to itself the first. A bare name on the way is one of the
// last address's domain. Where it isn't known what becomes of mail, the address of which that isn't known may send it on, too.
func (l Leaf) Owners(to addr.Address) []addr.Address {
	found := []addr.Address{to}
	for _, step := range l.Path {
		a, err := addr.ParsePath(step.From)
		if err != nil {
			continue
		}
		if a.Domain.IsZero() {
			a.Domain = found[len(found)-1].Domain
		}
		found = append(found, a)
	}
	if a := l.Address; l.Kind == Unknown && !a.IsNull() {
		if a.Domain.IsZero() {
			a.Domain = found[len(found)-1].Domain
		}
		found = append(found, a)
	}
	return found
}
