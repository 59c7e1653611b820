package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"

	"github.com/miekg/dns"

	"tlsonly/internal/policy"
	"tlsonly/internal/testnet"
)

// What is wanted by RFC 7672, 7671 and 8461: the highest level at which mail may go; may is none of those that enforce.
const (
	wantNone    = policy.LevelMay
	wantEncrypt = policy.LevelEncrypt
	wantSecure  = policy.LevelSecure
	wantDane    = policy.LevelDane
)

const (
	onePolicy  = "Postfix has one policy for all hosts of a destination, and dane-only would leave out the host without records"
	insecureMX = "dane-only wants signed MX records, too; held to it mail would wait for ever"
)

func matrixCases() []matrixCase {
	both := func(why string) differs { return differs{policy.LevelEncrypt: why, policy.LevelSecure: why} }
	atEncrypt := func(why string) differs { return differs{policy.LevelEncrypt: why} }
	const (
		certNames   = "Postfix looks whether the certificate bears one of the names, not whether the host does"
		commonNames = "Postfix takes common names where a certificate has no others"
	)
	one := func(h mailHost) []mailHost { return []mailHost{h} }
	records := func(r ...string) mailHost { return mailHost{tlsa: r} }
	below := func(by, show string, r ...string) mailHost { return mailHost{by: by, show: show, tlsa: r} }
	const ee, notEE = "3 1 1 leaf", "3 1 1 stranger"
	named := func(names string, r ...string) mailHost { return mailHost{names: names, show: "root", tlsa: r} }
	sts := func(patterns string) destinationOf { return destinationOf{sts: patterns} }
	onlySigns := func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }
	client := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }
	fault := func(name string, qtype uint16, f testnet.DNSFault) destinationOf {
		return destinationOf{fault: dnsFault{name, qtype, f}}
	}
	const tlsaName = "_25._tcp.mx1.@"

	list := []matrixCase{
		{name: "nothing published", hosts: one(mailHost{}), want: wantEncrypt},
		{name: "nothing published, NSEC3", hosts: one(mailHost{}), more: destinationOf{nsec3: true}, want: wantEncrypt},
		{name: "no STARTTLS", hosts: one(mailHost{noTLS: true}), want: wantNone},
		{name: "TLS 1.0 only", hosts: one(mailHost{only: tls.VersionTLS10}), want: wantNone},
		{name: "TLS 1.2 only", hosts: one(mailHost{only: tls.VersionTLS12}), want: wantEncrypt},
		{name: "null MX", more: destinationOf{records: "@ MX 0 ."}, want: wantNone},

		// RFC 7671, section 5.1: with DANE-EE(3) neither names nor validity matter.
		{name: "EE, expired", hosts: one(mailHost{leaf: expired, tlsa: []string{ee}}), want: wantDane},
		{name: "EE, not yet valid", hosts: one(mailHost{leaf: notYet, tlsa: []string{ee}}), want: wantDane},
		{name: "EE, self-signed", hosts: one(below("self", "", ee)), want: wantDane},
		{name: "EE, wrong name", hosts: one(named("other.test", ee)), want: wantDane},
		{name: "EE, no names", hosts: one(named("-", ee)), want: wantDane},
		{name: "EE, key for signing lists", hosts: one(mailHost{leaf: onlySigns, tlsa: []string{ee}}), want: wantDane},
		{name: "EE, a client's", hosts: one(mailHost{leaf: client, tlsa: []string{ee}}), want: wantDane},
		{name: "EE for another", hosts: one(records(notEE)), want: wantNone},
		{name: "EE for another, certificate for the destination", hosts: one(named("@", notEE)), want: wantNone},
		{name: "EE for an authority", hosts: one(below("low", "low mid root", "3 1 1 low")), want: wantNone},
		{name: "EE, one of two", hosts: one(records(notEE, ee)), want: wantDane},
		{name: "EE, TLS 1.0 only", hosts: one(mailHost{only: tls.VersionTLS10, tlsa: []string{ee}}), want: wantNone},
		{name: "EE, TLS 1.2 only", hosts: one(mailHost{only: tls.VersionTLS12, tlsa: []string{ee}}), want: wantDane},
		{name: "EE, no STARTTLS", hosts: one(mailHost{noTLS: true, tlsa: []string{notEE}}), want: wantNone},

		{name: "TA, root not shown", hosts: one(below("low", "low mid", "2 1 1 root")), want: wantNone},
		{name: "TA, root in the record, not shown", hosts: one(below("low", "low mid", "2 0 0 root")), want: wantDane},
		{name: "TA, root's key in the record, not shown", hosts: one(below("low", "low mid", "2 1 0 root")), want: wantDane},
		{name: "TA, intermediate's key in the record, not shown", hosts: one(below("low", "-", "2 1 0 low")), want: wantDane},
		{name: "TA, intermediate, root not shown", hosts: one(below("low", "low mid", "2 1 1 mid")), want: wantDane},
		{name: "TA, nearest intermediate alone", hosts: one(below("low", "low", "2 0 1 low")), want: wantDane},
		{name: "TA, intermediate missing", hosts: one(below("low", "mid root", "2 1 1 root")), want: wantNone},
		{name: "TA not trusted by anybody else", hosts: one(below("foreign", "foreign stranger", "2 1 1 stranger")), want: wantDane},
		{name: "TA for another", hosts: one(below("low", "low mid root", "2 1 1 stranger")), want: wantNone},
		{name: "TA, expired", hosts: one(mailHost{leaf: expired, show: "root", tlsa: []string{"2 1 1 root"}}), want: wantNone},
		{name: "TA, not yet valid", hosts: one(mailHost{leaf: notYet, show: "root", tlsa: []string{"2 1 1 root"}}), want: wantNone},
		{name: "TA, a client's", hosts: one(mailHost{leaf: client, show: "root", tlsa: []string{"2 1 1 root"}}), want: wantNone},
		{name: "TA, expired intermediate", hosts: one(below("old", "old root", "2 1 1 root")), want: wantNone},
		{name: "TA is an expired intermediate", hosts: one(below("old", "old root", "2 1 1 old")), want: wantDane},
		{name: "TA is an expired root", hosts: one(below("oldroot", "oldroot", "2 1 1 oldroot")), want: wantNone},
		{name: "TA, path too long", hosts: one(below("below", "below short root", "2 1 1 root")), want: wantNone},
		{name: "TA, intermediate no authority", hosts: one(below("noca", "noca root", "2 1 1 root")), want: wantNone},
		{name: "TA, intermediate not for signing", hosts: one(below("nosign", "nosign root", "2 1 1 root")), want: wantNone},
		{name: "TA, intermediate for clients", hosts: one(below("clients", "clients root", "2 1 1 root")), want: wantNone},
		{name: "TA, intermediate for other names", hosts: one(below("elsewhere", "elsewhere root", "2 1 1 root")), want: wantNone},
		{name: "TA, chain in disorder", hosts: one(below("low", "root mid low", "2 1 1 root")), want: wantDane},
		{name: "TA is the leaf, self-signed", hosts: one(below("self", "", "2 1 1 leaf")), want: wantNone},
		{name: "TA is the leaf", hosts: one(below("", "root", "2 1 1 leaf")), want: wantNone},
		{name: "TA is the whole leaf", hosts: one(below("", "root", "2 0 0 leaf")), want: wantNone},
		{name: "TA is the leaf's key", hosts: one(below("", "root", "2 1 0 leaf")), want: wantNone},
		{name: "TA is the leaf's key, self-signed", hosts: one(below("self", "", "2 1 0 leaf")), want: wantDane},
		{name: "EE, strangers shown", hosts: one(below("", "stranger low", ee)), want: wantDane},
		{name: "TA, a stranger besides", hosts: one(below("", "foreign root", "2 1 1 root")), want: wantDane},
		{name: "TA, name of the destination", hosts: one(named("@", "2 1 1 root")), want: wantDane},
		{name: "TA, another name", hosts: one(named("other.test", "2 1 1 root")), want: wantNone},
		{name: "TA, wildcard", hosts: one(named("*.@", "2 1 1 root")), want: wantDane},
		{name: "TA, wildcard for one label of two", hosts: one(mailHost{in: "hosts", names: "*.hosts.example", show: "root", tlsa: []string{"2 1 1 root"}}), want: wantNone},
		{name: "TA, wildcard for a top-level domain", hosts: one(named("*.example", "2 1 1 root")), want: wantNone},
		{name: "TA, partial wildcard", hosts: one(named("mx*.@", "2 1 1 root")), want: wantNone},
		{name: "TA, name only as common name", hosts: one(named("-", "2 1 1 root")), want: wantDane}, // RFC 7672, section 3.2.3

		// RFC 7671, section 9, and records that can't be used.
		{name: "stale SHA-512 beside SHA-256", hosts: one(records(ee, "3 1 2 stranger")), want: wantNone},
		{name: "SHA-512 beside stale SHA-256", hosts: one(records(notEE, "3 1 2 leaf")), want: wantDane},
		{name: "stale SHA-512 of another selector", hosts: one(records(ee, "3 0 2 stranger")), want: wantDane},
		{name: "full data beside stale SHA-512", hosts: one(records("3 1 0 leaf", "3 1 2 stranger")), want: wantDane},
		{name: "stale EE, TA", hosts: one(below("", "root", notEE, "2 1 1 root")), want: wantDane},
		{name: "EE, stale TA", hosts: one(records(ee, "2 1 1 stranger")), want: wantDane},
		{name: "usage 0", hosts: one(below("", "root", "0 1 1 root")), want: wantEncrypt},
		{name: "usage 1", hosts: one(records("1 1 1 leaf")), want: wantEncrypt},
		{name: "usage 1 for another", hosts: one(records("1 1 1 stranger")), want: wantEncrypt},
		{name: "usage 1 for another, certificate for the destination", hosts: one(named("@", "1 1 1 stranger")), want: wantSecure},
		{name: "usage 1 for another, EE", hosts: one(records("1 1 1 stranger", ee)), want: wantDane},
		{name: "usage 1, EE for another", hosts: one(records("1 1 1 leaf", notEE)), want: wantNone},
		{name: "digest too short", hosts: one(records("3 1 1 =abcd")), want: wantEncrypt},
		{name: "digest too short, EE", hosts: one(records("3 1 1 =abcd", ee)), want: wantDane},
		{name: "no certificate in a record", hosts: one(records("2 0 0 =3003020100")), want: wantEncrypt},
		{name: "no key in a record", hosts: one(records("3 1 0 =3003020100")), want: wantEncrypt},
		{name: "unknown matching type", hosts: one(records("3 1 9 =abcd")), want: wantEncrypt},
		{name: "unknown selector", hosts: one(records("3 9 1 leaf")), want: wantEncrypt},

		// What DNSSEC vouches for.
		{name: "host in another signed zone", hosts: one(mailHost{in: "hosts", tlsa: []string{ee}}), want: wantDane},
		{name: "host in an unsigned zone", hosts: one(mailHost{in: "plain", tlsa: []string{ee}}), want: wantEncrypt},
		{name: "host in an unsigned zone, EE for another", hosts: one(mailHost{in: "plain", tlsa: []string{notEE}}), want: wantEncrypt},
		{name: "MX not signed", hosts: one(mailHost{in: "hosts", tlsa: []string{ee}}), more: destinationOf{unsigned: true}, want: wantEncrypt},
		{name: "MX not signed, EE for another", hosts: one(mailHost{in: "hosts", tlsa: []string{notEE}}), more: destinationOf{unsigned: true}, want: wantNone, differs: atEncrypt(insecureMX)},
		{name: "MX not signed, certificate for the destination", hosts: one(mailHost{in: "hosts", names: "@", tlsa: []string{ee}}), more: destinationOf{unsigned: true}, want: wantSecure},
		{name: "TLSA SERVFAIL", hosts: one(records(ee)), more: fault(tlsaName, dns.TypeTLSA, testnet.DNSServFail), want: wantNone},
		{name: "TLSA expired", hosts: one(records(ee)), more: fault(tlsaName, dns.TypeTLSA, testnet.DNSExpired), want: wantNone},
		{name: "TLSA signed by another key", hosts: one(records(ee)), more: fault(tlsaName, dns.TypeTLSA, testnet.DNSWrongKey), want: wantNone},
		{name: "TLSA stripped of signatures", hosts: one(records(ee)), more: fault(tlsaName, dns.TypeTLSA, testnet.DNSStripped), want: wantNone},
		{name: "TLSA denied without proof", hosts: one(mailHost{}), more: fault(tlsaName, dns.TypeTLSA, testnet.DNSNoDenial), want: wantNone},
		{name: "TLSA bogus, certificate for the destination", hosts: one(named("@", ee)), more: fault(tlsaName, dns.TypeTLSA, testnet.DNSExpired), want: wantNone},
		{name: "MX bogus", hosts: one(records(ee)), more: fault("@", dns.TypeMX, testnet.DNSExpired), want: wantNone},
		{name: "address bogus", hosts: one(records(ee)), more: fault("mx1.@", dns.TypeA, testnet.DNSExpired), want: wantNone},
		{name: "records by a wildcard", hosts: one(mailHost{via: "*", tlsa: []string{ee}}), want: wantDane},
		{name: "records by a wildcard, for another", hosts: one(mailHost{via: "*", tlsa: []string{notEE}}), want: wantNone},
		{name: "MX by a wildcard", hosts: one(records(ee)), more: destinationOf{wild: true}, want: wantDane},
		{name: "MX by a wildcard, NSEC3", hosts: one(records(ee)), more: destinationOf{wild: true, nsec3: true}, want: wantDane},
		{name: "MX by a wildcard, certificate for the destination", hosts: one(named("@")), more: destinationOf{wild: true}, want: wantSecure},
		{name: "records by an alias", hosts: one(mailHost{via: "hosts", tlsa: []string{ee}}), want: wantDane},
		{name: "records by an alias, for another", hosts: one(mailHost{via: "here", tlsa: []string{notEE}}), want: wantNone},
		{name: "records by an alias into an unsigned zone", hosts: one(mailHost{via: "plain", tlsa: []string{ee}}), want: wantEncrypt},
		{name: "host an alias, records at its end", hosts: one(mailHost{alias: "here", end: []string{ee}}), want: wantDane},
		{name: "host an alias, records at its beginning", hosts: one(mailHost{alias: "here", tlsa: []string{ee}}), want: wantDane},
		{name: "host an alias into another zone", hosts: one(mailHost{alias: "hosts", end: []string{ee}}), want: wantDane},
		{name: "host an alias, records for another at its end", hosts: one(mailHost{alias: "here", tlsa: []string{ee}, end: []string{notEE}}), want: wantNone},
		{name: "host an alias, TA, name of its beginning", hosts: one(mailHost{alias: "here", show: "root", tlsa: []string{"2 1 1 root"}}), want: wantDane},
		{name: "host an alias into an unsigned zone", hosts: one(mailHost{alias: "plain", tlsa: []string{ee}, end: []string{notEE}}), want: wantDane},
		{name: "host an alias into an unsigned zone, records for another", hosts: one(mailHost{alias: "plain", tlsa: []string{notEE}, end: []string{ee}}), want: wantNone},
		{name: "host an alias into an unsigned zone, records at its end", hosts: one(mailHost{alias: "plain", end: []string{ee}}), want: wantEncrypt},
		{name: "host an unsigned alias, records at its end", hosts: one(mailHost{in: "plain", alias: "hosts", end: []string{ee}}), want: wantEncrypt},
		{name: "host an alias into an unsigned zone, TLSA SERVFAIL", hosts: one(mailHost{alias: "plain", tlsa: []string{ee}}), more: fault(tlsaName, dns.TypeTLSA, testnet.DNSServFail), want: wantNone},
		{name: "host an alias into an unsigned zone, alias bogus", hosts: one(mailHost{alias: "plain", tlsa: []string{ee}}), more: fault("mx1.@", dns.TypeCNAME, testnet.DNSExpired), want: wantNone},
		{name: "destination an alias", hosts: one(records(ee)), more: destinationOf{at: "alias"}, want: wantDane},
		{name: "destination an alias, TA, its name", hosts: one(named("@", "2 1 1 root")), more: destinationOf{at: "alias"}, want: wantDane},
		{name: "destination an alias, TA, name at its end", hosts: one(named("aliased.example", "2 1 1 root")), more: destinationOf{at: "alias", label: "aliased"}, want: wantDane},
		{name: "no MX", hosts: one(mailHost{in: "-", names: "other.test"}), want: wantEncrypt},
		{name: "no MX, certificate for the destination", hosts: one(mailHost{in: "-"}), want: wantSecure},
		{name: "no MX, EE", hosts: one(mailHost{in: "-", tlsa: []string{ee}}), want: wantDane},
		{name: "no MX, EE for another", hosts: one(mailHost{in: "-", tlsa: []string{notEE}}), want: wantNone},
		{name: "no MX, TA", hosts: one(mailHost{in: "-", show: "root", tlsa: []string{"2 1 1 root"}}), want: wantDane},
		{name: "no MX, denied without proof", hosts: one(mailHost{in: "-", tlsa: []string{ee}}), more: fault("@", dns.TypeMX, testnet.DNSNoDenial), want: wantNone},
		{name: "[host], certificate for another", hosts: one(named("other.test")), more: destinationOf{direct: true}, want: wantEncrypt},
		{name: "[host], certificate for it", hosts: one(mailHost{}), more: destinationOf{direct: true}, want: wantSecure},
		{name: "[host], EE", hosts: one(records(ee)), more: destinationOf{direct: true}, want: wantDane},
		{name: "[host], EE for another", hosts: one(records(notEE)), more: destinationOf{direct: true}, want: wantNone},
		{name: "[host], TA, name of the domain", hosts: one(named("@", "2 1 1 root")), more: destinationOf{direct: true}, want: wantNone},
		{name: "[host] an alias, records at its end", hosts: one(mailHost{alias: "hosts", end: []string{ee}}), more: destinationOf{direct: true}, want: wantDane},

		// Several hosts.
		{name: "EE for another, then EE", hosts: []mailHost{records(notEE), records(ee)}, want: wantDane},
		{name: "no records, then EE", hosts: []mailHost{{}, records(ee)}, want: wantDane},
		{name: "EE, then no records", hosts: []mailHost{records(ee), {}}, want: wantDane},
		{name: "EE for another, then no records", hosts: []mailHost{records(notEE), {}}, want: wantEncrypt, differs: atEncrypt(onePolicy)},
		{name: "no STARTTLS, then EE", hosts: []mailHost{{noTLS: true, tlsa: []string{notEE}}, records(ee)}, want: wantDane},
		{name: "no STARTTLS, then good", hosts: []mailHost{{noTLS: true}, {}}, want: wantEncrypt},
		{name: "TLSA SERVFAIL, then EE", hosts: []mailHost{records(ee), records(ee)}, more: fault(tlsaName, dns.TypeTLSA, testnet.DNSServFail), want: wantDane},
		{name: "TLSA SERVFAIL, then no records", hosts: []mailHost{records(ee), {}}, more: fault(tlsaName, dns.TypeTLSA, testnet.DNSServFail), want: wantEncrypt, differs: atEncrypt(onePolicy)},
		{name: "certificate for another, then for the destination", hosts: []mailHost{{}, named("@")}, want: wantSecure},

		// Certificates for the destination, where nothing is published.
		{name: "certificate for the destination", hosts: one(named("@")), want: wantSecure},
		{name: "certificate for the destination and others", hosts: one(mailHost{by: "low", names: "other.test @"}), want: wantSecure},
		{name: "certificate for all below the destination", hosts: one(named("*.@")), want: wantEncrypt},
		{name: "certificate for the destination, as common name", hosts: one(mailHost{names: "other.test", leaf: func(c *x509.Certificate) { c.DNSNames, c.Subject.CommonName = nil, "common.example" }}),
			more: destinationOf{label: "common"}, want: wantEncrypt, differs: differs{policy.LevelSecure: commonNames}},
		{name: "certificate for a name of the rule", hosts: one(named("alt.test")), more: destinationOf{match: "alt.test"}, want: wantSecure},
		{name: "certificate for the destination, expired", hosts: one(mailHost{names: "@", leaf: expired}), want: wantEncrypt},
		{name: "certificate for the destination, self-signed", hosts: one(mailHost{names: "@", by: "self"}), want: wantEncrypt},
		{name: "certificate for the destination, untrusted root", hosts: one(mailHost{names: "@", by: "foreign", show: "foreign stranger"}), want: wantEncrypt},
		{name: "certificate for the destination, intermediate missing", hosts: one(mailHost{names: "@", by: "low", show: "-"}), want: wantEncrypt},
		{name: "certificate for the destination, path too long", hosts: one(mailHost{names: "@", by: "below"}), want: wantEncrypt},
		{name: "IDN, certificate for the destination", hosts: one(named("@")), more: destinationOf{label: "xn--bcher-kva"}, want: wantSecure},
		{name: "IDN, EE", hosts: one(records(ee)), more: destinationOf{label: "xn--mller-kva"}, want: wantDane},

		// MTA-STS.
		{name: "STS", hosts: one(mailHost{}), more: sts("mx1.@"), want: wantSecure},
		{name: "STS, wildcard", hosts: one(mailHost{}), more: sts("*.@"), want: wantSecure},
		{name: "STS, wildcard in the certificate", hosts: one(named("*.@")), more: sts("mx1.@"), want: wantSecure},
		{name: "STS, IDN", hosts: one(mailHost{}), more: destinationOf{label: "xn--strae-oqa", sts: "*.@"}, want: wantSecure},
		{name: "STS, testing", hosts: one(named("other.test")), more: destinationOf{sts: "mx1.@", testing: true}, want: wantEncrypt},
		{name: "STS, policy not to be had", hosts: one(mailHost{}), more: destinationOf{sts: "mx1.@", noPolicy: true}, want: wantEncrypt},
		{name: "STS, expired", hosts: one(mailHost{leaf: expired}), more: sts("mx1.@"), want: wantNone},
		{name: "STS, untrusted root", hosts: one(below("stranger", "stranger")), more: sts("mx1.@"), want: wantNone},
		{name: "STS, intermediate missing", hosts: one(below("low", "-")), more: sts("mx1.@"), want: wantNone},
		{name: "STS, certificate for another", hosts: one(named("other.test")), more: sts("mx1.@"), want: wantNone},
		{name: "STS, certificate for the destination", hosts: one(named("@")), more: sts("mx1.@"), want: wantNone},
		{name: "STS names another host", hosts: one(mailHost{}), more: sts("mx9.@"), want: wantNone},
		{name: "STS, wildcard for one label of two", hosts: one(mailHost{in: "hosts"}), more: sts("*.hosts.example"), want: wantNone, differs: both("to Postfix a name that begins with a dot stands for any number of labels")},
		{name: "STS, name only as common name", hosts: one(named("-")), more: sts("mx1.@"), want: wantNone, differs: both(commonNames)},
		{name: "STS, certificate of another host of the policy", hosts: one(named("mx2.@")), more: sts("mx1.@ mx2.@"), want: wantNone, differs: both(certNames)},
		{name: "STS, certificate for who names the host", hosts: one(mailHost{named: true}), more: sts("mx1.@"), want: wantSecure},
		{name: "STS, the second for who names it", hosts: []mailHost{{noTLS: true}, {named: true}}, more: sts("mx2.@ mx1.@"), want: wantSecure},
		{name: "EE for who names the host", hosts: one(mailHost{named: true, tlsa: []string{ee}}), want: wantDane},
		{name: "TA for who names the host", hosts: one(mailHost{named: true, show: "root", tlsa: []string{"2 1 1 root"}}), want: wantDane},
		{name: "certificate for the destination, for who names the host", hosts: one(mailHost{named: true, names: "@"}), want: wantSecure},
		{name: "STS, the second of two hosts", hosts: []mailHost{{}, {}}, more: sts("mx2.@"), want: wantSecure},
		{name: "STS, EE for another", hosts: one(records(notEE)), more: sts("mx1.@"), want: wantNone},
		{name: "STS names another host, EE", hosts: one(records(ee)), more: sts("mx9.@"), want: wantDane},
	}
	for selector := range 2 {
		for matching := range 3 {
			kind := fmt.Sprintf("%d %d ", selector, matching)
			list = append(list,
				matrixCase{name: "3 " + kind, hosts: one(records("3 " + kind + "leaf")), want: wantDane},
				matrixCase{name: "3 " + kind + "for another", hosts: one(records("3 " + kind + "stranger")), want: wantNone},
				matrixCase{name: "2 " + kind, hosts: one(below("low", "low mid root", "2 "+kind+"root")), want: wantDane},
				matrixCase{name: "2 " + kind + "for another", hosts: one(below("low", "low mid root", "2 "+kind+"stranger")), want: wantNone},
			)
		}
	}
	return list
}
