package socketmap

import (
	"strings"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/rules"
)

// route says whose transport mail of a sender goes by.
type route struct {
	class int  // of those whose mail it is, 0 for none
	doubt bool // these have several classes, or nobody can tell
	lent  bool // a login may have sent it of whom a rule asks something
}

// routeOf reads a sender as Postfix has it in the queue, where others may have
// put something around it.
func (s *Server) routeOf(set *rules.Delivery, from addr.Address, now time.Time) route {
	if from.IsNull() {
		return route{class: set.Class(from, now)}
	}
	r := route{lent: s.c.Lent(from.Fold())}
	if !addr.Wrapped(from.Local) { // as nearly all
		r.class = set.Class(from, now)
		return r
	}
	whose, err := set.Forms(now).Senders(from)
	if err != nil {
		r.doubt = set.Enforces(now)
		return r
	}
	for _, a := range whose {
		whole := []addr.Address{a}
		if a != from && !a.Domain.IsLiteral() && !strings.Contains(a.Domain.String(), ".") {
			for _, d := range set.Beginning(a.Domain) { // it was rewritten before it was completed
				whole = append(whole, addr.Address{Local: a.Local, Domain: d})
			}
		}
		for _, a := range whole {
			if a != from {
				r.lent = r.lent || s.c.Lent(a.Fold())
			}
			switch n := set.Class(a, now); {
			case n == 0 || n == r.class:
			case r.class == 0:
				r.class = n
			default:
				r.doubt = true
			}
		}
	}
	return r
}
