package destination

import (
	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// nowhere answers for names below "invalid", of which everybody knows that they
// don't exist (RFC 6761, section 6.4): neither the DNS nor a mail host is
// asked, and nothing is kept.
func (a *Assessor) nowhere(d addr.Destination) (policy.Assessment, bool) {
	if !d.Host().Under(addr.MustDomain("invalid")) {
		return policy.Assessment{}, false
	}
	now := a.c.Now()
	return policy.Assessment{Destination: d, Problem: policy.NoSuchDomain, Detail: "names below invalid don't exist (RFC 6761)",
		When: now, Until: now.Add(a.c.Failure)}, true
}
