package judge

import (
	"fmt"
	"strings"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// Finding says why one mail host doesn't satisfy a demand.
type Finding struct {
	Reason policy.Reason
	Host   addr.Domain
	Words  string // why, for people; what strangers sent may be in it
}

// Findings lists the hosts of a destination that don't satisfy a demand, in their
// order.
func Findings(d policy.Demand, a policy.Assessment) []Finding {
	var found []Finding
	for _, h := range a.Hosts {
		if reason := Host(d, a, h); reason != "" {
			found = append(found, Finding{reason, h.Name, hostWords(a, h, reason)})
		}
	}
	return found
}

func hostWords(a policy.Assessment, h policy.Host, reason policy.Reason) string {
	switch {
	case h.Detail != "":
		return h.Detail
	case h.Problem != "":
		return string(h.Problem)
	case h.DANE == policy.DANEUnknown && reason == policy.DNSFailure:
		return h.DANEDetail
	case len(h.Observations) == 0:
		return "not looked at yet"
	}
	o := h.Observations[len(h.Observations)-1]
	text := string(o.Outcome)
	if o.Outcome == policy.SawTLS {
		text = fmt.Sprintf("TLS %s with %d bits", o.Version, o.Bits)
	}
	why := o.Detail
	switch reason {
	case policy.DaneMismatch:
		why = o.DANEDetail
	case policy.MTASTSMismatch, policy.NotAuthenticated:
		why = unproven(a, h, o)
	}
	if why != "" {
		text += ": " + why
	}
	return text
}

// unproven says what a host's certificate lacks.
func unproven(a policy.Assessment, h policy.Host, o policy.Observation) string {
	switch {
	case a.MTASTS.Enforces() && !a.MTASTS.Permits(h.Name):
		return "not a host of the MTA-STS policy"
	case len(o.Chain) == 0:
		return "no certificate seen"
	case o.Trust != policy.Trusted && o.TrustDetail != "":
		return o.TrustDetail
	case o.Trust != policy.Trusted:
		return "the certificate is not valid"
	case a.MTASTS.Problem != "":
		return "MTA-STS: " + a.MTASTS.Problem
	}
	return "the certificate is for " + Subject(o.Chain[0])
}

// Spoken says in words what TLS an address speaks.
func Spoken(o policy.Observation) string {
	s := fmt.Sprintf("TLS %s %s, %d bits", o.Version, o.Cipher, o.Bits)
	if o.Exchange != "" {
		s += ", " + o.Exchange
	}
	// Those with ML-KEM (FIPS 203) in them stand up to quantum computers.
	if strings.Contains(o.Exchange, "MLKEM") {
		s += " (post-quantum)"
	}
	if o.HelloOnly {
		s += " (as far as our own TLS goes)"
	}
	return s
}

// Fault says in words why an address could not be got to speak TLS.
func Fault(o policy.Observation) string {
	s := string(o.Outcome)
	switch o.Outcome {
	case policy.SawBroken:
		s = "failed"
	case policy.SawRefused:
		s = "refused"
	}
	if o.Detail != "" {
		s += ": " + o.Detail
	}
	return s
}

// Subject says whom a certificate is for: its names, else its subject.
func Subject(c policy.Certificate) string {
	const most = 6
	switch {
	case len(c.Names) > most:
		return fmt.Sprintf("%s and %d more", strings.Join(c.Names[:most], ", "), len(c.Names)-most)
	case len(c.Names) > 0:
		return strings.Join(c.Names, ", ")
	case c.Subject != "":
		return c.Subject
	}
	return "nobody named"
}
