package main

import (
	"crypto/tls"
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"tlsonly/internal/testnet"
)

// An agreeCase is a destination of which our verdict and what the MTA does are
// compared, at level encrypt.
type agreeCase struct {
	name string
	// zone are its records, "@" being its name. Names in braces are hosts: {good} and
	// {good2} have TLS, {plain} has none, {plain1} to {plain12} neither, at addresses
	// of their own, {dead} refuses connections, {own} is an address of the MTA, {self}
	// is 127.0.0.1, {gone} does not exist, {void} has no address, {six} has an address of IPv6 only.
	zone string
	host *testnet.Host // its only mail host, in place of a zone
	row  *testnet.Row  // or one that says what it is told to
	// fault is one of the DNS, of all types at a name, "@" being its own.
	fault testnet.DNSFault
	at    string
	// differs says of an MTA why we say another thing than it does.
	differs map[string]string
}

const (
	onPostfix  = "postfix"
	onSendmail = "sendmail"
)

func onBoth(why string) map[string]string {
	return map[string]string{onPostfix: why, onSendmail: why}
}

// mxs writes MX records, ten apart.
func mxs(hosts ...string) string {
	var b strings.Builder
	for i, h := range hosts {
		fmt.Fprintf(&b, "@ MX %d %s\n", 10*(i+1), h)
	}
	return b.String()
}

// alike are n hosts of a kind.
func alike(n int) (names []string) {
	for i := range n {
		names = append(names, fmt.Sprintf("{plain%d}", i+1))
	}
	return names
}

func agreeCases() []agreeCase {
	const notLooked = "we probe 20 mail hosts at most, and say that the rest isn't known"
	list := []agreeCase{
		// Good and bad hosts.
		{name: "good", zone: mxs("{good}")},
		{name: "no TLS", zone: mxs("{plain}")},
		{name: "no TLS, good", zone: mxs("{plain}", "{good}")},
		{name: "good, no TLS", zone: mxs("{good}", "{plain}")},
		{name: "dead", zone: mxs("{dead}")},
		{name: "dead, good", zone: mxs("{dead}", "{good}")},
		{name: "dead, no TLS", zone: mxs("{dead}", "{plain}")},
		{name: "no TLS, dead", zone: mxs("{plain}", "{dead}")},
		{name: "two alike, one good", zone: "@ MX 10 {plain}\n@ MX 10 {good}\n"},
		{name: "the same host twice", zone: "@ MX 10 {plain}\n@ MX 20 {plain}\n@ MX 30 {good}\n"},
		{name: "preference 0 and 65535", zone: "@ MX 0 {plain}\n@ MX 65535 {good}\n"},
		{name: "other order in the answer", zone: "@ MX 20 {good}\n@ MX 10 {plain}\n"},

		// Limits.
		{name: "four dead, good", zone: mxs("{dead}", "{dead2}", "{dead3}", "{dead4}", "{good}")},
		{name: "five dead, good", zone: mxs("{dead}", "{dead2}", "{dead3}", "{dead4}", "{dead5}", "{good}")},
		{name: "five without TLS, good", zone: mxs(append(alike(5), "{good}")...)},
		{name: "twelve without TLS, good", zone: mxs(append(alike(12), "{good}")...)},
		{name: "twenty names without TLS, good", zone: manyNames(20) + "@ MX 990 {good}\n", differs: onBoth(notLooked)},
		{name: "six addresses, the last good", zone: "@ MX 10 m.@\n" + addresses("m.@", "{plain1}", "{plain2}", "{plain3}", "{plain4}", "{plain5}", "{good}")},
		{name: "six addresses, the first good", zone: "@ MX 10 m.@\n" + addresses("m.@", "{good}", "{plain1}", "{plain2}", "{plain3}", "{plain4}", "{plain5}")},
		{name: "two addresses, dead and good", zone: "@ MX 10 m.@\n" + addresses("m.@", "{dead}", "{good}")},
		{name: "two addresses, dead and no TLS", zone: "@ MX 10 m.@\n" + addresses("m.@", "{dead}", "{plain}")},
		{name: "two addresses, no TLS and good, then good", zone: "@ MX 10 m.@\n@ MX 20 {good}\n" + addresses("m.@", "{plain}", "{good2}")},
		{name: "ten addresses without TLS", zone: "@ MX 10 m.@\n" + addresses("m.@", alike(10)...)},

		// Addresses for names.
		{name: "an address", zone: mxs("{good.ip}")},
		{name: "an address without TLS", zone: mxs("{plain.ip}")},
		{name: "no TLS, an address", zone: mxs("{plain}", "{good.ip}")},
		{name: "an address, good", zone: mxs("{plain.ip}", "{good}")},
		{name: "an address nobody has", zone: mxs("256.1.1.1.")},
		{name: "an address nobody has, good", zone: mxs("256.1.1.1.", "{good}")},
		{name: "digits", zone: mxs("123.")},
		{name: "three numbers", zone: mxs("1.2.3.")},
		{name: "the MTA's own address in digits", zone: mxs("127.0.0.1.")},
		{name: "no TLS, the MTA's own address in digits", zone: mxs("{plain}", "127.0.0.1.")},
		{name: "good, the MTA's own address in digits", zone: mxs("{good}", "127.0.0.1.")},
		{name: "0.0.0.0 in digits, good", zone: mxs("0.0.0.0.", "{good}")},

		// The MTA itself.
		{name: "itself", zone: mxs("{self}")},
		{name: "itself, good", zone: mxs("{self}", "{good}")},
		{name: "good, itself", zone: mxs("{good}", "{self}")},
		{name: "no TLS, itself", zone: mxs("{plain}", "{self}")},
		{name: "no TLS, itself, good", zone: mxs("{plain}", "{self}", "{good}")},
		{name: "itself and good alike", zone: "@ MX 10 {self}\n@ MX 10 {good}\n"},
		{name: "good, itself and no TLS alike", zone: "@ MX 10 {good}\n@ MX 20 {self}\n@ MX 20 {plain}\n"},
		{name: "dead, itself", zone: mxs("{dead}", "{self}")},
		{name: "no address, itself", zone: mxs("{void}", "{self}")},
		{name: "no address, itself, good", zone: mxs("{void}", "{self}", "{good}")},
		{name: "an address of its proxy", zone: mxs("{own}")},
		{name: "no TLS, an address of its proxy", zone: mxs("{plain}", "{own}")},
		{name: "an address of its proxy, good", zone: mxs("{own}", "{good}")},
		{name: "its own name", zone: mxs("mta.test.")},
		{name: "no TLS, its own name", zone: mxs("{plain}", "mta.test.")},
		{name: "localhost", zone: mxs("localhost.")},
		{name: "localhost, good", zone: mxs("localhost.", "{good}")},
		{name: "good, localhost", zone: mxs("{good}", "localhost.")},
		{name: "no TLS, localhost", zone: mxs("{plain}", "localhost.")},
		{name: "two addresses, one its own", zone: "@ MX 10 m.@\n" + addresses("m.@", "{self}", "{good}"),
			differs: map[string]string{onSendmail: "it goes to itself or to the other, by the order of the addresses"}},
		{name: "no MX, its own address", zone: "@ A {self.ip}\n"},
		{name: "an alias of itself", zone: "@ MX 10 m.@\nm.@ CNAME {self}\n"},
		{name: "greets with the MTA's name", zone: mxs("{greeter}")},
		{name: "greets with the MTA's name, good", zone: mxs("{greeter}", "{good}")},
		{name: "no TLS, greets with the MTA's name", zone: mxs("{plain}", "{greeter}")},
		{name: "no TLS, greets with the MTA's name, good", zone: mxs("{plain}", "{greeter}", "{good}")},

		// Null MX.
		{name: "null MX", zone: "@ MX 0 .\n"},
		{name: "null MX, good", zone: "@ MX 0 .\n@ MX 10 {good}\n"},
		{name: "good, null MX", zone: "@ MX 10 {good}\n@ MX 20 .\n"},
		{name: "null MX, no TLS", zone: "@ MX 0 .\n@ MX 10 {plain}\n"},
		{name: "null MX with a preference", zone: "@ MX 10 .\n"},
		{name: "null MX, and an address", zone: "@ MX 0 .\n@ A {good.ip}\n"},

		// Malformed names.
		{name: "a hyphen at the end", zone: "@ MX 10 mx-.@\n" + addresses("mx-.@", "{good}")},
		{name: "a hyphen at the beginning", zone: "@ MX 10 -mx.@\n" + addresses("-mx.@", "{good}")},
		{name: "a hyphen at the end, good", zone: "@ MX 10 mx-.@\n@ MX 20 {good}\n" + addresses("mx-.@", "{plain}")},
		{name: "a hyphen at the end, no TLS", zone: "@ MX 10 mx-.@\n@ MX 20 {plain}\n" + addresses("mx-.@", "{plain1}")},
		{name: "good, a hyphen at the end", zone: "@ MX 10 {good}\n@ MX 20 mx-.@\n"},
		{name: "an underscore", zone: "@ MX 10 m_x.@\n" + addresses("m_x.@", "{good}")},
		{name: "an A-label of nothing", zone: "@ MX 10 xn--a.@\n" + addresses("xn--a.@", "{good}")},
		{name: "two hyphens", zone: "@ MX 10 r3---m.@\n" + addresses("r3---m.@", "{good}")},
		{name: "a blank in the name, good", zone: "@ MX 10 m\\032x.@\n@ MX 20 {good}\n"},
		{name: "a host of one label", zone: mxs("onelabel.")},

		// Aliases.
		{name: "an alias", zone: "@ MX 10 m.@\nm.@ CNAME {good}\n"},
		{name: "an alias of no TLS", zone: "@ MX 10 m.@\nm.@ CNAME {plain}\n"},
		{name: "a chain of aliases", zone: "@ MX 10 m.@\nm.@ CNAME n.@\nn.@ CNAME o.@\no.@ CNAME {good}\n"},
		{name: "an alias of nothing", zone: "@ MX 10 m.@\nm.@ CNAME {gone}\n"},
		{name: "an alias of nothing, good", zone: "@ MX 10 m.@\n@ MX 20 {good}\nm.@ CNAME {gone}\n"},
		{name: "a loop of aliases", zone: "@ MX 10 m.@\nm.@ CNAME n.@\nn.@ CNAME m.@\n",
			differs: onBoth("to us a loop is a failure of the DNS, which may be over soon")},
		{name: "a loop of aliases, good", zone: "@ MX 10 m.@\n@ MX 20 {good}\nm.@ CNAME n.@\nn.@ CNAME m.@\n"},
		{name: "the domain an alias of a good one", zone: "@ CNAME good.example.\n"},
		{name: "the domain an alias of one without TLS", zone: "@ CNAME none.example.\n"},
		{name: "the domain an alias of a good host", zone: "@ CNAME {good}\n"},
		{name: "the domain an alias of nothing", zone: "@ CNAME {gone}\n"},

		// Hosts without addresses.
		{name: "a host that doesn't exist", zone: mxs("{gone}")},
		{name: "a host without address", zone: mxs("{void}")},
		{name: "a dot is missing", zone: "@ MX 10 mx1.@@\n"},
		{name: "a host that doesn't exist, good", zone: mxs("{gone}", "{good}")},
		{name: "a host that doesn't exist, no TLS", zone: mxs("{gone}", "{plain}")},
		{name: "good, a host that doesn't exist", zone: mxs("{good}", "{gone}")},
		{name: "two hosts without address", zone: mxs("{void}", "{gone}")},
		{name: "IPv6 alone", zone: mxs("{six}")},
		{name: "IPv6 alone, good", zone: mxs("{six}", "{good}")},
		{name: "IPv6 alone, no TLS", zone: mxs("{six}", "{plain}")},

		// No MX.
		{name: "no MX, good", zone: "@ A {good.ip}\n"},
		{name: "no MX, no TLS", zone: "@ A {plain.ip}\n"},
		{name: "no MX, dead", zone: "@ A {dead.ip}\n"},
		{name: "no MX, no TLS and good", zone: "@ A {plain.ip}\n@ A {good.ip}\n"},
		{name: "no MX, no address", zone: "@ TXT \"v=spf1 -all\"\n"},
		{name: "no MX, IPv6 alone", zone: "@ AAAA ::1\n"},
		{name: "no such domain", zone: ""},

		// The DNS.
		{name: "MX SERVFAIL", zone: mxs("{good}"), fault: testnet.DNSServFail, at: "@"},
		{name: "host SERVFAIL", zone: "@ MX 10 m.@\n" + addresses("m.@", "{good}"), fault: testnet.DNSServFail, at: "m.@"},
		{name: "host SERVFAIL, good", zone: "@ MX 10 m.@\n@ MX 20 {good}\n" + addresses("m.@", "{good2}"), fault: testnet.DNSServFail, at: "m.@"},
		{name: "host SERVFAIL, no TLS", zone: "@ MX 10 m.@\n@ MX 20 {plain}\n" + addresses("m.@", "{good2}"), fault: testnet.DNSServFail, at: "m.@"},
		{name: "host SERVFAIL, itself", zone: "@ MX 10 m.@\n@ MX 20 {self}\n" + addresses("m.@", "{good2}"), fault: testnet.DNSServFail, at: "m.@"},

		// TLS.
		{name: "self-signed", host: &testnet.Host{Cert: testnet.CertSpec{SelfSigned: true}}},
		{name: "certificate for another", host: &testnet.Host{Cert: testnet.CertSpec{Names: []string{"other.test"}}}},
		{name: "expired", host: &testnet.Host{Cert: testnet.Expired("old.test")}},
		{name: "TLS 1.3 alone", host: &testnet.Host{Min: tls.VersionTLS13}},
		{name: "TLS 1.2 alone", host: &testnet.Host{Max: tls.VersionTLS12}},
		{name: "TLS 1.1 alone", host: &testnet.Host{Min: tls.VersionTLS11, Max: tls.VersionTLS11}},
		{name: "TLS 1.0 alone", host: &testnet.Host{Min: tls.VersionTLS10, Max: tls.VersionTLS10}},
	}
	for _, f := range testnet.Faults() {
		switch f {
		case testnet.BannerEndless, testnet.EHLOEndless, testnet.EndlessSTARTTLS, testnet.HelloRequests, testnet.EndlessQuit:
			continue // MTAs read on for as long as the host likes
		}
		c := agreeCase{name: "fault " + string(f), host: &testnet.Host{Fault: f}}
		if f == testnet.NoSTARTTLS {
			c.host.NoTLS = true
		}
		list = append(list, c)
	}
	for _, r := range append(testnet.Dialects(), testnet.Stacks()...) {
		c := agreeCase{name: r.Name, row: &r}
		if r.Untold {
			c.differs = onBoth("our TLS doesn't speak with it far enough to tell, and says so")
		}
		list = append(list, c)
	}
	list = append(list, greeters()...)
	const noService = "it bounces what greets so; to us that is a host that was not reached, and may be one soon"
	for name, differs := range map[string]map[string]string{
		"code 050 in the banner": {onPostfix: noService}, "banner 100": onBoth(noService), "banner 320": onBoth(noService), "banner 620": onBoth(noService),
		"EHLO over TLS 502 and HELO too": onBoth(noService), "fault banner-554": {onSendmail: noService},
	} {
		i := slices.IndexFunc(list, func(c agreeCase) bool { return c.name == name })
		list[i].differs = differs
	}
	return list
}

// greeters are hosts that have the MTA's name in one of their replies.
func greeters() (list []agreeCase) {
	for where, script := range map[string]testnet.Script{
		"the banner":                {Banner: "220 mta.test ESMTP\r\n"},
		"the reply to EHLO":         {EHLO: "250-mta.test at your service\r\n250 STARTTLS\r\n"},
		"that to EHLO, in capitals": {EHLO: "250-MTA.TEST\r\n250 STARTTLS\r\n"},
		"that to EHLO, with a dot":  {EHLO: "250-mta.test.\r\n250 STARTTLS\r\n"},
		"that to EHLO over TLS":     {Secure: "250 mta.test\r\n"},
		"that before TLS, not then": {EHLO: "250-mta.test\r\n250 STARTTLS\r\n", Secure: "250 other.test\r\n"},
		"a later line":              {EHLO: "250-other.test\r\n250-mta.test\r\n250 STARTTLS\r\n"},
	} {
		list = append(list, agreeCase{name: "the MTA's name in " + where, row: &testnet.Row{Name: where, Script: func(h testnet.RowHost) (testnet.Script, error) {
			cert, err := h.CA.Issue(testnet.CertSpec{Names: []string{h.Name}})
			script.Handshake = testnet.GoTLS(testnet.ServerTLS(cert, 0, 0))
			return script, err
		}}})
	}
	slices.SortFunc(list, func(a, b agreeCase) int { return strings.Compare(a.name, b.name) })
	return list
}

// manyNames are n mail hosts without TLS, each with a name of its own.
func manyNames(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "@ MX %d m%d.@\nm%d.@ A {plain%d.ip}\n", 10*(i+1), i, i, i%12+1)
	}
	return b.String()
}

func addresses(name string, hosts ...string) string {
	var b strings.Builder
	for _, h := range hosts {
		fmt.Fprintf(&b, "%s A %s\n", name, strings.TrimSuffix(h, "}")+".ip}")
	}
	return b.String()
}

// anyType is every type that a fault of a case is for.
var anyType = []uint16{dns.TypeMX, dns.TypeA, dns.TypeAAAA}
