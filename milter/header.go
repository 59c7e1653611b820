package milter

import (
	"strconv"
	"strings"

	gomilter "github.com/d--j/go-milter"

	"tlsonly/internal/contract"
	"tlsonly/internal/policy"
)

// tagHeader is the header a message gets when a rule let one of its recipients pass. Only the topmost one is ours:
// copies that came with the message are deleted where the MTA lets us.
//
//	TLS-Only: fail; rule="clinic"; tls=encrypt; reason=no-starttls;
//		rule="lab"; tls=secure
//
// The first word is the worst tag of the accepted recipients. A group for each rule follows; reason says why its
// recipients' destinations don't satisfy it, would what mode "enforce" had done. The header never names a recipient
// or a destination: one reader would learn of the other's blind copy.
const tagHeader = contract.Header

// tlsRequiredHeader: RFC 8689, section 5. Its only value, "no", asks for delivery at any price.
const tlsRequiredHeader = "TLS-Required"

// tagValue makes the value of the header from the decisions for the accepted recipients; "" when no rule concerned
// any of them.
func tagValue(ds []*Decision) string {
	worst := policy.TagPass
	var groups []*Decision // the worst of each rule, in the order they came
	for _, d := range ds {
		if moreTelling(d.Tag, worst) {
			worst = d.Tag
		}
		known := false
		for i, g := range groups {
			if g.Rule.Name == d.Rule.Name {
				known = true
				if moreTelling(d.Tag, g.Tag) {
					groups[i] = d
				}
			}
		}
		if !known {
			groups = append(groups, d)
		}
	}
	if len(groups) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString(string(worst))
	for i, g := range groups {
		if i == 0 {
			b.WriteString("; ")
		} else {
			b.WriteString(";\n\t") // RFC 5322, section 2.2.3: folded, so that no line grows with the number of rules
		}
		b.WriteString("rule=")
		b.WriteString(strconv.QuoteToASCII(g.Rule.Name))
		b.WriteString("; tls=")
		b.WriteString(string(g.Rule.Level))
		if g.Reason != "" {
			b.WriteString("; reason=")
			b.WriteString(string(g.Reason))
		}
		if g.Verdict == policy.Fallback {
			b.WriteString("; verdict=fallback")
		}
		if g.Would != g.Verdict {
			b.WriteString("; would=")
			b.WriteString(string(g.Would))
		}
	}
	return b.String()
}

// moreTelling reports whether a comes before b in the order of policy.Tag.
func moreTelling(a, b policy.Tag) bool {
	rank := func(t policy.Tag) int {
		switch t {
		case policy.TagFail:
			return 0
		case policy.TagObserve:
			return 1
		}
		return 2
	}
	return rank(a) < rank(b)
}

// isHeader compares a header name as it came (Postfix hands over blanks before the colon) with one of ours.
func isHeader(name, ours string) bool {
	return strings.EqualFold(strings.TrimRight(name, " \t"), ours)
}

// saysNo reports whether a TLS-Required value is "no", whatever comments stand around it (RFC 8689, section 5).
func saysNo(value string) bool {
	var b strings.Builder
	depth := 0
	for _, r := range value {
		switch {
		case r == '(':
			depth++
		case r == ')' && depth > 0:
			depth--
		case depth == 0:
			b.WriteRune(r)
		}
	}
	return strings.EqualFold(strings.TrimSpace(b.String()), "no")
}

// editHeaders deletes the copies of a header of ours that came with the message, and puts value, if any, above all others.
func editHeaders(m gomilter.Modifier, name string, copies int, value string) error {
	if m.Actions()&gomilter.OptChangeHeader != 0 {
		// From the last to the first: Postfix renumbers after each deletion, Sendmail doesn't.
		for i := copies; i > 0; i-- {
			if err := m.ChangeHeader(i, name, ""); err != nil {
				return err
			}
		}
	}
	if value == "" || m.Actions()&gomilter.OptAddHeader == 0 {
		return nil
	}
	// 0 is "before all", the MTA's own Received included, in both MTAs; with 1 Postfix puts it below that.
	return m.InsertHeader(0, name, value)
}
