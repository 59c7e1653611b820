package inbound

import (
	"fmt"
	"slices"
	"strings"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// Reason says what a session lacks. The list is closed; "" is nothing.
type Reason string

// The reasons.
const (
	NoTLS            Reason = "no-tls"
	WeakVersion      Reason = "weak-version"
	WeakCipher       Reason = "weak-cipher"
	NoCertificate    Reason = "no-certificate" // none, or none that the MTA could verify
	WrongCertificate Reason = "wrong-certificate"
)

// Judgement is what a rule makes of a message for one recipient.
type Judgement struct {
	Verdict policy.Verdict
	Reason  Reason // "" when the session satisfies the rule
	Tag     policy.Tag
	// Would is the verdict that mode "enforce" would have given; it differs from Verdict only in mode "observe".
	Would policy.Verdict
}

// Judge gives the verdict for a recipient of a message that came in so.
func (r *Rule) Judge(a Arrival) Judgement {
	j := Judgement{Verdict: policy.Accept, Would: policy.Accept, Tag: policy.TagPass, Reason: r.lack(a)}
	if j.Reason == "" {
		return j
	}
	j.Would, j.Tag = r.OnFail.Verdict(), policy.TagFail
	if r.Mode == policy.Observe {
		j.Tag = policy.TagObserve
	} else {
		j.Verdict = j.Would
	}
	return j
}

// lack says what of the rule's demand the session lacks, "" for nothing.
func (r *Rule) lack(a Arrival) Reason {
	switch {
	case r.Level == May, a.Here() && !r.namesLoopback(a):
		return ""
	case !a.TLS:
		return NoTLS
	case a.Version < r.MinVersion:
		return WeakVersion
	case a.Bits < r.MinBits:
		return WeakCipher
	case r.Level != Verified, a.Login != "" && len(r.Cert) == 0:
		return ""
	case !a.Verified:
		return NoCertificate
	case len(r.Cert) > 0 && !slices.Contains(r.Cert, foldName(a.Certificate)):
		return WrongCertificate
	}
	return ""
}

// Reply is what the client is told of a recipient: nothing with Accept and Hold. help is a URL that is added, or "".
// The texts name what the client itself has said and what it must do, not what it has shown.
func (r *Rule) Reply(j Judgement, to addr.Address, help string) policy.Reply {
	reply := policy.Reply{Code: 550, Enhanced: "5.7.10", Text: "TLS required: " + r.asks(j.Reason)}
	switch j.Verdict {
	case policy.Reject:
	case policy.Defer:
		reply.Code, reply.Enhanced = 451, "4.7.10"
	default:
		return policy.Reply{}
	}
	// RFC 6531, section 3.7.4.2: no UTF-8 to a client that hasn't asked for it. RFC 5321, section 4.5.3.1.5: 512 octets a line.
	if name := to.String(); len(name) <= 256 && !strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r > '~' }) {
		reply.Text += " for mail to " + name
	}
	return reply.WithHelp(help)
}

func (r *Rule) asks(lack Reason) string {
	switch lack {
	case WeakVersion:
		return fmt.Sprintf("TLS %s or later", r.MinVersion)
	case WeakCipher:
		return fmt.Sprintf("a cipher of %d bits or more", r.MinBits)
	case NoCertificate:
		return "a client certificate that this site can verify"
	case WrongCertificate:
		return "the client certificate agreed on"
	}
	return "STARTTLS must come first"
}
