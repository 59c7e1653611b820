package judge

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// Advice is one thing that the administrators of a destination would have to do.
type Advice struct {
	Level     policy.Level   `json:"level"`            // for which
	Mechanism string         `json:"way,omitempty"`    // to level secure, of several: dane, mta-sts or certificate
	Host      addr.Domain    `json:"host,omitzero"`    // the mail host that it is about, if it is about one
	Address   netip.AddrPort `json:"address,omitzero"` // the address of it, if others of its addresses are better
	Text      string         `json:"text"`
}

// The ways to prove who one is.
const (
	ByDANE        = "dane"
	BySTS         = "mta-sts"
	ByCertificate = "certificate"
)

// wants collects what a destination lacks.
type wants struct {
	a      policy.Assessment
	demand policy.Demand
	blind  bool // nothing can be said of DNSSEC from here
	advice []Advice
}

// Missing names the level above the one that a destination reaches (Level), "" for
// none, and what its administrators would have to do for it: also, where one mail
// host is enough for a level, what the others lack for the same. blind says that
// nothing can be said of DNSSEC from here.
func Missing(demand policy.Demand, a policy.Assessment, blind bool) (policy.Level, []Advice) {
	w := wants{a: a, demand: demand, blind: blind}
	w.tls()
	switch Level(demand, a) {
	case policy.LevelEncrypt:
		w.proof()
		return policy.LevelSecure, w.advice
	case policy.LevelSecure:
		w.destinationName()
		w.dane(policy.LevelDane)
		return policy.LevelDane, w.advice
	case policy.LevelDane:
		w.dane(policy.LevelDane)
		return "", w.advice
	}
	return policy.LevelEncrypt, w.advice
}

func (w *wants) say(level policy.Level, way string, host addr.Domain, format string, args ...any) {
	w.advice = append(w.advice, Advice{Level: level, Mechanism: way, Host: host, Text: fmt.Sprintf(format, args...)})
}

// tls says what is between a destination and good TLS.
func (w *wants) tls() {
	const level = policy.LevelEncrypt
	switch w.a.Problem {
	case "":
	case policy.NullMX, policy.NoSuchDomain:
		return // nobody lacks anything: no mail is wanted
	case policy.NoMailHost:
		w.say(level, "", addr.Domain{}, "name a mail host in the MX records: %s", w.a.Detail)
		return
	default:
		w.say(level, "", addr.Domain{}, "have the name servers answer: %s", w.a.Detail)
		return
	}
	w.demand.Level = level
	for _, h := range w.a.Hosts {
		reason := Host(w.demand, w.a, h)
		if h.Problem != "" || h.DANE == policy.DANEUnknown || len(h.Observations) == 0 {
			if reason != "" {
				w.say(level, "", h.Name, "%s", w.hostFault(h))
			}
			continue
		}
		var faults []Advice
		for _, o := range h.Observations {
			one := h
			one.Observations = []policy.Observation{o}
			why := Host(w.demand, w.a, one)
			if why == "" || reason == "" && why.Unknown() { // an address that can't be reached from here may be from elsewhere
				continue
			}
			faults = append(faults, Advice{Level: level, Host: h.Name, Address: o.Address, Text: w.fault(one, o, why)})
		}
		alike := len(faults) == len(h.Observations) &&
			!slices.ContainsFunc(faults, func(f Advice) bool { return f.Text != faults[0].Text })
		if alike {
			faults[0].Address = netip.AddrPort{}
			faults = faults[:1]
		}
		w.advice = append(w.advice, faults...)
	}
}

// hostFault is for a host of whose addresses nothing is known.
func (w *wants) hostFault(h policy.Host) string {
	switch {
	case h.Problem == policy.NoSuchDomain:
		return "give the name an address, or take it out of the MX records"
	case h.Problem == policy.Loop:
		return "be another host than this MTA, to which its mail would loop back: " + h.Detail
	case h.Problem == policy.NotTried:
		return "come earlier in the MX records: " + h.Detail
	case h.Problem != "":
		return "have the name servers answer: " + h.Detail
	case h.DANE == policy.DANEUnknown:
		return "have the name servers answer, for TLSA records may be there: " + h.DANEDetail
	}
	return "answer in time"
}

// fault is for one address.
func (w *wants) fault(h policy.Host, o policy.Observation, why policy.Reason) string {
	switch why {
	case policy.NoSTARTTLS:
		return "offer STARTTLS (RFC 3207)"
	case policy.Handshake:
		return "make STARTTLS work: " + o.Detail
	case policy.WeakTLS:
		return fmt.Sprintf("offer TLS %s or later with a cipher of %d bits or more", w.demand.MinVersion, w.demand.MinBits)
	case policy.DaneMismatch:
		return w.mismatch(h, o)
	case policy.MTASTSMismatch:
		return w.stsAdvice(h)
	}
	if o.Stage != policy.StageConnect && o.Stage != "" {
		return "answer as SMTP wants it (RFC 5321): " + Fault(o)
	}
	return "let itself be reached: " + Fault(o)
}

// mismatch is for TLSA records that promise something else than what is shown.
func (w *wants) mismatch(h policy.Host, o policy.Observation) string {
	if o.DANE == policy.DANEMatchTA {
		return fmt.Sprintf("show a certificate for %s, as trust-anchor records (usage 2) want: this one is for %s",
			tlsaBase(h), Subject(o.Chain[0]))
	}
	return fmt.Sprintf("publish a TLSA record for the certificate that is shown, %s, or show one that the records are for",
		w.record(h))
}

// proof says what a destination that offers TLS lacks to prove who it is. Where a way is begun, only that one is told.
func (w *wants) proof() {
	switch {
	case w.a.Destination.Host().IsLiteral():
		w.say(policy.LevelSecure, "", addr.Domain{},
			"nobody can prove to be an address: MTAs take no notice of those in certificates; name the host instead")
		return
	case w.a.Destination.Direct():
		w.dane(policy.LevelSecure)
		w.certificates(w.a.Destination.Host())
		return
	}
	dane := slices.ContainsFunc(w.a.Hosts, func(h policy.Host) bool { return h.DANE != policy.DANENone })
	sts := w.a.MTASTS.Problem != "" || w.a.MTASTS.Mode == policy.STSTesting || w.a.MTASTS.Enforces()
	switch {
	case sts && !dane:
		w.sts()
	case dane && !sts:
		w.dane(policy.LevelSecure)
	case dane || w.a.Secure:
		w.dane(policy.LevelSecure)
		w.sts()
	default:
		w.sts()
		w.dane(policy.LevelSecure)
	}
}

// destinationName is for a destination that proves its own name at some of its hosts.
func (w *wants) destinationName() {
	d := w.demand
	d.Level = policy.LevelSecure
	own := slices.ContainsFunc(w.a.Hosts, func(h policy.Host) bool { return certificateFault(h, w.a.Destination.Host()) == "" })
	if own && !w.a.MTASTS.Enforces() {
		w.certificates(w.a.Destination.Host())
	}
}

// certificates wants one for a name of every host that speaks TLS.
func (w *wants) certificates(name addr.Domain) {
	for _, h := range w.a.Hosts {
		if fault := certificateFault(h, name); fault != "" && shows(h) {
			w.say(policy.LevelSecure, ByCertificate, h.Name, "show a valid certificate for %s: %s", name, fault)
		}
	}
}

// sts says what MTA-STS needs (RFC 8461).
func (w *wants) sts() {
	say := func(host addr.Domain, format string, args ...any) {
		w.say(policy.LevelSecure, BySTS, host, format, args...)
	}
	d, s := w.a.Destination.Host(), w.a.MTASTS
	switch {
	case strings.HasPrefix(s.Problem, policy.STSRecord):
		say(addr.Domain{}, "mend the TXT record _mta-sts.%s: %s", d, strings.TrimPrefix(s.Problem, policy.STSRecord+": "))
	case s.Problem != "":
		url := fmt.Sprintf("https://mta-sts.%s/.well-known/mta-sts.txt", d)
		say(addr.Domain{}, "have %s serve the policy that the TXT record announces: %s",
			url, strings.TrimPrefix(s.Problem, fmt.Sprintf("Get %q: ", url)))
	case s.Mode == policy.STSTesting:
		say(addr.Domain{}, "change the policy's mode from testing to enforce, and the id in the TXT record with it")
	case !s.Enforces():
		say(addr.Domain{}, "announce a policy in the TXT record _mta-sts.%[1]s, and serve it, in mode enforce and with the names "+
			"of the mail hosts, at https://mta-sts.%[1]s/.well-known/mta-sts.txt", d)
	}
	for _, h := range w.a.Hosts {
		if fault := w.stsAdvice(h); fault != "" && shows(h) {
			say(h.Name, "%s", fault)
		}
	}
}

// stsAdvice says what a host has to do to fit an MTA-STS policy, "" when it does.
func (w *wants) stsAdvice(h policy.Host) string {
	switch fault := STSFault(w.a.MTASTS, h); fault {
	case "":
		return ""
	case NotNamed:
		return "be named in the MTA-STS policy, which names " + strings.Join(w.a.MTASTS.MX, ", ") + ", or leave the MX records"
	default:
		return "show a valid certificate for its own name: " + fault
	}
}

// NotNamed is what STSFault says of a host that the policy leaves out.
const NotNamed = "the policy does not name it"

// STSFault says why a host doesn't do for MTA-STS, "" when it does (RFC 8461,
// sections 4.1 and 4.2).
func STSFault(s policy.STS, h policy.Host) string {
	if len(s.MX) > 0 && !s.Permits(h.Name) {
		return NotNamed
	}
	return certificateFault(h, h.Name)
}

// dane says what DANE needs (RFC 7672), of each host that speaks TLS.
func (w *wants) dane(level policy.Level) {
	if w.blind || w.a.Destination.Host().IsLiteral() {
		return
	}
	say := func(host addr.Domain, format string, args ...any) { w.say(level, ByDANE, host, format, args...) }
	d := w.a.Destination
	if !d.Direct() && !w.a.Secure {
		say(addr.Domain{}, "sign the zone of %s with DNSSEC", names(d.Host(), w.a.Alias))
	}
	for _, h := range w.a.Hosts {
		if !shows(h) {
			continue // it lacks TLS first
		}
		switch h.DANE {
		case policy.DANENone:
			if signing := !d.Direct() && !w.a.Secure && h.Name.Under(d.Host()); !h.Secure && !signing {
				say(h.Name, "sign the zone of %s with DNSSEC", names(h.Name, h.Alias))
			}
			say(h.Name, "publish %s", w.record(h))
		case policy.DANEUnusable:
			say(h.Name, "publish a record that clients can use, %s: %s", w.record(h), h.DANEDetail)
		case policy.DANEUsable:
			for _, o := range h.Observations {
				if o.DANE == policy.DANEMismatch || OtherName(w.a, h, o) {
					w.advice = append(w.advice, Advice{Level: level, Mechanism: ByDANE, Host: h.Name, Address: o.Address, Text: w.mismatch(h, o)})
				}
			}
		}
	}
}

// names is a name, and what it is an alias of.
func names(name, alias addr.Domain) string {
	if alias.IsZero() {
		return name.String()
	}
	return fmt.Sprintf("%s, and that of %s, which it is an alias of,", name, alias)
}

// OtherName reports whether a certificate that a trust anchor is right for is
// for another host (RFC 7672, section 3.2.2).
func OtherName(a policy.Assessment, h policy.Host, o policy.Observation) bool {
	h.Observations = []policy.Observation{o}
	d := policy.Demand{Level: policy.LevelEncrypt, Honor: policy.Honor{DANE: true}}
	return o.DANE == policy.DANEMatchTA && Host(d, a, h) == policy.DaneMismatch
}

// shows reports whether a host showed a certificate anywhere.
func shows(h policy.Host) bool {
	return slices.ContainsFunc(h.Observations, func(o policy.Observation) bool { return len(o.Chain) > 0 })
}

// record is what to publish, exactly where a certificate was seen: its public key (RFC 7672, section 3.1.3).
func (w *wants) record(h policy.Host) string {
	port := w.a.Destination.PortOr(25)
	var digests []string
	for _, o := range h.Observations {
		port = o.Address.Port()
		if o.KeyDigest != "" && !slices.Contains(digests, o.KeyDigest) {
			digests = append(digests, o.KeyDigest)
		}
	}
	if len(digests) == 0 {
		digests = []string{"<SHA-256 of the public key>"}
	}
	for i, digest := range digests {
		digests[i] = fmt.Sprintf("_%d._tcp.%s. IN TLSA 3 1 1 %s", port, tlsaBase(h), digest)
	}
	return strings.Join(digests, " and ")
}

// tlsaBase is the name below which a host's TLSA records are (RFC 7672, section 2.2.3).
func tlsaBase(h policy.Host) addr.Domain {
	if h.TLSABase.IsZero() {
		return h.Name
	}
	return h.TLSABase
}

// certificateFault says why no address of a host shows a valid certificate for name, "" when one does.
func certificateFault(h policy.Host, name addr.Domain) string {
	fault := "it shows none"
	for _, o := range h.Observations {
		switch {
		case len(o.Chain) == 0:
		case o.Trust == policy.Trusted && o.Chain[0].Bears(name):
			return ""
		case o.NeedsName:
			fault = "it does so only where it is named (SNI), which the MTA here does not do; without, this one is for " + Subject(o.Chain[0])
		case o.Trust != policy.Trusted:
			fault = fmt.Sprintf("this one is not valid, %s: %s", o.Trust, o.TrustDetail)
		default:
			fault = "this one is for " + Subject(o.Chain[0])
			if subject, ok := commonOnly(o.Chain[0]); ok {
				fault = fmt.Sprintf("this one has %s as its common name only, which does not count", subject)
			}
		}
	}
	return fault
}
