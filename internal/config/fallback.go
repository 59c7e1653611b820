package config

import (
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"tlsonly/internal/config/value"
	"tlsonly/internal/place"
	"tlsonly/internal/policy"
)

// Fallback is the table [fallback]: the gateway that takes what the MTA
// couldn't deliver over TLS.
type Fallback struct {
	Listen  Endpoint // zero: off, and no rule may fall back
	Subject string   // on the outside of an encrypted message
}

// OpenPGP is the table [openpgp].
type OpenPGP struct {
	Keys     []string // files and folders of keys
	Discover []string // "wkd", "dane"; where else keys are looked for
	Sign     string   // file of the secret key that signs; "": none
}

// SMIME is the table [smime].
type SMIME struct {
	Certs    []string // files and folders of certificates
	Discover []string // "smimea"
	CAFile   string   // roots for SMIMEA records of usage 1; "": none
	Sign     string   // file of the key and certificate that sign; "": none
}

// The folders that are read where the file names none; they need not be there.
var (
	openpgpFolder = filepath.Join(filepath.Dir(place.Config), "openpgp")
	smimeFolder   = filepath.Join(filepath.Dir(place.Config), "smime")
)

// IsDefaultFolder reports whether a path is one that is read without being
// named, so that it need not be there.
func IsDefaultFolder(path string) bool { return path == openpgpFolder || path == smimeFolder }

func defaultOpenPGP() OpenPGP {
	return OpenPGP{Keys: []string{openpgpFolder}, Discover: []string{"wkd", "dane"}}
}

func defaultSMIME() SMIME {
	return SMIME{Certs: []string{smimeFolder}, Discover: []string{"smimea"}}
}

// fallbackTables are the tables about methods without TLS.
func fallbackTables() map[string]table {
	tables := map[string]table{
		"fallback": section("fallback", value.Keys[Config]{
			"listen":  value.Into(func(c *Config) *Endpoint { return &c.Fallback.Listen }, orEmpty(readGateway)),
			"subject": value.Into(func(c *Config) *string { return &c.Fallback.Subject }, readSubject),
		}),
		"openpgp": section("openpgp", value.Keys[Config]{
			"keys":     value.Into(func(c *Config) *[]string { return &c.OpenPGP.Keys }, value.List(readFile)),
			"discover": value.Into(func(c *Config) *[]string { return &c.OpenPGP.Discover }, value.List(value.Word("wkd", "dane"))),
			"sign":     value.Into(func(c *Config) *string { return &c.OpenPGP.Sign }, orEmpty(readFile)),
		}),
		"smime": section("smime", value.Keys[Config]{
			"certs":    value.Into(func(c *Config) *[]string { return &c.SMIME.Certs }, value.List(readFile)),
			"discover": value.Into(func(c *Config) *[]string { return &c.SMIME.Discover }, value.List(value.Word("smimea"))),
			"ca_file":  value.Into(func(c *Config) *string { return &c.SMIME.CAFile }, orEmpty(readFile)),
			"sign":     value.Into(func(c *Config) *string { return &c.SMIME.Sign }, orEmpty(readFile)),
		}),
	}
	for name, header := range map[string]string{"portal": "[portal]", "gateway": "[[gateway]]"} {
		tables[name] = table{later: header}
	}
	return tables
}

// readGateway takes a loopback address with a port: the MTA finds the gateway by
// it, and nobody else has business there.
func readGateway(v value.Value) (Endpoint, error) {
	e, err := readEndpoint(v)
	if err != nil {
		return e, value.Wrong(v, `want "inet:host:port" with a loopback address`)
	}
	ap, err := netip.ParseAddrPort(e.Address)
	if e.Network != "tcp" || err != nil || !ap.Addr().IsLoopback() || ap.Port() == 0 {
		return Endpoint{}, value.Wrong(v, `want "inet:host:port" with a loopback address, as "inet:127.0.0.1:8692"`)
	}
	return e, nil
}

// readSubject takes a subject that everybody may read: one line of ASCII.
func readSubject(v value.Value) (string, error) {
	s, err := value.Text(v)
	if err == nil && (strings.TrimSpace(s) == "" || len(s) > 200 || strings.ContainsFunc(s, func(r rune) bool { return r > '~' })) {
		err = value.Wrong(v, "want 1 to 200 characters of ASCII")
	}
	return s, err
}

// fallbackFaults says what of these tables, and of the rules that fall back,
// doesn't go together.
func (c *Config) fallbackFaults(root value.Table) (faults []value.Fault) {
	list, _ := root.Keys["rule"].Any.([]value.Value)
	for i, r := range c.Rules.Rules() {
		t, ok := list[i].Any.(value.Table)
		if !ok || !r.FallsBack() {
			continue
		}
		fault := func(key, format string, args ...any) {
			faults = append(faults, value.Fault{Line: t.Keys[key].Line,
				Text: fmt.Sprintf("rule %q: ", r.Name) + fmt.Sprintf(format, args...)})
		}
		if c.Fallback.Listen == (Endpoint{}) {
			fault("on_fail", `on_fail "fallback" needs [fallback] listen, as "inet:127.0.0.1:8692"`)
		}
		for _, m := range r.Fallback {
			if table, keys := c.sourceless(m); table != "" {
				fault("fallback", "fallback %q: nobody can have one, because [%s] has neither %s nor discover", m, table, keys)
			}
		}
	}
	if t, ok := root.Keys["fallback"].Any.(value.Table); ok && c.Fallback.Listen != (Endpoint{}) {
		for name, other := range map[string]Endpoint{
			"milter": c.Milter.Listen, "socketmap": c.Socketmap.Listen, "http": {"tcp", c.HTTP.Listen},
		} {
			if other == c.Fallback.Listen {
				faults = append(faults, value.Fault{Line: t.Keys["listen"].Line,
					Text: fmt.Sprintf("[fallback] listen %q: is that of [%s], too", other, name)})
			}
		}
	}
	if c.DNS.DNSSEC == "off" {
		for table, word := range map[string]string{"openpgp": "dane", "smime": "smimea"} {
			t, _ := root.Keys[table].Any.(value.Table)
			v, written := t.Keys["discover"]
			words, _ := v.Any.([]value.Value)
			if written && slices.ContainsFunc(words, func(w value.Value) bool { return w.Any == word }) {
				faults = append(faults, value.Fault{Line: v.Line,
					Text: fmt.Sprintf(`[%s] discover %q finds nothing with [dns] dnssec = "off"`, table, word)})
			}
		}
	}
	return faults
}

// sourceless names the table of a method for which nothing says where keys come
// from, and the key in it; "" where something does.
func (c *Config) sourceless(m policy.Method) (table, key string) {
	switch {
	case m == policy.OpenPGP && len(c.OpenPGP.Keys)+len(c.OpenPGP.Discover) == 0:
		return "openpgp", "keys"
	case m == policy.SMIME && len(c.SMIME.Certs)+len(c.SMIME.Discover) == 0:
		return "smime", "certs"
	}
	return "", ""
}

// FallsBack returns the methods that rules name, each once, in the order of
// policy.Methods; none where no rule falls back.
func (c *Config) FallsBack() []policy.Method {
	named := map[policy.Method]bool{}
	for _, r := range c.Rules.Rules() {
		for _, m := range r.Fallback {
			named[m] = true
		}
	}
	return slices.DeleteFunc(policy.Methods(), func(m policy.Method) bool { return !named[m] })
}

// withFallback adds the tables about methods to the others.
func withFallback(tables map[string]table) map[string]table {
	maps.Copy(tables, fallbackTables())
	return tables
}
