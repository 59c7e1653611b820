package judge

import (
	"fmt"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// Report is what an assessment comes to under one demand.
type Report struct {
	Level     policy.Level  `json:"level"`            // the highest that is reached, "" where that isn't known
	Demanded  policy.Level  `json:"asked"`            // the demand's
	Satisfied bool          `json:"satisfied"`        // whether Asked is
	Reason    policy.Reason `json:"reason,omitempty"` // why not
	Next      policy.Level  `json:"next,omitempty"`   // the level above Level
	// Missing is what the other side lacks for Next, and, where one host is enough
	// for a level, what the others lack for it.
	Missing []Advice     `json:"missing,omitempty"`
	Hosts   []HostReport `json:"hosts,omitempty"` // in the order of Assessment.Hosts
}

// HostReport is what one mail host comes to, as if it were the only one.
type HostReport struct {
	Host   addr.Domain   `json:"host"`
	Level  policy.Level  `json:"level"`
	Reason policy.Reason `json:"reason,omitempty"` // why it doesn't satisfy the demand
	// MTASTS says whether it fits the domain's MTA-STS policy, STSDetail why not;
	// nil where there is none.
	MTASTS    *bool  `json:"mta_sts_fits,omitempty"`
	STSDetail string `json:"mta_sts_detail,omitempty"`
}

// ReportOn judges an assessment under a demand. blind says that nothing can be
// said of DNSSEC from here.
func ReportOn(d policy.Demand, a policy.Assessment, blind bool) Report {
	r := Report{Level: Level(d, a), Demanded: d.Level, Reason: Destination(d, a)}
	r.Satisfied = r.Reason == ""
	r.Next, r.Missing = Missing(d, a, blind)
	for _, h := range a.Hosts {
		r.Hosts = append(r.Hosts, reportOnHost(d, a, h))
	}
	return r
}

func reportOnHost(d policy.Demand, a policy.Assessment, h policy.Host) HostReport {
	one := a
	one.Hosts = []policy.Host{h}
	r := HostReport{Host: h.Name, Level: Level(d, one), Reason: Destination(d, one)}
	if len(a.MTASTS.MX) > 0 && h.Problem == "" {
		r.STSDetail = STSFault(a.MTASTS, h)
		fits := r.STSDetail == ""
		r.MTASTS = &fits
	}
	return r
}

// Instead returns the level that is reached where the one asked isn't, "" where
// there is nothing to tell: nothing is known, or no TLS is offered.
func (r Report) Instead() policy.Level {
	if r.Satisfied || r.Level == "" || r.Level.Rank() < policy.LevelMay.Rank() {
		return ""
	}
	return r.Level
}

// AtEveryHost reports whether advice is about hosts that lag behind a level which
// the destination reaches already.
func (r Report) AtEveryHost(m Advice) bool {
	return r.Level != "" && r.Level.Rank() >= m.Level.Rank()
}

// String writes advice in one line: level, way, host and text.
func (m Advice) String() string {
	text := string(m.Level)
	if m.Mechanism != "" {
		text += " by " + m.Mechanism
	}
	text += ": "
	if !m.Host.IsZero() {
		text += m.Host.String()
		if m.Address.IsValid() {
			text += " at " + m.Address.String()
		}
		text += ": "
	}
	return text + m.Text
}

// MissingFor returns what the other side lacks for a demand, without what it
// lacks for more.
func MissingFor(d policy.Demand, a policy.Assessment) []Advice {
	_, all := Missing(d, a, true)
	var found []Advice
	for _, m := range all {
		if m.Level.Rank() <= d.Level.Rank() {
			found = append(found, m)
		}
	}
	return found
}

// Grade says how a remark about an address is meant.
type Grade int

// The grades.
const (
	Neutral  Grade = iota
	Good           // it proves something
	Doubtful       // it proves nothing, or isn't known
	Bad            // mail is refused for it
)

// Remark is what can be said of one thing that an address showed. Text is "" for
// nothing.
type Remark struct {
	Text  string
	Grade Grade
}

// RemarkTLS is about STARTTLS at an address.
func RemarkTLS(o policy.Observation) Remark {
	switch o.Outcome {
	case policy.SawTLS:
		return Remark{Spoken(o), Neutral}
	case policy.SawNoSTARTTLS:
		return Remark{"not offered", Bad}
	}
	return Remark{Fault(o), Doubtful}
}

// RemarkTrust is about the certificate and the authorities.
func RemarkTrust(o policy.Observation) Remark {
	switch {
	case o.Trust == policy.Trusted:
		return Remark{"trusted", Good}
	case o.DANE == policy.DANEMatchEE: // RFC 7671, section 5.1
		return Remark{fmt.Sprintf("%s, which DANE does without: %s", o.Trust, o.TrustDetail), Neutral}
	case o.Trust != "":
		return Remark{fmt.Sprintf("%s: %s", o.Trust, o.TrustDetail), Doubtful}
	}
	return Remark{}
}

// RemarkDANE is about the certificate and a host's TLSA records.
func RemarkDANE(a policy.Assessment, h policy.Host, o policy.Observation) Remark {
	switch {
	case o.DANE == policy.DANEMismatch:
		return Remark{fmt.Sprintf("%s: %s", o.DANE, o.DANEDetail), Bad}
	case OtherName(a, h, o):
		return Remark{fmt.Sprintf("%s, but the certificate is for %s", o.DANE, Subject(o.Chain[0])), Bad}
	case o.DANE != policy.DANENotMatched:
		return Remark{string(o.DANE), Good}
	}
	return Remark{}
}

// Matched reports whether an address of a host showed what a TLSA record is for.
func Matched(h policy.Host, r policy.TLSA) bool {
	for _, o := range h.Observations {
		if o.DANERecord == r.String() {
			return true
		}
	}
	return false
}
