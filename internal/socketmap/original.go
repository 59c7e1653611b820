package socketmap

import (
	"strings"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/rules"
)

// original returns the sender by whose class mail of a sender goes that others
// have rewritten, and the number of that class: itself, or who it was before
// where only that one has a class. It is doubtful whose the mail is where these
// have several, or a login may have sent it of whom a rule asks something.
func (s *Server) original(
	set *rules.Delivery, from addr.Address, now time.Time,
) (sender addr.Address, class int, doubt bool) {
	if from.IsNull() {
		return from, set.Class(from, now), false
	}
	if s.c.Lent(from.Fold()) {
		return from, 0, true
	}
	sender, class = from, set.Class(from, now)
	for _, a := range from.Originals() {
		whole := []addr.Address{a}
		if !a.Domain.IsLiteral() && !strings.Contains(a.Domain.String(), ".") {
			for _, d := range set.Beginning(a.Domain) { // it was rewritten before it was completed
				whole = append(whole, addr.Address{Local: a.Local, Domain: d})
			}
		}
		for _, a := range whole {
			if s.c.Lent(a.Fold()) {
				return from, 0, true
			}
			switch n := set.Class(a, now); {
			case n == 0 || n == class:
			case class == 0:
				class, sender = n, a
			default:
				return from, 0, true
			}
		}
	}
	return sender, class, false
}
