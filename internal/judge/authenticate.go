package judge

import "tlsonly/internal/policy"

// authenticate says why a host that speaks good TLS isn't the right one for a demand, "" when nobody asks or it is.
//
// DANE comes first and alone where it is usable: a promise of MTA-STS can't make good what DANE says is wrong
// (RFC 8461, section 2), and where DANE says it is right nobody else needs to.
func authenticate(d policy.Demand, a policy.Assessment, h policy.Host, o policy.Observation) policy.Reason {
	asked := d.Level.Rank() > policy.LevelEncrypt.Rank()
	if h.DANE == policy.DANEUsable {
		switch {
		case matchesDANE(a, h, o):
			// RFC 7672, section 2.2.1: what an insecure MX answer named may be anybody's host, however well it proves its name.
			// So it answers no other question than that for DANE.
			if secureMX(a) {
				return ""
			}
		case (asked || d.Honor.DANE) && len(o.Chain) == 0:
			return policy.NotAuthenticated // nothing was shown that could match or not
		case asked || d.Honor.DANE:
			return policy.DaneMismatch
		}
	}
	if d.Level == policy.LevelDane {
		return policy.NotAuthenticated
	}
	if a.MTASTS.Enforces() && d.Honor.MTASTS {
		// RFC 8461, section 5: a host that the policy doesn't name, or that can't prove its name, must not get the mail.
		if !matchesSTS(a, h, o) {
			return policy.MTASTSMismatch
		}
		return ""
	}
	switch {
	case !asked:
		return ""
	case a.MTASTS.Enforces() && matchesSTS(a, h, o):
		return ""
	case provesDestination(d, a, o):
		return ""
	case a.MTASTS.Mode == "" && a.MTASTS.Problem != "":
		// There may be a policy that would authenticate the host; nobody knows.
		return policy.DNSFailure
	}
	return policy.NotAuthenticated
}

// secureMX reports whether DNSSEC vouches for the host being one of the destination's. A host in brackets is by itself.
func secureMX(a policy.Assessment) bool { return a.Secure || a.Destination.Direct() }

// matchesDANE reports whether a host's TLSA records authenticate it. By a trust anchor (usage 2) they do that only
// together with a name (RFC 7672, section 3.2.2).
func matchesDANE(a policy.Assessment, h policy.Host, o policy.Observation) bool {
	switch {
	case o.DANE == policy.DANEMatchEE:
		return true
	case o.DANE != policy.DANEMatchTA || len(o.Chain) == 0:
		return false
	}
	way := policy.ReferenceNames{
		Base:    h.TLSABase,
		NextHop: a.Destination.Host(),
		Alias:   a.Alias,
		MX:      !a.Destination.Direct() && !h.Implicit,
		Secure:  a.Secure,
	}
	return way.Admits(o.Chain[0])
}

// matchesSTS reports whether a host is one that the domain's MTA-STS policy names, and proves its name (RFC 8461, sections 4.1
// and 4.2).
func matchesSTS(a policy.Assessment, h policy.Host, o policy.Observation) bool {
	return a.MTASTS.Permits(h.Name) && o.Trust == policy.Trusted && len(o.Chain) > 0 && o.Chain[0].Bears(h.Name)
}

// provesDestination reports whether a certificate is for the destination itself, or for a name the rule takes for it. The
// name of an MX host proves nothing by itself, for nobody vouches that it is the destination's.
func provesDestination(d policy.Demand, a policy.Assessment, o policy.Observation) bool {
	if o.Trust != policy.Trusted || len(o.Chain) == 0 {
		return false
	}
	for _, name := range d.Match {
		if o.Chain[0].Bears(name) {
			return true
		}
	}
	// Of addresses in certificates no MTA takes notice.
	return !a.Destination.Host().IsLiteral() && o.Chain[0].Bears(a.Destination.Host())
}
