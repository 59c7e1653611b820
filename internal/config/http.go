package config

import (
	"fmt"
	"net"
	"strings"

	"golang.org/x/crypto/bcrypt"

	"tlsonly/internal/config/value"
)

// HTTP is the table [http]: metrics, health, JSON and the status page.
type HTTP struct {
	Listen      string // "host:port"; "" is off
	Password    string // bcrypt hash of the password that everything wants; "" where none is wanted
	Cert, Key   string // paths of a certificate and its key, for TLS
	BehindProxy bool   // a proxy adds TLS
}

// Host is the host of Listen.
func (h HTTP) Host() string {
	host, _, _ := net.SplitHostPort(h.Listen) // it was read so
	return host
}

// loopback reports whether only this host can connect.
func (h HTTP) loopback() bool {
	host := h.Host()
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

// maxCost of a hash: one more doubles the time that a page takes for who comes with a new password, here near a second.
const maxCost = 14

// readHash takes a bcrypt hash. A wrong one isn't shown: it may be the password.
func readHash(v value.Value) (string, error) {
	s, err := value.Text(v)
	if err != nil {
		return "", err
	}
	if cost, err := bcrypt.Cost([]byte(s)); err != nil || cost > maxCost {
		return "", &value.Error{Line: v.Line, Text: fmt.Sprintf(`: want a bcrypt hash of cost %d at most, as made by "htpasswd -nBC 12 ''"`, maxCost)}
	}
	return s, nil
}

// readFile takes the path of a file, from the root.
func readFile(v value.Value) (string, error) {
	s, err := value.Text(v)
	if err == nil && !strings.HasPrefix(s, "/") {
		err = value.Wrong(v, "want a path that begins with /")
	}
	return s, err
}

// httpFaults says what of [http] doesn't go together. What is shown are addresses and what a site knows of others: that goes to
// other hosts only for a password, and the password only through TLS.
func (c *Config) httpFaults(root value.Table) []value.Fault {
	h := c.HTTP
	t, _ := root.Keys["http"].Any.(value.Table)
	at := func(key string) int { return max(t.Line, t.Keys[key].Line, 1) }
	var faults []value.Fault
	say := func(key, format string, args ...any) {
		faults = append(faults, value.Fault{Line: at(key), Text: fmt.Sprintf("[http] "+key+format, args...)})
	}
	if h.Cert != "" && h.Key == "" {
		say("cert", ": want key, too")
	}
	if h.Key != "" && h.Cert == "" {
		say("key", ": want cert, too")
	}
	if h.Listen == "" {
		return faults
	}
	if !h.loopback() {
		if h.Password == "" {
			say("listen", " %q: isn't a loopback address, so want a password", h.Listen)
		}
		if (h.Cert == "" || h.Key == "") && !h.BehindProxy {
			say("listen", " %q: isn't a loopback address, so want cert and key, or behind_proxy = true", h.Listen)
		}
	}
	for name, e := range map[string]Endpoint{"milter": c.Milter.Listen, "socketmap": c.Socketmap.Listen} {
		if e.Network == "tcp" && e.Address == h.Listen && !strings.HasSuffix(h.Listen, ":0") {
			say("listen", " %q: is also that of [%s]", h.Listen, name)
		}
	}
	return faults
}
