package testnet

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
)

const signedText = `
@ MX 10 mx
mx A 192.0.2.1
www CNAME mx
*.wild A 192.0.2.2
there.empty A 192.0.2.3
big TXT ` + bigText

func startSigned(t *testing.T, zones ...SignedZone) *Signed {
	t.Helper()
	leaked := goleak.IgnoreCurrent()
	s, err := StartSigned("127.0.0.1:0", zones)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		goleak.VerifyNone(t, leaked)
	})
	return s
}

// signedTree has one zone of each kind.
func signedTree(t *testing.T) *Signed {
	t.Helper()
	return startSigned(t,
		SignedZone{Name: "nsec.example", Text: signedText},
		SignedZone{Name: "NSEC3.example.", Text: signedText, NSEC3: true},
		SignedZone{Name: "plain.example", Text: signedText, Unsigned: true},
		SignedZone{Name: "plain.nsec3.example", Unsigned: true})
}

func askSigned(t *testing.T, s *Signed, network, name string, qtype uint16, do bool) *dns.Msg {
	t.Helper()
	q := new(dns.Msg).SetQuestion(name, qtype)
	if do {
		q.SetEdns0(1232, true)
	}
	m, _, err := (&dns.Client{Net: network, Timeout: 10 * time.Second}).Exchange(q, s.Addr())
	if err != nil {
		t.Fatalf("%s %s: %v", name, dns.TypeToString[qtype], err)
	}
	return m
}

// unsignedSets returns what of the records has no signature by its zone's key that is good today, as "name type".
func unsignedSets(t *testing.T, s *Signed, records []dns.RR) []string {
	t.Helper()
	sets := map[string][]dns.RR{}
	sigs := map[string]*dns.RRSIG{}
	for _, rr := range records {
		name := rr.Header().Name + " "
		if sig, ok := rr.(*dns.RRSIG); ok {
			sigs[name+dns.TypeToString[sig.TypeCovered]] = sig
		} else {
			sets[name+dns.TypeToString[rr.Header().Rrtype]] = append(sets[name+dns.TypeToString[rr.Header().Rrtype]], rr)
		}
	}
	var bad []string
	for set, rrs := range sets {
		sig := sigs[set]
		if sig == nil || !sig.ValidityPeriod(time.Now()) {
			bad = append(bad, set)
			continue
		}
		keys := askSigned(t, s, "tcp", sig.SignerName, dns.TypeDNSKEY, true).Answer
		if sig.Verify(keys[0].(*dns.DNSKEY), rrs) != nil {
			bad = append(bad, set)
		}
	}
	slices.Sort(bad)
	return bad
}

func data(records []dns.RR, not ...uint16) string {
	var all []string
	for _, rr := range records {
		if !slices.Contains(not, rr.Header().Rrtype) {
			all = append(all, strings.ReplaceAll(strings.TrimPrefix(rr.String(), rr.Header().String()), "\t", " "))
		}
	}
	return strings.Join(all, "; ")
}

func TestSignedAnswers(t *testing.T) {
	s := signedTree(t)
	const head = "big.nsec.example. NS SOA MX RRSIG NSEC DNSKEY" // the zone's own link: there is no wildcard at its top
	tests := []struct {
		name   string
		qtype  uint16
		rcode  int
		answer string // data without signatures
		denial string // data of the NSEC records that go with it
	}{
		{"nsec.example.", dns.TypeMX, dns.RcodeSuccess, "10 mx.nsec.example.", ""},
		{"WWW.nsec.example.", dns.TypeA, dns.RcodeSuccess, "mx.nsec.example.", ""},
		{"b.a.wild.nsec.example.", dns.TypeA, dns.RcodeSuccess, "192.0.2.2", "www.nsec.example. A RRSIG NSEC"},
		{"mx.nsec.example.", dns.TypeTXT, dns.RcodeSuccess, "", "*.wild.nsec.example. A RRSIG NSEC"},
		{"a.wild.nsec.example.", dns.TypeTXT, dns.RcodeSuccess, "", "www.nsec.example. A RRSIG NSEC"},
		// RFC 4035, section 3.1.3.2: an empty name is denied its records by the link around it.
		{"empty.nsec.example.", dns.TypeA, dns.RcodeSuccess, "", "there.empty.nsec.example. TXT RRSIG NSEC"},
		{"no.nsec.example.", dns.TypeA, dns.RcodeNameError, "", "*.wild.nsec.example. A RRSIG NSEC; " + head},
		{"zz.nsec.example.", dns.TypeA, dns.RcodeNameError, "", "nsec.example. CNAME RRSIG NSEC; " + head},
		{"plain.example.", dns.TypeDS, dns.RcodeSuccess, "", ". NS RRSIG NSEC"},
		{"plain.example.", dns.TypeMX, dns.RcodeSuccess, "10 mx.plain.example.", ""},
		{"no.plain.example.", dns.TypeMX, dns.RcodeNameError, "", ""},
		{"example.", dns.TypeA, dns.RcodeSuccess, "", "nsec.example. NS SOA RRSIG NSEC DNSKEY"},
		{"test.", dns.TypeA, dns.RcodeNameError, "", ". NS RRSIG NSEC; nsec.example. NS SOA RRSIG NSEC DNSKEY"},
		{"nsec3.example.", dns.TypeNSEC3PARAM, dns.RcodeSuccess, "1 0 0 -", ""},
	}
	for _, tt := range tests {
		m := askSigned(t, s, "udp", tt.name, tt.qtype, true)
		answer, denial := data(m.Answer, dns.TypeRRSIG), data(m.Ns, dns.TypeRRSIG, dns.TypeSOA)
		if m.Rcode != tt.rcode || answer != tt.answer || denial != tt.denial {
			t.Errorf("%s %s = %s %q, denial %q, want %s %q, %q", tt.name, dns.TypeToString[tt.qtype],
				dns.RcodeToString[m.Rcode], answer, denial, dns.RcodeToString[tt.rcode], tt.answer, tt.denial)
		}
		bad := unsignedSets(t, s, slices.Concat(m.Answer, m.Ns))
		if unsigned := strings.HasSuffix(tt.name, "plain.example.") && tt.qtype != dns.TypeDS; unsigned != (len(bad) > 0) {
			t.Errorf("%s %s: unsigned: %q", tt.name, dns.TypeToString[tt.qtype], bad)
		}
		m = askSigned(t, s, "udp", tt.name, tt.qtype, false)
		if got := data(m.Answer); got != tt.answer || len(m.Ns) > 1 {
			t.Errorf("%s %s without DO = %q, %v", tt.name, dns.TypeToString[tt.qtype], got, m.Ns)
		}
	}
}

func TestSignedNSEC3(t *testing.T) {
	s := signedTree(t)
	tests := []struct {
		name           string
		qtype          uint16
		match, covered []string
	}{
		{"mx", dns.TypeTXT, []string{"mx"}, nil},
		{"empty", dns.TypeA, []string{"empty"}, nil},
		{"plain", dns.TypeDS, []string{"plain"}, nil},
		{"a.wild", dns.TypeA, nil, []string{"a.wild"}},
		{"b.a.wild", dns.TypeTXT, []string{"wild", "*.wild"}, []string{"a.wild"}},
		{"b.no.empty", dns.TypeA, []string{"empty"}, []string{"no.empty", "*.empty"}},
	}
	for _, tt := range tests {
		m := askSigned(t, s, "udp", tt.name+".nsec3.example.", tt.qtype, true)
		if bad := unsignedSets(t, s, slices.Concat(m.Answer, m.Ns)); len(bad) > 0 {
			t.Errorf("%s: unsigned: %q", tt.name, bad)
		}
		proves := func(test func(*dns.NSEC3, string) bool, name string) bool {
			return slices.ContainsFunc(m.Ns, func(rr dns.RR) bool {
				link, ok := rr.(*dns.NSEC3)
				return ok && test(link, name+".nsec3.example.")
			})
		}
		for _, name := range tt.match {
			if !proves((*dns.NSEC3).Match, name) {
				t.Errorf("%s: no link for %s:\n%v", tt.name, name, m)
			}
		}
		for _, name := range tt.covered {
			if !proves((*dns.NSEC3).Cover, name) {
				t.Errorf("%s: no link around %s:\n%v", tt.name, name, m)
			}
		}
	}
}

// The way from the anchor down: each DS is that of the key below.
func TestSignedDelegations(t *testing.T) {
	s := signedTree(t)
	keyOf := func(zone string) *dns.DNSKEY {
		return askSigned(t, s, "udp", zone, dns.TypeDNSKEY, true).Answer[0].(*dns.DNSKEY)
	}
	if got, want := s.Anchor(), keyOf(".").ToDS(dns.SHA256).String(); got != want {
		t.Errorf("anchor %s, want %s", got, want)
	}
	ds := askSigned(t, s, "udp", "nsec.example.", dns.TypeDS, true)
	if got, want := data(ds.Answer[:1]), data([]dns.RR{keyOf("nsec.example.").ToDS(dns.SHA256)}); got != want {
		t.Errorf("DS %s, want %s", got, want)
	}
	before := keyOf("nsec.example.").String()
	if err := s.SetZone(SignedZone{Name: "nsec.example", Fault: DNSWrongDS}); err != nil {
		t.Fatal(err)
	}
	if got := keyOf("nsec.example.").String(); got != before {
		t.Errorf("key %s after a change, want %s", got, before)
	}
	wrong := askSigned(t, s, "udp", "nsec.example.", dns.TypeDS, true)
	if data(wrong.Answer[:1]) == data(ds.Answer[:1]) || len(unsignedSets(t, s, wrong.Answer)) > 0 {
		t.Errorf("wrong DS: %v", wrong.Answer)
	}
}

func TestSignedFaults(t *testing.T) {
	s := signedTree(t)
	const good = "mx.nsec.example. A"
	denied := []string{"mx.nsec.example. NSEC", "nsec.example. SOA"}
	tests := []struct {
		qtype uint16
		fault DNSFault
		rcode int
		bad   []string
		links int
	}{
		{dns.TypeA, "", dns.RcodeSuccess, nil, 0},
		{dns.TypeA, DNSExpired, dns.RcodeSuccess, []string{good}, 0},
		{dns.TypeA, DNSWrongKey, dns.RcodeSuccess, []string{good}, 0},
		{dns.TypeA, DNSStripped, dns.RcodeSuccess, []string{good}, 0},
		{dns.TypeA, DNSNXDomain, dns.RcodeNameError, nil, 0},
		{dns.TypeA, DNSServFail, dns.RcodeServerFailure, nil, 0},
		{dns.TypeA, DNSRefused, dns.RcodeRefused, nil, 0},
		{dns.TypeTXT, "", dns.RcodeSuccess, nil, 1},
		{dns.TypeTXT, DNSExpired, dns.RcodeSuccess, denied, 1},
		{dns.TypeTXT, DNSStripped, dns.RcodeSuccess, denied, 1},
		{dns.TypeTXT, DNSNoDenial, dns.RcodeSuccess, nil, 0},
		{dns.TypeTXT, DNSWrongDenial, dns.RcodeSuccess, nil, 1},
	}
	for _, tt := range tests {
		s.SetFault("mx.nsec.example", tt.qtype, tt.fault)
		m := askSigned(t, s, "udp", "mx.nsec.example.", tt.qtype, true)
		links := slices.DeleteFunc(slices.Clone(m.Ns), func(rr dns.RR) bool { return rr.Header().Rrtype != dns.TypeNSEC })
		bad := unsignedSets(t, s, slices.Concat(m.Answer, m.Ns))
		if m.Rcode != tt.rcode || !slices.Equal(bad, tt.bad) || len(links) != tt.links {
			t.Errorf("%s %q = %s, unsigned %q, %d denials, want %s %q %d", dns.TypeToString[tt.qtype], tt.fault,
				dns.RcodeToString[m.Rcode], bad, len(links), dns.RcodeToString[tt.rcode], tt.bad, tt.links)
		}
		if tt.fault == DNSWrongDenial && links[0].Header().Name == "mx.nsec.example." {
			t.Errorf("wrong denial: %v is the right one", links)
		}
	}
}

func TestSignedTruncates(t *testing.T) {
	s := signedTree(t)
	if m := askSigned(t, s, "udp", "big.nsec.example.", dns.TypeTXT, false); !m.Truncated {
		t.Errorf("UDP: %d records and no TC", len(m.Answer))
	}
	if m := askSigned(t, s, "tcp", "big.nsec.example.", dns.TypeTXT, true); m.Truncated || len(m.Answer) != 6 {
		t.Errorf("TCP: TC %t, %d records, want 5 and a signature", m.Truncated, len(m.Answer))
	}
	if got := s.Queries("big.nsec.example", 0); got != 2 {
		t.Errorf("%d queries, want 2", got)
	}
}

func TestSignedRefusesZones(t *testing.T) {
	for _, tt := range []struct{ reason, name, text string }{
		{"zone bad.example.: dns: bad A", "bad.example", "mx A nonsense"},
		{"other.example. is outside", "bad.example", "other.example. A 192.0.2.1"},
		{"mx.nsec.example. belongs to zone nsec.example.", "example", "mx.nsec A 192.0.2.1"},
		{"sub.bad.example. is delegated to a zone that isn't served", "bad.example", "sub NS ns"},
	} {
		s := signedTree(t)
		before := data(askSigned(t, s, "udp", "example.", dns.TypeSOA, false).Answer)
		for what, err := range map[string]error{
			"SetZone":     s.SetZone(SignedZone{Name: tt.name, Text: tt.text}),
			"StartSigned": startAndClose(SignedZone{Name: "nsec.example"}, SignedZone{Name: tt.name, Text: tt.text}),
		} {
			if err == nil || !strings.Contains(err.Error(), tt.reason) {
				t.Errorf("%s: %v, want %q", what, err, tt.reason)
			}
		}
		if after := data(askSigned(t, s, "udp", "example.", dns.TypeSOA, false).Answer); after != before {
			t.Errorf("after %q the zones are others", tt.reason)
		}
	}
	if err := startAndClose(SignedZone{Name: "a.example"}, SignedZone{Name: "A.example."}); err == nil {
		t.Error("StartSigned took a zone twice")
	}
	s := signedTree(t)
	if err := s.SetRecords("mx.nsec.example", dns.TypeA, "nonsense"); err == nil {
		t.Error("SetRecords took nonsense")
	}
}

func startAndClose(zones ...SignedZone) error {
	s, err := StartSigned("127.0.0.1:0", zones)
	if err == nil {
		err = s.Close()
	}
	return err
}

func TestWorldSigned(t *testing.T) {
	w, err := StartWorld("127.0.0.1:0", 0, Sites())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	zones, err := w.SignedZones("good.example", "nullmx.example")
	if err != nil {
		t.Fatal(err)
	}
	s := startSigned(t, zones...)
	name, record := w.Hosts("good.example")[0].TLSA()
	if err := s.SetRecords(name, dns.TypeTLSA, record); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		qtype  uint16
		want   string
		signed bool
	}{
		{"good.example.", dns.TypeMX, "10 mx1.good.example.", true},
		{"mx1.good.example.", dns.TypeA, "127.0.1.1", true},
		{name, dns.TypeTLSA, record, true},
		{"nullmx.example.", dns.TypeMX, "0 .", true},
		{"example.", dns.TypeSOA, "ns.example. hostmaster.example. 1 60 60 60 60", true},
		{"mixed.example.", dns.TypeMX, "10 mx1.mixed.example.; 20 mx2.mixed.example.", false},
	} {
		m := askSigned(t, s, "udp", tt.name, tt.qtype, true)
		if got := strings.ToLower(data(m.Answer, dns.TypeRRSIG)); got != tt.want {
			t.Errorf("%s %s = %q, want %q", tt.name, dns.TypeToString[tt.qtype], got, tt.want)
		}
		if bad := unsignedSets(t, s, m.Answer); tt.signed != (len(bad) == 0) {
			t.Errorf("%s: unsigned %q, want signed %t", tt.name, bad, tt.signed)
		}
	}
	if _, err := w.SignedZones("goood.example"); err == nil {
		t.Error("SignedZones signs a domain that isn't there")
	}
}
