package milter

import (
	"fmt"
	"strings"
	"testing"

	gomilter "github.com/d--j/go-milter"

	"tlsonly/internal/addr"
	"tlsonly/internal/inbound"
	"tlsonly/internal/policy"
)

// withInbound adds [[inbound]] rules and their header to a bench.
func withInbound(c *Config) {
	rule := func(name string, client, from, to string, change func(*inbound.Rule)) *inbound.Rule {
		r := &inbound.Rule{Name: name, Level: inbound.Encrypt, MinVersion: policy.TLS12, MinBits: 128, OnFail: policy.ActionReject, Mode: policy.Enforce}
		if client != "" {
			one, err := inbound.ParseClient(client)
			if err != nil {
				panic(err)
			}
			r.Client = []inbound.Client{one}
		}
		if from != "" {
			r.From = []addr.Pattern{addr.MustPattern(from)}
		}
		if to != "" {
			r.To = []addr.Pattern{addr.MustPattern(to)}
		}
		if change != nil {
			change(r)
		}
		return r
	}
	set := inbound.New([]*inbound.Rule{
		rule("gateway", "", "@insurer.example", "", func(r *inbound.Rule) { r.Level, r.Cert = inbound.Verified, []string{"gw.insurer.example"} }),
		rule("later", "@.later.example", "", "", func(r *inbound.Rule) { r.OnFail = policy.ActionDefer }),
		rule("held", "198.51.100.0/24", "", "@held.example", func(r *inbound.Rule) { r.OnFail = policy.ActionHold }),
		rule("watched", "", "", "@watched.example", func(r *inbound.Rule) { r.Mode = policy.Observe }),
		rule("patients", "", "", "@patients.example", nil),
		rule("host", "", "", "@mta.clinic.example", nil),
	})
	c.Inbound = func() *inbound.Set { return set }
	c.InboundHeader = true
}

// What both MTAs say of a client and its session, and what they leave out.
func TestArrival(t *testing.T) {
	postfix := []string{"v", "Postfix 3.7.11", "{client_addr}", "192.0.2.1", "{client_name}", "mail.example"}
	sendmail := []string{"v", "8.17.1.9", "{client_addr}", "192.0.2.1", "{client_name}", "mail.example"}
	tls := []string{"{tls_version}", "TLSv1.3", "{cipher}", "TLS_AES_256_GCM_SHA384", "{cipher_bits}", "256"}
	join := func(lists ...[]string) (all []string) {
		for _, l := range lists {
			all = append(all, l...)
		}
		return all
	}
	const by = "mail.example 192.0.2.1  "
	for i, c := range []struct {
		macros []string
		want   string // name, address, login, TLS, version, bits, verified, certificate
	}{
		{postfix, by + "false  0 false "},
		{join(postfix, tls), by + "true 1.3 256 false "},
		{join(postfix, tls, []string{"{cert_subject}", "gw.example", "{cert_issuer}", "CA"}), by + "true 1.3 256 true gw.example"},
		{join(postfix, tls, []string{"{cert_subject}", "", "{cert_issuer}", "CA"}), by + "true 1.3 256 true "},
		{join(postfix, []string{"{cert_subject}", "gw.example"}), by + "false  0 false "}, // no TLS, no certificate
		{join(postfix, []string{"{auth_authen}", "alice"}), "mail.example 192.0.2.1 alice false  0 false "},
		{join(postfix, []string{"{client_name}", "unknown"}), " 192.0.2.1  false  0 false "},
		{join(postfix, []string{"{client_addr}", "unknown", "{client_name}", "unknown"}), " 0.0.0.0  false  0 false "},
		{join(postfix, []string{"{client_addr}", "::ffff:127.0.0.1"}), "mail.example 127.0.0.1  false  0 false "},
		{nil, " 0.0.0.0  false  0 false "}, // nothing told is nothing known, above all not "from here"
		{join(sendmail, []string{"{verify}", "NONE"}), by + "false  0 false "},
		{join(sendmail, tls, []string{"{verify}", "NO"}), by + "true 1.3 256 false "},
		{join(sendmail, tls, []string{"{verify}", "OK", "{cn_subject}", "Gate+20Way+2B1", "{cert_subject}", "/CN=Gate+20Way+2B1"}), by + "true 1.3 256 true Gate Way+1"},
		{join(sendmail, tls, []string{"{verify}", "FAIL", "{cn_subject}", "gw", "{cert_subject}", "/CN=gw", "{cert_issuer}", "/CN=gw"}), by + "true 1.3 256 false "},
		{join(sendmail, tls, []string{"{cert_subject}", "/CN=gw", "{cert_issuer}", "/CN=gw"}), by + "true 1.3 256 false "}, // not told how it was judged
		{join(sendmail, tls, []string{"{verify}", "TEMP"}), by + "false  0 false "},                                        // the handshake failed
		{join(sendmail, []string{"{client_addr}", "IPv6:2001:db8::1", "{client_name}", "[IPv6:2001:db8::1]"}), " 2001:db8::1  false  0 false "},
		{join(sendmail, []string{"{client_addr}", "0"}), "mail.example invalid IP  false  0 false "},
		{join([]string{"v", "odd"}, tls, []string{"{cert_subject}", "gw"}), " 0.0.0.0  true 1.3 256 false "}, // an MTA whose words aren't known
		{join(postfix, []string{"{tls_version}", "TLSv1", "{cipher_bits}", "128"}), by + "true 1.0 128 false "},
		{join(postfix, []string{"{tls_version}", "SSLv3", "{cipher_bits}", "x"}), by + "true SSL 3.0 0 false "},
		{join(postfix, []string{"{tls_version}", "TLSv9", "{cipher_bits}", "256"}), by + "true  256 false "},
	} {
		m := gomilter.NewMacroBag()
		for k := 0; k < len(c.macros); k += 2 {
			m.Set(c.macros[k], c.macros[k+1])
		}
		a := arrival(m)
		if got := fmt.Sprint(a.Name, " ", a.Addr, " ", a.Login, " ", a.TLS, " ", a.Version, " ", a.Bits, " ", a.Verified, " ", a.Certificate); got != c.want {
			t.Errorf("%d: %q, want %q", i, got, c.want)
		}
	}
}

// The header names no recipient, and what strangers can put into a certificate or a cipher's name can't leave its place.
func TestInboundValue(t *testing.T) {
	tls := inbound.Arrival{TLS: true, Version: policy.TLS12, Bits: 256, Cipher: "ECDHE-RSA-AES256-GCM-SHA384"}
	cert := tls
	cert.Verified, cert.Certificate = true, "x\"; pass\r\nX: ü"
	odd := inbound.Arrival{TLS: true, Cipher: "a b; pass", Bits: 1}
	r1, r2 := &inbound.Rule{Name: "one"}, &inbound.Rule{Name: "two"}
	pass := inbound.Judgement{Verdict: policy.Accept, Would: policy.Accept, Tag: policy.TagPass}
	fail := inbound.Judgement{Verdict: policy.Accept, Would: policy.Accept, Tag: policy.TagFail, Reason: inbound.NoTLS}
	observe := inbound.Judgement{Verdict: policy.Accept, Would: policy.Reject, Tag: policy.TagObserve, Reason: inbound.WeakCipher}
	for _, c := range []struct {
		a    inbound.Arrival
		ds   []admission
		want string
	}{
		{inbound.Arrival{}, nil, "none; version=none"},
		{tls, nil, "none; version=TLSv1.2; cipher=ECDHE-RSA-AES256-GCM-SHA384; bits=256"},
		{cert, nil, `none; version=TLSv1.2; cipher=ECDHE-RSA-AES256-GCM-SHA384; bits=256; cert="x\"; pass\r\nX: \u00fc"`},
		{odd, nil, "none; version=unknown; bits=1"},
		{inbound.Arrival{}, []admission{{r1, addr.Address{}, fail}}, "fail; version=none;\n\trule=\"one\"; reason=no-tls"},
		{tls, []admission{{r1, addr.Address{}, pass}, {r2, addr.Address{}, observe}, {r1, addr.Address{}, pass}},
			"observe; version=TLSv1.2; cipher=ECDHE-RSA-AES256-GCM-SHA384; bits=256;\n\trule=\"one\";\n\trule=\"two\"; reason=weak-cipher; would=reject"},
		{inbound.Arrival{}, []admission{{r1, addr.Address{}, pass}, {r1, addr.Address{}, fail}}, "fail; version=none;\n\trule=\"one\"; reason=no-tls"},
	} {
		if got := inboundValue(c.a, c.ds); got != c.want {
			t.Errorf("%q\nwant %q", got, c.want)
		}
	}
}

// Where nothing is refused, deferred or held for the sake of how mail comes in, an MTA that can't be asked is no obstacle.
func TestInboundOnlyWatched(t *testing.T) {
	b := start(t, func(c *Config) {
		set := inbound.New([]*inbound.Rule{{Name: "watched", Level: inbound.Encrypt, Mode: policy.Observe}})
		c.Inbound, c.InboundHeader = func() *inbound.Set { return set }, true
	})
	talk(t, b, b.dial(t), "> O 2 0x1f 0x7f", "< O 0x2 0x11 0x53", "> M <x@other.example>", "< a",
		"> M <alice@clinic.example>", "< c", "> R <bob@good.example>", "< c", "> E", `< i 0x0 TLS-Only "pass; rule=\"clinic\"; tls=encrypt"`, "< a")
}

// Whatever stands in the macros, the header stays one header, and its own words stand outside quotes only where we put them.
func FuzzInboundValue(f *testing.F) {
	f.Add("Postfix 3.7.11", "192.0.2.1", "mail.example", "TLSv1.3", "TLS_AES_256_GCM_SHA384", "256", "gw.example", "OK")
	f.Add("8.17.1", "IPv6:::1", "[::1]", "TLSv1.2", "a; rule=\"x\"", "-1", "a+0D+0ATLS-Only: pass+2", "OK")
	f.Add("8.17.1", "0", "unknown", "SSLv3", "x\r\nX: y", "999999999999999999999", "\"; rule=\"x", "FAIL")
	f.Fuzz(func(t *testing.T, version, client, name, protocol, cipher, bits, cert, verify string) {
		m := gomilter.NewMacroBag()
		for k, v := range map[string]string{
			"v": version, "{client_addr}": client, "{client_name}": name, "{tls_version}": protocol, "{cipher}": cipher, "{cipher_bits}": bits,
			"{cert_subject}": cert, "{cn_subject}": cert, "{verify}": verify,
		} {
			m.Set(k, v)
		}
		a := arrival(m)
		if a.Here() && client != "0" && !a.Addr.IsLoopback() {
			t.Errorf("client %q passes for this host", client)
		}
		value := inboundValue(a, nil)
		outside, quoted, escaped := "", false, false
		for _, r := range value {
			if r < ' ' || r > '~' {
				t.Fatalf("%q has %q", value, r)
			}
			switch {
			case escaped:
				escaped = false
			case quoted && r == '\\':
				escaped = true
			case r == '"':
				quoted = !quoted
			case !quoted:
				outside += string(r)
			}
		}
		if quoted || strings.Contains(outside, "rule=") || strings.Count(outside, ";") > 4 || len(value) > 1200 {
			t.Errorf("%q", value)
		}
	})
}
