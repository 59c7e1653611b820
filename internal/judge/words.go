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

// Blamed is the mail host whose failure a destination's reason tells of, the first in
// order; zero where the reason is not about a host.
func Blamed(d policy.Demand, a policy.Assessment, reason policy.Reason) addr.Domain {
	if a.Problem != "" {
		return addr.Domain{}
	}
	if reason == policy.LostTLS {
		reason = policy.NoSTARTTLS
	}
	for _, h := range a.Hosts {
		if Host(d, a, h) == reason {
			return h.Name
		}
	}
	return addr.Domain{}
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
	text := spokenOutcome(o)
	if o.Outcome == policy.SawTLS {
		text = fmt.Sprintf("TLS %s with %d bits", o.Version, o.Bits)
	}
	why := o.Detail
	switch reason {
	case policy.DaneMismatch:
		why = o.DANEDetail
	case policy.MTASTSMismatch, policy.NotAuthenticated:
		why = unproven(a, h, o)
	case policy.DNSFailure: // only the policy kept it from being judged
		why = "what MTA-STS policy there is isn't known: " + a.MTASTS.Problem
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
	case o.NeedsName:
		return needsName(o)
	case o.Trust != policy.Trusted && o.TrustDetail != "":
		return o.TrustDetail
	case o.Trust != policy.Trusted:
		return "the certificate is not valid"
	case a.MTASTS.Problem != "":
		return "MTA-STS: " + a.MTASTS.Problem
	}
	if name, ok := commonOnly(o.Chain[0]); ok {
		return fmt.Sprintf("the certificate has %s as its common name only, which does not count: it needs a DNS name", name)
	}
	return "the certificate is for " + Subject(o.Chain[0])
}

// needsName is for a host whose right certificate comes only where it is named.
func needsName(o policy.Observation) string {
	return "the right certificate is shown only to clients that name the host (SNI), which this MTA does not do; without, it is for " +
		Subject(o.Chain[0])
}

// commonOnly is the subject of a certificate without alternative names, by which
// alone it can be verified (RFC 9525, section 2).
func commonOnly(c policy.Certificate) (string, bool) {
	return c.Subject, len(c.Names) == 0 && c.Subject != ""
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
	if o.Unnamed {
		s += " (only without SNI)"
	}
	if o.HelloOnly {
		s += " (as far as our own TLS goes)"
	}
	return s
}

// Fault says in words why an address could not be got to speak TLS.
func Fault(o policy.Observation) string {
	s := spokenOutcome(o)
	if o.Detail != "" {
		s += ": " + o.Detail
	}
	return s
}

// spokenOutcome is what an address did instead of TLS, in a word or two. One that
// answered and then went wrong was reached.
func spokenOutcome(o policy.Observation) string {
	switch o.Outcome {
	case policy.SawBroken:
		if o.Stage == policy.StageSecure {
			return "TLS ended at the EHLO over it"
		}
		return "failed"
	case policy.SawRefused:
		return "refused"
	case policy.SawUnreachable, policy.SawTimeout:
		if o.Stage != policy.StageConnect && o.Stage != "" {
			return fmt.Sprintf("reached, but no usable reply (%s)", stageWords(o.Stage))
		}
	}
	return string(o.Outcome)
}

func stageWords(s policy.Stage) string {
	switch s {
	case policy.StageBanner:
		return "as banner"
	case policy.StageEHLO:
		return "to EHLO"
	case policy.StageSTARTTLS:
		return "to STARTTLS"
	case policy.StageHandshake:
		return "in the TLS handshake"
	case policy.StageSecure:
		return "to EHLO over TLS"
	}
	return "at " + string(s)
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
