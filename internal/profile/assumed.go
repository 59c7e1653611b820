package profile

import (
	"slices"

	"tlsonly/internal/policy"
)

// For is what is assumed of an MTA of which only the dialect is known: the one of
// Debian 12, as seen in its hello, with nothing changed in its configuration.
func For(d Dialect) MTA {
	switch d {
	case Postfix:
		return MTA{Dialect: d, TLS: postfixTLS()}
	case Sendmail:
		return MTA{Dialect: d, TLS: sendmailTLS()}
	}
	return MTA{}
}

// Assumed is the MTA with what isn't known of its TLS taken from For.
func (m MTA) Assumed() MTA {
	usual := For(m.Dialect).TLS
	if m.TLS.Naming == "" {
		m.TLS.Naming = usual.Naming
	}
	if m.TLS.Versions == nil {
		m.TLS.Versions = usual.Versions
	}
	if m.TLS.Suites == nil {
		m.TLS.Suites = usual.Suites
	}
	if m.TLS.Groups == nil {
		m.TLS.Groups = usual.Groups
		if m.Dialect == Postfix && m.since(3, 8) {
			// tls_ffdhe_auto_groups, ffdhe2048 and ffdhe3072.
			m.TLS.Groups = append(slices.Clone(usual.Groups), 256, 257)
		}
	}
	if m.TLS.Signatures == nil {
		m.TLS.Signatures = usual.Signatures
	}
	if m.TLS.MinDH == 0 {
		m.TLS.MinDH = usual.MinDH
	}
	return m
}

// postfixTLS is Postfix 3.7 with OpenSSL 3.0, whose security level it sets to 0, with
// smtp_tls_mandatory_ciphers = medium: anonymous suites, primes from 1024 bits, TLS 1.0
// and signatures with SHA-1 are taken, RC4 and 3DES are not in the library.
func postfixTLS() TLS {
	return TLS{
		Versions: []policy.Version{policy.TLS10, policy.TLS11, policy.TLS12, policy.TLS13},
		Suites: []uint16{
			0x1302, 0x1303, 0x1301, 0x00a7, 0x006d, 0x00c5, 0xc019, 0x003a, 0x0089, 0xc02c, 0xc030, 0x00a3, 0x009f,
			0xcca9, 0xcca8, 0xccaa, 0xc0af, 0xc0ad, 0xc0a3, 0xc09f, 0xc05d, 0xc061, 0xc057, 0xc053, 0xc024, 0xc028,
			0x006b, 0x006a, 0xc073, 0xc077, 0x00c4, 0x00c3, 0xc00a, 0xc014, 0x0039, 0x0038, 0x0088, 0x0087, 0x009d,
			0xc0a1, 0xc09d, 0xc051, 0x003d, 0x00c0, 0x0035, 0x0084, 0x00a6, 0x006c, 0x00bf, 0xc018, 0x0034, 0x0046,
			0xc02b, 0xc02f, 0x00a2, 0x009e, 0xc0ae, 0xc0ac, 0xc0a2, 0xc09e, 0xc05c, 0xc060, 0xc056, 0xc052, 0xc023,
			0xc027, 0x0067, 0x0040, 0xc072, 0xc076, 0x00be, 0x00bd, 0xc009, 0xc013, 0x0033, 0x0032, 0x0045, 0x0044,
			0x009c, 0xc0a0, 0xc09c, 0xc050, 0x003c, 0x00ba, 0x002f, 0x0041},
		Groups: []uint16{29, 23, 30, 25, 24},
		Signatures: []uint16{
			0x0403, 0x0503, 0x0603, 0x0807, 0x0808, 0x0809, 0x080a, 0x080b, 0x0804, 0x0805, 0x0806, 0x0401, 0x0501,
			0x0601, 0x0303, 0x0203, 0x0301, 0x0201, 0x0302, 0x0202, 0x0402, 0x0502, 0x0602},
		MinDH: 1024,
	}
}

// sendmailTLS is Sendmail 8.17 with OpenSSL 3.0 and what Debian's openssl.cnf has
// for all programs, security level 2: no signature with SHA-1, which leaves TLS 1.0
// and 1.1 to the key exchange by RSA, and no prime below 2048 bits. It never names
// the host.
func sendmailTLS() TLS {
	return TLS{
		Naming:   NamesNever,
		Versions: []policy.Version{policy.TLS10, policy.TLS11, policy.TLS12, policy.TLS13},
		Suites: []uint16{
			0x1302, 0x1303, 0x1301, 0xc02c, 0xc030, 0x009f, 0xcca9, 0xcca8, 0xccaa, 0xc02b, 0xc02f, 0x009e, 0xc024,
			0xc028, 0x006b, 0xc023, 0xc027, 0x0067, 0xc00a, 0xc014, 0x0039, 0xc009, 0xc013, 0x0033, 0x009d, 0x009c,
			0x003d, 0x003c, 0x0035, 0x002f},
		Groups: []uint16{29, 23, 30, 25, 24, 256, 257, 258, 259, 260},
		Signatures: []uint16{
			0x0403, 0x0503, 0x0603, 0x0807, 0x0808, 0x0809, 0x080a, 0x080b, 0x0804, 0x0805, 0x0806, 0x0401, 0x0501,
			0x0601, 0x0303, 0x0301, 0x0302, 0x0402, 0x0502, 0x0602},
		MinDH: 2048,
	}
}
