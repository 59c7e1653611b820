package starttls

import "strings"

// suite is a cipher suite as IANA registered it.
type suite struct {
	id       uint16
	name     string
	bits     int    // strength of the symmetric cipher; 3DES counts 112 (NIST SP 800-57)
	exchange string // when the suite itself tells: "RSA", "DHE", "DH"; "" when a group does
}

// signed reports whether the host signs for the key exchange.
func (s suite) signed() bool { return s.exchange != "RSA" && !strings.Contains(s.name, "_anon_") }

func suiteOf(id uint16) (suite, bool) {
	for _, s := range suites() {
		if s.id == id {
			return s, true
		}
	}
	return suite{}, false
}

// suites lists what mail hosts are known to choose, in the order the raw hello offers it: what crypto/tls knows, then
// what only other stacks speak, the anonymous suites, which some MTAs still offer
// each other, and the rest of OpenSSL's. Export and NULL suites are left out:
// they are no encryption.
func suites() []suite {
	const rsa, dhe, anon = "RSA", "DHE", "DH anonymous"
	return []suite{
		{0x1302, "TLS_AES_256_GCM_SHA384", 256, ""},
		{0x1301, "TLS_AES_128_GCM_SHA256", 128, ""},
		{0x1303, "TLS_CHACHA20_POLY1305_SHA256", 256, ""},
		{0x1304, "TLS_AES_128_CCM_SHA256", 128, ""},
		{0xc02c, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", 256, ""},
		{0xc030, "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", 256, ""},
		{0xc02b, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", 128, ""},
		{0xc02f, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", 128, ""},
		{0xcca9, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", 256, ""},
		{0xcca8, "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", 256, ""},
		{0x009f, "TLS_DHE_RSA_WITH_AES_256_GCM_SHA384", 256, dhe},
		{0x009e, "TLS_DHE_RSA_WITH_AES_128_GCM_SHA256", 128, dhe},
		{0xccaa, "TLS_DHE_RSA_WITH_CHACHA20_POLY1305_SHA256", 256, dhe},
		{0xc0ad, "TLS_ECDHE_ECDSA_WITH_AES_256_CCM", 256, ""},
		{0xc0ac, "TLS_ECDHE_ECDSA_WITH_AES_128_CCM", 128, ""},
		{0xc09f, "TLS_DHE_RSA_WITH_AES_256_CCM", 256, dhe},
		{0xc09e, "TLS_DHE_RSA_WITH_AES_128_CCM", 128, dhe},
		{0xc024, "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA384", 256, ""},
		{0xc028, "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA384", 256, ""},
		{0xc023, "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256", 128, ""},
		{0xc027, "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256", 128, ""},
		{0x006b, "TLS_DHE_RSA_WITH_AES_256_CBC_SHA256", 256, dhe},
		{0x0067, "TLS_DHE_RSA_WITH_AES_128_CBC_SHA256", 128, dhe},
		{0xc00a, "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA", 256, ""},
		{0xc014, "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA", 256, ""},
		{0xc009, "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA", 128, ""},
		{0xc013, "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", 128, ""},
		{0x0039, "TLS_DHE_RSA_WITH_AES_256_CBC_SHA", 256, dhe},
		{0x0033, "TLS_DHE_RSA_WITH_AES_128_CBC_SHA", 128, dhe},
		{0x0038, "TLS_DHE_DSS_WITH_AES_256_CBC_SHA", 256, dhe},
		{0x0032, "TLS_DHE_DSS_WITH_AES_128_CBC_SHA", 128, dhe},
		{0x0088, "TLS_DHE_RSA_WITH_CAMELLIA_256_CBC_SHA", 256, dhe},
		{0x0045, "TLS_DHE_RSA_WITH_CAMELLIA_128_CBC_SHA", 128, dhe},
		{0x009d, "TLS_RSA_WITH_AES_256_GCM_SHA384", 256, rsa},
		{0x009c, "TLS_RSA_WITH_AES_128_GCM_SHA256", 128, rsa},
		{0x003d, "TLS_RSA_WITH_AES_256_CBC_SHA256", 256, rsa},
		{0x003c, "TLS_RSA_WITH_AES_128_CBC_SHA256", 128, rsa},
		{0x0035, "TLS_RSA_WITH_AES_256_CBC_SHA", 256, rsa},
		{0x002f, "TLS_RSA_WITH_AES_128_CBC_SHA", 128, rsa},
		{0x0084, "TLS_RSA_WITH_CAMELLIA_256_CBC_SHA", 256, rsa},
		{0x0041, "TLS_RSA_WITH_CAMELLIA_128_CBC_SHA", 128, rsa},
		{0x0096, "TLS_RSA_WITH_SEED_CBC_SHA", 128, rsa},
		{0x0007, "TLS_RSA_WITH_IDEA_CBC_SHA", 128, rsa},
		{0xc008, "TLS_ECDHE_ECDSA_WITH_3DES_EDE_CBC_SHA", 112, ""},
		{0xc012, "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA", 112, ""},
		{0x0016, "TLS_DHE_RSA_WITH_3DES_EDE_CBC_SHA", 112, dhe},
		{0x000a, "TLS_RSA_WITH_3DES_EDE_CBC_SHA", 112, rsa},
		{0xc007, "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA", 128, ""},
		{0xc011, "TLS_ECDHE_RSA_WITH_RC4_128_SHA", 128, ""},
		{0x0005, "TLS_RSA_WITH_RC4_128_SHA", 128, rsa},
		{0x0004, "TLS_RSA_WITH_RC4_128_MD5", 128, rsa},
		{0x0015, "TLS_DHE_RSA_WITH_DES_CBC_SHA", 56, dhe},
		{0x0009, "TLS_RSA_WITH_DES_CBC_SHA", 56, rsa},
		{0x00a7, "TLS_DH_anon_WITH_AES_256_GCM_SHA384", 256, anon},
		{0x00a6, "TLS_DH_anon_WITH_AES_128_GCM_SHA256", 128, anon},
		{0xc019, "TLS_ECDH_anon_WITH_AES_256_CBC_SHA", 256, ""},
		{0xc018, "TLS_ECDH_anon_WITH_AES_128_CBC_SHA", 128, ""},
		{0x003a, "TLS_DH_anon_WITH_AES_256_CBC_SHA", 256, anon},
		{0x0034, "TLS_DH_anon_WITH_AES_128_CBC_SHA", 128, anon},
		{0x00a3, "TLS_DHE_DSS_WITH_AES_256_GCM_SHA384", 256, dhe},
		{0xc0af, "TLS_ECDHE_ECDSA_WITH_AES_256_CCM_8", 256, ""},
		{0xc0a3, "TLS_DHE_RSA_WITH_AES_256_CCM_8", 256, dhe},
		{0xc05d, "TLS_ECDHE_ECDSA_WITH_ARIA_256_GCM_SHA384", 256, ""},
		{0xc061, "TLS_ECDHE_RSA_WITH_ARIA_256_GCM_SHA384", 256, ""},
		{0xc057, "TLS_DHE_DSS_WITH_ARIA_256_GCM_SHA384", 256, dhe},
		{0xc053, "TLS_DHE_RSA_WITH_ARIA_256_GCM_SHA384", 256, dhe},
		{0x00a2, "TLS_DHE_DSS_WITH_AES_128_GCM_SHA256", 128, dhe},
		{0xc0ae, "TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8", 128, ""},
		{0xc0a2, "TLS_DHE_RSA_WITH_AES_128_CCM_8", 128, dhe},
		{0xc05c, "TLS_ECDHE_ECDSA_WITH_ARIA_128_GCM_SHA256", 128, ""},
		{0xc060, "TLS_ECDHE_RSA_WITH_ARIA_128_GCM_SHA256", 128, ""},
		{0xc056, "TLS_DHE_DSS_WITH_ARIA_128_GCM_SHA256", 128, dhe},
		{0xc052, "TLS_DHE_RSA_WITH_ARIA_128_GCM_SHA256", 128, dhe},
		{0x006a, "TLS_DHE_DSS_WITH_AES_256_CBC_SHA256", 256, dhe},
		{0xc073, "TLS_ECDHE_ECDSA_WITH_CAMELLIA_256_CBC_SHA384", 256, ""},
		{0xc077, "TLS_ECDHE_RSA_WITH_CAMELLIA_256_CBC_SHA384", 256, ""},
		{0x00c4, "TLS_DHE_RSA_WITH_CAMELLIA_256_CBC_SHA256", 256, dhe},
		{0x00c3, "TLS_DHE_DSS_WITH_CAMELLIA_256_CBC_SHA256", 256, dhe},
		{0x006d, "TLS_DH_anon_WITH_AES_256_CBC_SHA256", 256, anon},
		{0x00c5, "TLS_DH_anon_WITH_CAMELLIA_256_CBC_SHA256", 256, anon},
		{0x0040, "TLS_DHE_DSS_WITH_AES_128_CBC_SHA256", 128, dhe},
		{0xc072, "TLS_ECDHE_ECDSA_WITH_CAMELLIA_128_CBC_SHA256", 128, ""},
		{0xc076, "TLS_ECDHE_RSA_WITH_CAMELLIA_128_CBC_SHA256", 128, ""},
		{0x00be, "TLS_DHE_RSA_WITH_CAMELLIA_128_CBC_SHA256", 128, dhe},
		{0x00bd, "TLS_DHE_DSS_WITH_CAMELLIA_128_CBC_SHA256", 128, dhe},
		{0x006c, "TLS_DH_anon_WITH_AES_128_CBC_SHA256", 128, anon},
		{0x00bf, "TLS_DH_anon_WITH_CAMELLIA_128_CBC_SHA256", 128, anon},
		{0x0087, "TLS_DHE_DSS_WITH_CAMELLIA_256_CBC_SHA", 256, dhe},
		{0x0089, "TLS_DH_anon_WITH_CAMELLIA_256_CBC_SHA", 256, anon},
		{0x0044, "TLS_DHE_DSS_WITH_CAMELLIA_128_CBC_SHA", 128, dhe},
		{0x0046, "TLS_DH_anon_WITH_CAMELLIA_128_CBC_SHA", 128, anon},
		{0xc0a1, "TLS_RSA_WITH_AES_256_CCM_8", 256, rsa},
		{0xc09d, "TLS_RSA_WITH_AES_256_CCM", 256, rsa},
		{0xc051, "TLS_RSA_WITH_ARIA_256_GCM_SHA384", 256, rsa},
		{0xc0a0, "TLS_RSA_WITH_AES_128_CCM_8", 128, rsa},
		{0xc09c, "TLS_RSA_WITH_AES_128_CCM", 128, rsa},
		{0xc050, "TLS_RSA_WITH_ARIA_128_GCM_SHA256", 128, rsa},
		{0x00c0, "TLS_RSA_WITH_CAMELLIA_256_CBC_SHA256", 256, rsa},
		{0x00ba, "TLS_RSA_WITH_CAMELLIA_128_CBC_SHA256", 128, rsa},
	}
}
