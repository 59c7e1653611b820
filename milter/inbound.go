package milter

import (
	"log/slog"
	"net/netip"
	"strconv"
	"strings"

	gomilter "github.com/d--j/go-milter"

	"tlsonly/internal/addr"
	"tlsonly/internal/inbound"
	"tlsonly/internal/policy"
)

// How mail comes in: what the MTA's macros say of the client and its TLS session, and what the [[inbound]] rules make of it.
//
// The macros are asked for at MAIL, again for each message, because they are the MTA's own and the library forgets those of
// HELO after the first one. An MTA that can't be asked (a milter protocol before version 6) tells too little: while there are
// [[inbound]] rules, its mail is deferred.

const (
	macroVerify        = "{verify}"     // Sendmail
	macroCertificateCN = "{cn_subject}" // Sendmail; its {cert_subject} is a whole distinguished name
)

// inboundMacros are what is asked for at MAIL where [[inbound]] rules may come.
func inboundMacros() []string {
	return []string{
		gomilter.MacroClientAddr, gomilter.MacroClientName,
		gomilter.MacroTlsVersion, gomilter.MacroCipher, gomilter.MacroCipherBits,
		gomilter.MacroCertSubject, gomilter.MacroCertIssuer, macroCertificateCN, macroVerify,
	}
}

// arrival reads how a message comes in. What isn't told counts for nothing: no TLS, no certificate, a client elsewhere.
func arrival(m gomilter.Macros) inbound.Arrival {
	a := inbound.Arrival{
		Addr:   clientAddr(m.Get(gomilter.MacroClientAddr)),
		Login:  m.Get(gomilter.MacroAuthAuthen),
		Cipher: m.Get(gomilter.MacroCipher),
	}
	// Both MTAs name only a client whose name and address confirm each other; else it is "unknown" or the address in brackets.
	name, err := addr.ParseDomain(m.Get(gomilter.MacroClientName))
	if err == nil && !name.IsLiteral() && name.String() != "unknown" {
		a.Name = name
	}
	protocol, verify := m.Get(gomilter.MacroTlsVersion), m.Get(macroVerify)
	switch verify {
	case "", "OK", "TRUSTED", "FAIL", "NO", "NOT":
		a.TLS = protocol != ""
	}
	if !a.TLS {
		a.Cipher = ""
		return a
	}
	a.Version = tlsVersion(protocol)
	a.Bits, _ = strconv.Atoi(m.Get(gomilter.MacroCipherBits)) // not a number: none
	switch mtaOf(m.Get(gomilter.MacroMTAVersion)) {
	case postfixMTA:
		// Postfix has these two only for a certificate that it trusts; the first is the common name.
		a.Certificate = m.Get(gomilter.MacroCertSubject)
		a.Verified = a.Certificate != "" || m.Get(gomilter.MacroCertIssuer) != ""
	default:
		// Sendmail tells the names of any certificate, whatever it thinks of it.
		if a.Verified = verify == "OK"; a.Verified {
			a.Certificate = fromXtext(m.Get(macroCertificateCN))
		}
	}
	return a
}

// clientAddr reads {client_addr}. "0" is Sendmail's for a client that isn't on a network; anything else that is no
// address, or nothing, is an address that nobody has: it must not pass for this host.
func clientAddr(s string) netip.Addr {
	if s == "0" {
		return netip.Addr{}
	}
	ip, err := netip.ParseAddr(strings.TrimPrefix(s, "IPv6:"))
	if err != nil {
		return netip.IPv4Unspecified()
	}
	return ip.Unmap().WithZone("")
}

// tlsVersion reads OpenSSL's name of a version: "TLSv1", "TLSv1.3", "SSLv3".
func tlsVersion(s string) policy.Version {
	switch s {
	case "SSLv3":
		return policy.SSL30
	case "TLSv1":
		return policy.TLS10
	}
	v, _ := policy.ParseVersion(strings.TrimPrefix(s, "TLSv")) // not one of them: 0, below all
	return v
}

// fromXtext undoes what Sendmail does to names from certificates: "+" and two hexadecimal digits stand for an octet.
func fromXtext(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '+' && i+2 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(c))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// comesIn reads how a message comes in, where anybody wants to know, and finds the rules that can decide for it.
func (s *session) comesIn(in *inbound.Set, from addr.Address, m gomilter.Modifier) (inbound.Arrival, inbound.Candidates) {
	if len(in.Rules()) == 0 && !s.tagsInbound() {
		return inbound.Arrival{}, nil
	}
	a := arrival(m)
	return a, in.Candidates(a, from, s.server.c.Now())
}

// tagsInbound reports whether messages from elsewhere get inboundHeader: not where it would say what nobody was asked.
func (s *session) tagsInbound() bool { return s.server.c.InboundHeader && s.setsMacros }

// admission is what was decided for one recipient by an [[inbound]] rule.
type admission struct {
	rule *inbound.Rule
	to   addr.Address
	inbound.Judgement
}

// admit judges for one recipient how the message comes in. It returns the refusal, or nil.
func (s *session) admit(msg *message, to addr.Address, m gomilter.Modifier) *gomilter.Response {
	if len(msg.inbound) == 0 {
		return nil
	}
	to = completed(to, m)
	r := msg.inbound.Match(to)
	if r == nil {
		return nil
	}
	d := admission{rule: r, to: to, Judgement: r.Judge(msg.cameIn())}
	if d.Verdict == policy.Hold && !s.canQuarantine {
		d.Verdict, d.Would = policy.Defer, policy.Defer
	}
	switch d.Verdict {
	case policy.Accept, policy.Hold:
		msg.admitted = append(msg.admitted, d)
		return nil
	}
	s.logAdmission(msg, &d, "")
	return s.answer(r.Reply(d.Judgement, to, s.server.c.Decider.Help))
}

// cameIn is how the message comes in: from here, where Postfix handed it in itself.
func (msg *message) cameIn() inbound.Arrival {
	if msg.atEnd {
		return inbound.Arrival{}
	}
	return msg.arrival
}

// completed gives a bare recipient the domain that the MTA will.
func completed(to addr.Address, m gomilter.Modifier) addr.Address {
	if !to.Domain.IsZero() {
		return to
	}
	if full, err := addr.ParsePath(m.Get(gomilter.MacroRcptAddr)); err == nil && !full.Domain.IsZero() {
		return full
	}
	if host, err := addr.ParseDomain(m.Get(gomilter.MacroMTAFQDN)); err == nil {
		to.Domain = host
	}
	return to
}

// inboundHold returns the first recipient for whose sake the message is to be held, or nil.
func (msg *message) inboundHold() *admission {
	for i := range msg.admitted {
		if msg.admitted[i].Verdict == policy.Hold {
			return &msg.admitted[i]
		}
	}
	return nil
}

// inboundHeader says how a message came in from elsewhere. As with tagHeader only the topmost one is ours.
//
//	TLS-Only-Inbound: pass; version=TLSv1.3; cipher=TLS_AES_256_GCM_SHA384; bits=256; cert="gw.insurer.example";
//		rule="insurer"
//
// The first word is the worst tag of the accepted recipients, "none" where no rule concerned any of them; version is "none"
// for mail that came in the clear, cert is there for a certificate that was verified. A group for each rule follows.
const inboundHeader = "TLS-Only-Inbound"

// inboundValue makes the value of the header.
func inboundValue(a inbound.Arrival, ds []admission) string {
	var groups []*admission // the worst of each rule, in the order they came
	for i := range ds {
		d, known := &ds[i], false
		for k, g := range groups {
			if g.rule == d.rule {
				known = true
				if moreTelling(d.Tag, g.Tag) {
					groups[k] = d
				}
			}
		}
		if !known {
			groups = append(groups, d)
		}
	}
	worst := "none"
	for i, g := range groups {
		if i == 0 || moreTelling(g.Tag, policy.Tag(worst)) {
			worst = string(g.Tag)
		}
	}
	var b strings.Builder
	b.WriteString(worst)
	switch {
	case !a.TLS:
		b.WriteString("; version=none")
	case a.Version == 0:
		b.WriteString("; version=unknown")
	default:
		b.WriteString("; version=" + protocolName(a.Version))
	}
	if a.TLS {
		if isToken(a.Cipher) {
			b.WriteString("; cipher=" + a.Cipher)
		}
		b.WriteString("; bits=" + strconv.Itoa(a.Bits))
		if a.Verified {
			b.WriteString("; cert=" + strconv.QuoteToASCII(limitedName(a.Certificate)))
		}
	}
	for _, g := range groups {
		b.WriteString(";\n\trule=" + strconv.QuoteToASCII(g.rule.Name))
		if g.Reason != "" {
			b.WriteString("; reason=" + string(g.Reason))
		}
		if g.Would != g.Verdict {
			b.WriteString("; would=" + string(g.Would))
		}
	}
	return b.String()
}

func protocolName(v policy.Version) string {
	if v == policy.SSL30 {
		return "SSLv3"
	}
	return "TLSv" + v.String()
}

// isToken reports whether s can stand in the header as it is.
func isToken(s string) bool {
	return s != "" && len(s) <= 64 && !strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_')
	})
}

// limitedName: RFC 5280, appendix A, has at most 64 characters in a common name; not everybody heeds that.
func limitedName(s string) string {
	if len(s) > 128 {
		s = strings.ToValidUTF8(s[:128], "")
	}
	return s
}

// logAdmission writes the one line of a recipient that an [[inbound]] rule decided for. message is the verdict for the whole
// message where that is another, or "".
func (s *session) logAdmission(msg *message, d *admission, message policy.Verdict) {
	if observe := s.server.c.ObserveInbound; observe != nil {
		observe(d.rule, d.Would, d.Reason)
	}
	log := s.server.c.Log
	if !log.Enabled(s.ctx, slog.LevelInfo) {
		return
	}
	a := msg.cameIn()
	client := a.Name.String()
	if a.Addr.IsValid() {
		client += "[" + a.Addr.String() + "]"
	}
	attrs := append(make([]slog.Attr, 0, 12),
		slog.String("qid", msg.queueID),
		slog.String("client", client),
		slog.String("from", msg.from.String()),
		slog.String("rcpt", d.to.String()),
		slog.String("rule", d.rule.Name),
		slog.String("verdict", string(d.Verdict)),
		slog.String("reason", string(d.Reason)),
		slog.String("tls_version", a.Version.String()),
		slog.Int("bits", a.Bits),
	)
	if d.Would != d.Verdict {
		attrs = append(attrs, slog.String("would", string(d.Would)))
	}
	if a.Verified {
		attrs = append(attrs, slog.String("cert", limitedName(a.Certificate)))
	}
	if message != "" && message != d.Verdict {
		attrs = append(attrs, slog.String("message", string(message)))
	}
	log.LogAttrs(s.ctx, slog.LevelInfo, "inbound", attrs...)
}
