package milter

import (
	"slices"

	"tlsonly/internal/addr"
	"tlsonly/rules"
)

// written returns the rules for what else the MTA may make of a sender.
func (s *Server) written(set *rules.Set, from addr.Address, user string) []rules.Candidates {
	if s.c.Written == nil {
		return nil
	}
	var found []rules.Candidates
	for _, a := range s.c.Written(from) {
		if c := set.Sender(a, user, s.c.Now()); !c.Empty() {
			found = append(found, c)
		}
	}
	return found
}

// candidatesFor returns the rules for a recipient, of those for each form that
// the sender can have.
func (msg *message) candidatesFor(to addr.Address) rules.Candidates {
	if len(msg.others) == 0 {
		return msg.candidates
	}
	return Strictest(append([]rules.Candidates{msg.candidates}, msg.others...), to)
}

// Strictest returns the rules that ask the most for a recipient, of those for
// each form that a sender can have; the first of them where nothing is asked.
func Strictest(forms []rules.Candidates, to addr.Address) rules.Candidates {
	asked := func(c rules.Candidates) int {
		switch r := c.Match(to); {
		case r == nil:
			return -2
		case !r.Enforcing():
			return -1
		default:
			return r.Level.Rank()
		}
	}
	return slices.MaxFunc(forms, func(a, b rules.Candidates) int { return asked(a) - asked(b) })
}
