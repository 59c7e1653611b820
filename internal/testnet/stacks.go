package testnet

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// stack is a host with a TLS stack of crypto/tls.
func stack(name string, postfix, sendmail bool, useRSA bool, change func(*tls.Config)) Row {
	return Row{Name: name, Script: func(h RowHost) (Script, error) {
		cert, err := h.CA.Issue(CertSpec{Names: []string{h.Name}, RSA: useRSA})
		if err != nil {
			return Script{}, err
		}
		config := ServerTLS(cert, 0, 0)
		change(config)
		return Script{Handshake: GoTLS(config)}, nil
	}, Postfix: postfix, Sendmail: sendmail}
}

// key is which key a certificate for openssl has.
type key string

// openssl is a host with openssl s_server, which is given the arguments.
func openssl(name string, postfix, sendmail bool, k key, args ...string) Row {
	return Row{Name: name, Script: func(h RowHost) (Script, error) {
		var cert *tls.Certificate
		switch k {
		case "none":
		case "dsa", "ed448", "rsa1024-sha1":
			file := filepath.Join(h.Dir, "pem")
			if err := opensslKey(file, string(k), h.Name); err != nil {
				return Script{}, err
			}
			return Script{Handshake: OpenSSLFile(h.Dir, file, args...)}, nil
		default:
			c, err := selfSigned(k, h.Name)
			if err != nil {
				return Script{}, err
			}
			cert = &c
		}
		return Script{Handshake: OpenSSL(h.Dir, cert, args...)}, nil
	}, Postfix: postfix, Sendmail: sendmail}
}

// opensslKey makes a key and a certificate of a kind that Go can't make.
func opensslKey(file, kind, name string) error {
	var parts [][]string
	switch kind {
	case "dsa":
		parts = [][]string{{"dsaparam", "-out", file + ".par", "-genkey", "2048"}}
	case "ed448":
		parts = [][]string{{"genpkey", "-algorithm", "ed448", "-out", file + ".par"}}
	case "rsa1024-sha1":
		parts = [][]string{{"genrsa", "-out", file + ".par", "1024"}}
	}
	parts = append(parts, []string{"req", "-x509", "-new", "-key", file + ".par", "-out", file + ".crt", "-days", "2",
		"-subj", "/CN=" + name, "-addext", "subjectAltName=DNS:" + name})
	if kind == "rsa1024-sha1" {
		parts[1] = append(parts[1], "-sha1")
	}
	for _, args := range parts {
		if out, err := exec.Command("openssl", args...).CombinedOutput(); err != nil {
			return errors.New(string(out))
		}
	}
	var all []byte
	for _, end := range []string{".crt", ".par"} {
		b, err := os.ReadFile(file + end)
		if err != nil {
			return err
		}
		all = append(all, b...)
	}
	return os.WriteFile(file, all, 0o600)
}

func selfSigned(k key, name string) (tls.Certificate, error) {
	var private any
	var public any
	var err error
	switch k {
	case "ed25519":
		public, private, err = ed25519.GenerateKey(rand.Reader)
	case "p521":
		var p *ecdsa.PrivateKey
		p, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
		if err == nil {
			public, private = p.Public(), p
		}
	case "p256":
		var p *ecdsa.PrivateKey
		p, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err == nil {
			public, private = p.Public(), p
		}
	default:
		var p *rsa.PrivateKey
		p, err = rsa.GenerateKey(rand.Reader, 2048)
		if err == nil {
			public, private = p.Public(), p
		}
	}
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}, err
}

// dhParameters writes a group of bits for Diffie-Hellman (PKCS #3).
func dhParameters(h RowHost, bits int) (string, error) {
	prime, err := rand.Prime(rand.Reader, bits)
	if err != nil {
		return "", err
	}
	der, err := asn1.Marshal(struct{ P, G *big.Int }{prime, big.NewInt(2)})
	if err != nil {
		return "", err
	}
	file := filepath.Join(h.Dir, "dh.pem")
	return file, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "DH PARAMETERS", Bytes: der}), 0o600)
}

// withDH is openssl with a prime of so many bits.
func withDH(name string, postfix, sendmail bool, bits int, args ...string) Row {
	return Row{Name: name, Script: func(h RowHost) (Script, error) {
		file, err := dhParameters(h, bits)
		if err != nil {
			return Script{}, err
		}
		cert, err := selfSigned("rsa", h.Name)
		return Script{Handshake: OpenSSL(h.Dir, &cert, append(args, "-dhparam", file)...)}, err
	}, Postfix: postfix, Sendmail: sendmail}
}

func untold(r Row) Row {
	r.Untold = true
	return r
}

// aborts is a host that gives up where SNI comes, or where it does not.
func aborts(name string, postfix, sendmail bool, with bool) Row {
	return stack(name, postfix, sendmail, false, func(c *tls.Config) {
		c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			if (hello.ServerName != "") == with {
				return nil, errors.New("no such host here")
			}
			return nil, nil
		}
	})
}

// Stacks are hosts whose replies are good and whose TLS is odd.
func Stacks() []Row {
	const low = "@SECLEVEL=0"
	only := func(ids ...uint16) func(*tls.Config) {
		return func(c *tls.Config) {
			c.MinVersion, c.MaxVersion, c.CipherSuites = tls.VersionTLS10, tls.VersionTLS12, ids
		}
	}
	version := func(v uint16) func(*tls.Config) {
		return func(c *tls.Config) { c.MinVersion, c.MaxVersion = v, v }
	}
	versionRSA := func(v uint16) func(*tls.Config) {
		return func(c *tls.Config) {
			c.MinVersion, c.MaxVersion, c.CipherSuites = v, v, []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA}
		}
	}
	group := func(ids ...tls.CurveID) func(*tls.Config) { return func(c *tls.Config) { c.CurvePreferences = ids } }
	demands := func(v uint16, how tls.ClientAuthType) func(*tls.Config) {
		return func(c *tls.Config) { c.MinVersion, c.MaxVersion, c.ClientAuth = v, v, how }
	}
	return []Row{
		aborts("aborts when it is named", true, true, true),
		aborts("aborts when it is not named", true, false, false),

		withDH("DHE 2048", true, true, 2048, "-tls1_2", "-cipher", "DHE:"+low),
		withDH("DHE 1536", true, false, 1536, "-tls1_2", "-cipher", "DHE:"+low),
		withDH("DHE 1024", true, false, 1024, "-tls1_2", "-cipher", "DHE:"+low),
		withDH("DHE 1024 before ECDHE", true, false, 1024, "-tls1_2", "-serverpref", "-cipher", "DHE-RSA-AES128-SHA:ECDHE:"+low),
		withDH("ECDHE before DHE 1024", true, true, 1024, "-tls1_2", "-serverpref", "-cipher", "ECDHE:DHE-RSA-AES128-SHA:"+low),
		withDH("DHE 1024 or RSA", true, false, 1024, "-tls1_2", "-cipher", "DHE-RSA-AES128-SHA:AES128-SHA:"+low),
		withDH("DHE 1024, TLS 1.0", true, false, 1024, "-tls1", "-cipher", "DHE:"+low),
		openssl("DHE automatic", true, true, "rsa", "-tls1_2", "-cipher", "DHE"),
		openssl("anonymous DH", true, false, "none", "-tls1_2", "-cipher", "ADH:"+low),
		openssl("anonymous ECDH", true, false, "none", "-tls1_2", "-cipher", "AECDH:"+low),
		openssl("CAMELLIA", true, false, "rsa", "-tls1_2", "-cipher", "CAMELLIA:"+low),
		openssl("ARIA", true, false, "rsa", "-tls1_2", "-cipher", "ARIA:"+low),
		openssl("CCM", true, false, "rsa", "-tls1_2", "-cipher", "AESCCM:"+low),
		openssl("CCM, short", true, false, "rsa", "-tls1_2", "-cipher", "AES128-CCM8:"+low),
		openssl("TLS 1.3 with CCM", false, false, "rsa", "-tls1_3", "-ciphersuites", "TLS_AES_128_CCM_SHA256"),
		openssl("TLS 1.3 with CHACHA20", true, true, "rsa", "-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"),
		openssl("NULL", false, false, "rsa", "-tls1_2", "-cipher", "eNULL:"+low),
		openssl("X448, TLS 1.3", true, true, "rsa", "-tls1_3", "-groups", "X448"),
		openssl("X448, TLS 1.2", true, true, "rsa", "-tls1_2", "-groups", "X448", "-cipher", "ECDHE"),
		openssl("P-521", true, true, "p521", "-groups", "P-521"),
		openssl("brainpoolP256r1, TLS 1.2", false, false, "rsa", "-tls1_2", "-groups", "brainpoolP256r1", "-cipher", "ECDHE"),
		openssl("secp256k1, TLS 1.2", false, false, "rsa", "-tls1_2", "-groups", "secp256k1", "-cipher", "ECDHE"),
		openssl("ffdhe2048, TLS 1.3", false, true, "rsa", "-tls1_3", "-groups", "ffdhe2048"),
		openssl("Ed25519", true, true, "ed25519"),
		openssl("Ed448", true, true, "ed448"),
		openssl("DSA", true, false, "dsa", "-tls1_2", "-cipher", "DHE+DSS:"+low),
		openssl("RSA 1024 and SHA-1", true, true, "rsa1024-sha1", "-tls1_2", "-cipher", "ECDHE:"+low),
		openssl("signatures with SHA-1 alone", true, false, "rsa", "-tls1_2", "-sigalgs", "RSA+SHA1", "-cipher", "ECDHE:"+low),
		openssl("signatures with SHA-224 alone", true, true, "rsa", "-tls1_2", "-sigalgs", "RSA+SHA224", "-cipher", "ECDHE:"+low),
		openssl("a client certificate demanded, DHE", false, false, "rsa", "-tls1_2", "-cipher", "DHE", "-Verify", "1", "-verify_return_error"),
		untold(openssl("a client certificate asked for, DHE", true, true, "rsa", "-tls1_2", "-cipher", "DHE", "-verify", "1")),

		stack("TLS 1.0", true, false, true, version(tls.VersionTLS10)),
		stack("TLS 1.1", true, false, true, version(tls.VersionTLS11)),
		stack("TLS 1.0, ECDSA", true, false, false, version(tls.VersionTLS10)),
		stack("TLS 1.0, RSA key exchange", true, true, true, versionRSA(tls.VersionTLS10)),
		stack("TLS 1.1, RSA key exchange", true, true, true, versionRSA(tls.VersionTLS11)),
		stack("TLS 1.2, RSA key exchange", true, true, true, versionRSA(tls.VersionTLS12)),
		stack("RC4", false, false, true, only(tls.TLS_RSA_WITH_RC4_128_SHA)),
		stack("RC4 with ECDHE", false, false, true, only(tls.TLS_ECDHE_RSA_WITH_RC4_128_SHA)),
		stack("3DES", false, false, true, only(tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA)),
		stack("CBC with SHA-256", true, true, true, only(tls.TLS_RSA_WITH_AES_128_CBC_SHA256)),
		stack("X25519 with ML-KEM alone", false, false, false, group(tls.X25519MLKEM768)),
		stack("P-384", true, true, false, group(tls.CurveP384)),
		stack("a client certificate demanded, TLS 1.3", false, false, false, demands(tls.VersionTLS13, tls.RequireAnyClientCert)),
		stack("a client certificate demanded, TLS 1.2", false, false, false, demands(tls.VersionTLS12, tls.RequireAnyClientCert)),
		stack("a client certificate demanded, TLS 1.2, RSA", false, false, true, func(c *tls.Config) {
			only(tls.TLS_RSA_WITH_AES_128_CBC_SHA)(c)
			c.ClientAuth = tls.RequireAnyClientCert
		}),
		stack("a client certificate asked for, TLS 1.3", true, true, false, demands(tls.VersionTLS13, tls.RequestClientCert)),
		stack("a client certificate asked for, TLS 1.2", true, true, false, demands(tls.VersionTLS12, tls.RequestClientCert)),
		{Name: "no TLS after the 220", Script: func(RowHost) (Script, error) { return Script{}, nil }},
		{Name: "text after the 220", Script: func(RowHost) (Script, error) {
			return Script{Handshake: func(c net.Conn) (io.ReadWriteCloser, error) {
				_, err := io.WriteString(c, "500 no TLS here\r\n")
				return nil, errors.Join(err, errors.New("none"))
			}}, nil
		}},
		{Name: "a key that is not the certificate's", Script: func(h RowHost) (Script, error) {
			one, err := h.CA.Issue(CertSpec{Names: []string{h.Name}})
			if err != nil {
				return Script{}, err
			}
			other, err := h.CA.Issue(CertSpec{Names: []string{h.Name}})
			one.PrivateKey = other.PrivateKey
			return Script{Handshake: GoTLS(ServerTLS(one, 0, 0))}, err
		}},
		stack("closes after its hello", false, false, false, func(c *tls.Config) {
			c.VerifyConnection = func(tls.ConnectionState) error { return errors.New("no") }
		}),
	}
}
