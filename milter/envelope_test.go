package milter

import (
	"strings"
	"testing"

	gomilter "github.com/d--j/go-milter"

	"tlsonly/internal/contract"
)

func TestMTAOf(t *testing.T) {
	for v, want := range map[string]mta{
		"Postfix 3.7.11":          postfixMTA,
		"Postfix 3.11-20260101":   postfixMTA,
		"Our Mail 3.7.11":         postfixMTA,
		"8.17.1.9":                sendmailMTA,
		"8.15.2/8.15.2/Debian-3":  sendmailMTA,
		"8.18.1 ":                 sendmailMTA,
		"":                        unknownMTA,
		"Postfix":                 unknownMTA,
		"8.17.1 something":        unknownMTA,
		"Mail by somebody, never": unknownMTA,
	} {
		if got := mtaOf(v); got != want {
			t.Errorf("%q: %d, want %d", v, got, want)
		}
	}
}

func TestTagged(t *testing.T) {
	long := strings.Repeat("x", maxEnvID-len("TLSONLY.encrypt."))
	for given, want := range map[string]string{
		"":                          "TLSONLY.encrypt.",
		"abc-1_2.3":                 "TLSONLY.encrypt.abc-1_2.3",
		"a+2Bb":                     "TLSONLY.encrypt.a+2Bb",
		"a+2bb+":                    "TLSONLY.encrypt.a+2B2bb+2B", // no xtext: kept as the text it is
		"a@b\"(c":                   "TLSONLY.encrypt.a+40b+22+28c",
		"ü":                         "TLSONLY.encrypt.+C3+BC",
		long:                        "TLSONLY.encrypt." + long,
		long + "y":                  "TLSONLY.encrypt.",
		strings.Repeat("@", 40):     "TLSONLY.encrypt.", // too long once written so
		"TLSONLY.encrypt.abc":       "TLSONLY.encrypt.abc",
		"TLSONLY.encrypt.":          "TLSONLY.encrypt.",
		"TLSONLY.verify.a(b":        "TLSONLY.verify.a+28b",
		"TLSONLY.name.abc":          "TLSONLY.name.abc",
		"TLSONLY.ask.abc":           "TLSONLY.encrypt.abc",
		"TLSONLY.encrypt":           "TLSONLY.encrypt.TLSONLY.encrypt",
		"TLSONLY.may.abc":           "TLSONLY.encrypt.TLSONLY.may.abc",
		"tlsonly.encrypt.abc":       "TLSONLY.encrypt.tlsonly.encrypt.abc",
		"TLSONLY.encrypt.TLSONLY.x": "TLSONLY.encrypt.TLSONLY.x",
	} {
		if got := tagged(contract.TagEncrypt, given); got != want {
			t.Errorf("%q: %q, want %q", given, got, want)
		}
	}
}

// A tag that asks for more isn't made weaker by one that asks for less, whoever gave it.
func TestStricterTag(t *testing.T) {
	for given, want := range map[string]string{
		"abc":                 "TLSONLY.name.abc",
		"TLSONLY.encrypt.abc": "TLSONLY.name.abc",
		"TLSONLY.verify.abc":  "TLSONLY.name.abc",
		"TLSONLY.name.abc":    "TLSONLY.name.abc",
	} {
		if got := tagged(contract.TagName, given); got != want {
			t.Errorf("%q: %q, want %q", given, got, want)
		}
	}
}

// Whatever the client says, the id is a tag that asks for TLS, is plain and short enough, and stays as it is when a
// host like ours is next.
func FuzzTagged(f *testing.F) {
	for _, s := range []string{"", "abc+2B1", "TLSONLY.encrypt.x", "TLSONLY.", "TLSONLY..", "TLSONLY.verify", "a b=\x00\"("} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id := tagged(contract.TagEncrypt, s)
		rest, ok := strings.CutPrefix(id, "TLSONLY.")
		word, _, dot := strings.Cut(rest, ".")
		if !ok || !dot || word != "encrypt" && word != "verify" && word != "name" {
			t.Errorf("%q: %q is no tag", s, id)
		}
		if strings.Trim(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_+") != "" || len(id) > maxEnvID {
			t.Errorf("%q: %q is not plain or too long", s, id)
		}
		if again := tagged(contract.TagEncrypt, id); again != id {
			t.Errorf("%q: %q, then %q", s, id, again)
		}
	})
}

// Each of the two can be had without the other, and where none is wanted the MTA isn't asked for the right.
func TestBound(t *testing.T) {
	const args = "RET=FULL SMTPUTF8 ENVID=abc"
	for _, c := range []struct {
		v      string
		redact bool
		tag    contract.Tag
		want   string
	}{
		{"Postfix 3.7.11", true, "encrypt", "RET=HDRS"},
		{"Postfix 3.7.11", false, "encrypt", ""},
		{"8.17.1.9", true, "encrypt", "ENVID=TLSONLY.encrypt.abc AUTH=<> RET=HDRS SMTPUTF8"},
		{"8.17.1.9", false, "encrypt", "ENVID=TLSONLY.encrypt.abc AUTH=<> RET=FULL SMTPUTF8"},
		{"8.17.1.9", false, "name", "ENVID=TLSONLY.name.abc AUTH=<> RET=FULL SMTPUTF8"},
		{"8.17.1.9", false, "ask", "ENVID=TLSONLY.ask.abc AUTH=<> RET=FULL SMTPUTF8"},
		{"8.17.1.9", true, "", "ENVID=abc AUTH=<> RET=HDRS SMTPUTF8"},
		{"8.17.1.9", false, "", ""},
		{"", true, "encrypt", ""},
	} {
		if got := (envelope{mta: mtaOf(c.v), args: args}).reissued(c.redact, c.tag); got != c.want {
			t.Errorf("%q, redact %t, tag %q: %q, want %q", c.v, c.redact, c.tag, got, c.want)
		}
	}
	b := start(t, func(c *Config) { c.RedactBounces, c.TagEnvelope = false, false })
	talk(t, b, b.dial(t), "> O 6 0x40 0x1fffff", "< O 0x6 0x0 0x3d3",
		`> DM v "Postfix 3.7.11"`, "> M <alice@clinic.example>", "< c", "> R <bob@good.example>", "< c", "> E", "< a")
	for _, change := range []func(*Config){func(c *Config) { c.RedactBounces = false }, func(c *Config) { c.TagEnvelope = false }} {
		b := start(t, change)
		talk(t, b, b.dial(t), "> O 6 0x40 0x1fffff", "< O 0x6 0x40 0x3d3")
	}
}

func TestAttest(t *testing.T) {
	const (
		head       = "> O 6 0 0x1fffff"
		negotiated = "< O 0x6 0x0 0x3d3"
		deferred   = "< y 451 4.3.0 the TLS that this mail needs can't be enforced here yet, try again"
		postfix    = `> DM {mail_mailer} smtp v "Postfix 3.7.11"`
		alice      = "> M <alice@clinic.example>"
		bob        = "> R <bob@good.example>"
	)
	macros := func(mailer string) string { return "> DR {rcpt_mailer} " + mailer + " {rcpt_host} good.example" }
	for _, c := range []struct {
		name    string
		attest  Attest
		lines   []string
		unbound uint64
		warns   int
	}{
		{"ours", AttestEnforce, []string{postfix, alice, "< c", macros("tlsonly"), bob, "< c", macros("tlsonly12"), bob, "< c"}, 0, 0},
		{"not ours", AttestEnforce, []string{postfix, alice, "< c", macros("smtp"), bob, deferred, macros("tlsonlyx"), bob, deferred}, 2, 0},
		{"warned once a message", AttestWarn, []string{postfix, alice, "< c", macros("smtp"), bob, "< c", macros("relay"), bob, "< c",
			"> A", postfix, alice, "< c", macros("smtp"), bob, "< c"}, 3, 2},
		{"off", AttestOff, []string{postfix, alice, "< c", macros("smtp"), bob, "< c"}, 0, 0},
		{"by default", "", []string{postfix, alice, "< c", macros("smtp"), bob, "< c"}, 0, 0},
		{"the site's own, known to enforce", AttestEnforce, []string{postfix, alice, "< c", macros("forced"), bob, "< c"}, 0, 0},
		{"Sendmail", AttestEnforce, []string{"> DM i 8A1 {mail_mailer} esmtp v 8.17.1.9", alice, "< c", macros("esmtp"), bob, "< c"}, 0, 0},
		{"delivered here", AttestEnforce, []string{postfix, alice, "< c", "> DR {rcpt_mailer} local", bob, "< c"}, 0, 0},
		{"refused anyway", AttestEnforce, []string{postfix, alice, "< c", "> DR {rcpt_mailer} smtp {rcpt_host} plain.example", bob,
			"< y 550 5.7.10 TLS required: plain.example does not offer STARTTLS (mail host mx.plain.example)"}, 0, 0},
		{"nothing asked", AttestEnforce, []string{postfix, alice, "< c", macros("smtp"), "> R <bob@legacy.example>", "< c"}, 0, 0},
		{"observed", AttestEnforce, []string{postfix, "> M <a@observe.example>", "< c", macros("smtp"), bob, "< c"}, 0, 0},
		{"no client, so no transport", AttestEnforce, []string{`> DM i P1 v "Postfix 3.7.11"`, "> M alice@clinic.example", "< c",
			"> R bob@good.example", "< c"}, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := start(t, func(conf *Config) {
				conf.Attest = c.attest
				conf.Enforcing = func(transport string) bool { return transport == "forced" }
			})
			conn := b.dial(t)
			talk(t, b, conn, append([]string{head, negotiated}, c.lines...)...)
			talk(t, b, conn, "> A", "> Q", "< close")
			if got := b.Stats().Unattested; got != c.unbound {
				t.Errorf("%d unbound, want %d", got, c.unbound)
			}
			if got := strings.Count(b.log.String(), `msg="not bound"`); got != c.warns {
				t.Errorf("%d warnings, want %d:\n%s", got, c.warns, b.log)
			}
			const cause = `reason=not-bound would=`
			if strings.Contains(b.log.String(), cause) || c.attest == AttestEnforce && c.unbound > 0 &&
				!strings.Contains(b.log.String(), `verdict=defer reason=not-bound err="recipient's transport smtp is not bound to TLS"`) {
				t.Errorf("log:\n%s", b.log)
			}
		})
	}
}

// An MTA that won't change the sender is asked for nothing of the kind, whatever it says it is.
func TestNoChangeFrom(t *testing.T) {
	b := start(t, nil)
	for _, offer := range []string{"> O 6 0x3f 0x1fffff", "> O 2 0x7f 0x1fffff"} {
		c := b.dial(t)
		talk(t, b, c, offer)
		if got, err := readPacketText(c); err != nil || strings.Contains(got, "0x71 ") || strings.Contains(got, "0x51 ") {
			t.Errorf("%s: %s, %v", offer, got, err)
		}
		talk(t, b, c, `> DM v "Postfix 3.7.11"`, "> M <alice@clinic.example>", "< c", "> R <bob@good.example>", "< c",
			"> E", `< i 0x0 TLS-Only "pass; rule=\"clinic\"; tls=encrypt"`, "< a")
	}
	if gomilter.OptChangeFrom != 0x40 {
		t.Error("the right's number isn't that of the dialogues")
	}
}
