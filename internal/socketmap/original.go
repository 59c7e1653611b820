package socketmap

import (
	"strings"
	"time"

	"tlsonly/internal/addr"
)

// original returns the sender by whose class mail of a sender goes that others
// have rewritten: itself, or who it was before where only that one has a class.
// It is doubtful whose the mail is where these have several, or a login may have
// sent it of whom a rule asks something.
func (s *Server) original(key string, now time.Time) (sender string, doubt bool) {
	from, err := addr.ParsePath(key)
	if err != nil || from.Domain.IsZero() {
		return key, false
	}
	if s.c.Lent(from.Fold()) {
		return key, true
	}
	set := s.c.Rules()
	class := set.Class(from, now)
	sender = key
	for _, a := range from.Originals() {
		whole := []addr.Address{a}
		if !a.Domain.IsLiteral() && !strings.Contains(a.Domain.String(), ".") {
			for _, d := range set.Beginning(a.Domain) { // it was rewritten before it was completed
				whole = append(whole, addr.Address{Local: a.Local, Domain: d})
			}
		}
		for _, a := range whole {
			if s.c.Lent(a.Fold()) {
				return key, true
			}
			switch n := set.Class(a, now); {
			case n == 0 || n == class:
			case class == 0:
				class, sender = n, a.String()
			default:
				return key, true
			}
		}
	}
	return sender, false
}
