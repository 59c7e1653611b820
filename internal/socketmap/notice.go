package socketmap

import (
	"strings"
	"time"

	"tlsonly/internal/addr"
)

// doubleBounce is the local part that Postfix gives to notices and to its
// probes of addresses, unless double_bounce_sender says otherwise.
const doubleBounce = "double-bounce"

// enforcesNotice reports whether mail of a sender is what an MTA writes itself, a
// bounce, a delay warning or a notice, and is to be held to TLS: while any rule
// enforces it, for nobody can tell which of it is about protected mail.
func (s *Server) enforcesNotice(own []string, of senderKey, now time.Time) bool {
	return !s.c.FreeBounces && isNotice(own, of) && s.c.Rules().Enforces(now)
}

// isNotice reports whether a sender is the null sender or that of notices. The
// latter has a domain of the MTA's own, which is its to choose.
func isNotice(own []string, of senderKey) bool {
	if of.err != nil {
		return false // what isn't understood has the strict transport anyway
	}
	a := of.from.Fold()
	if a.IsNull() || a.Local == doubleBounce {
		return true
	}
	for _, name := range own {
		if name == of.key {
			return true
		}
		b, err := addr.ParsePath(name)
		if err != nil {
			continue
		}
		if b = b.Fold(); a == b || b.Domain.IsZero() && strings.EqualFold(a.Local, b.Local) {
			return true
		}
	}
	return false
}
