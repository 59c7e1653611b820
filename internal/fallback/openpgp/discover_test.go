package openpgp

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/destination/dns"
	"tlsonly/internal/fallback/owner"
	"tlsonly/internal/testnet"
)

// result says which of the three it is.
func result(key *Key, err error) string {
	switch {
	case err == nil && key != nil:
		return "key"
	case errors.Is(err, ErrNoKey):
		return "no key"
	case err != nil && key == nil:
		return "not known"
	}
	return fmt.Sprintf("key %v and error %v", key, err)
}

// The draft's own example, and those of the mission.
func TestWKDURL(t *testing.T) {
	for address, want := range map[string]string{
		"Joe.Doe@example.org": "iy9q119eutrkn8s1mk4r39qejnbu3n5q?l=Joe.Doe",
		"joe.doe@example.org": "iy9q119eutrkn8s1mk4r39qejnbu3n5q?l=joe.doe",
	} {
		a := addr.MustAddress(address)
		if got := wkdURL(a, a.Domain, false); got != "https://example.org/.well-known/openpgpkey/hu/"+want {
			t.Errorf("%s: %s", address, got)
		}
		host := addr.MustDomain("openpgpkey.example.org")
		if got := wkdURL(a, host, true); got != "https://openpgpkey.example.org/.well-known/openpgpkey/example.org/hu/"+want {
			t.Errorf("%s: %s", address, got)
		}
	}
	odd := addr.Address{Local: "a b&c=d/e+f?#%", Domain: addr.MustDomain("example.org")}
	if got := wkdURL(odd, odd.Domain, false); !strings.HasSuffix(got, "?l=a%20b%26c%3Dd%2Fe%2Bf%3F%23%25") {
		t.Errorf("%s", got)
	}
}

// GnuPG gives the files of a directory and the names of the DNS the same names.
func TestNamesOfGnuPG(t *testing.T) {
	if _, err := exec.LookPath("gpg"); err != nil {
		t.Skip("gpg is not installed: \"./deps.sh crypto\" installs it")
	}
	dir, err := os.MkdirTemp("/tmp", "o")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	e := entity(t, "Bob.Builder@plain.example", made(time.Now().Add(-day)))
	gpg := func(in []byte, args ...string) string {
		cmd := exec.Command("gpg", append([]string{"--homedir", dir, "--batch", "--quiet", "--no-auto-key-locate", "--disable-dirmngr"}, args...)...)
		cmd.Stdin = bytes.NewReader(in)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("gpg %v: %v", args, err)
		}
		return string(out)
	}
	gpg(public(t, e), "--import")
	a := addr.MustAddress("Bob.Builder@plain.example")
	_, hash, _ := strings.Cut(wkdURL(a, a.Domain, false), "/hu/")
	hash, _, _ = strings.Cut(hash, "?")
	if list := gpg(nil, "--with-wkd-hash", "--list-keys"); !strings.Contains(list, hash) {
		t.Errorf("GnuPG has no %s in\n%s", hash, list)
	}
}

// directory is a web server with a directory of keys.
type directory struct {
	mu      sync.Mutex
	handler http.HandlerFunc
	hosts   []string // asked, with their paths
	dialled []string
	addrs   map[string][]netip.Addr // by host; nil: not known
	listen  string
	wkd     *WKD
}

// somewhere is an address that everybody can reach; nothing is sent there.
var somewhere = netip.MustParseAddr("9.9.9.9")

func startDirectory(t *testing.T) *directory {
	t.Helper()
	ca, err := testnet.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	d := &directory{addrs: make(map[string][]netip.Addr)}
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			d.mu.Lock()
			d.hosts = append(d.hosts, r.Host+r.URL.RequestURI())
			handler := d.handler
			d.mu.Unlock()
			handler(w, r)
		}),
		TLSConfig: &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			name := hello.ServerName
			if strings.HasPrefix(name, "wrong.") {
				name = "another.example"
			}
			c, err := ca.Issue(testnet.CertSpec{Names: []string{name}})
			return &c, err
		}},
		ErrorLog: log.New(io.Discard, "", 0),
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.ServeTLS(l, "", "") }()
	t.Cleanup(func() {
		server.Close()
		<-ended
	})
	d.listen = l.Addr().String()
	d.wkd = &WKD{
		Roots: ca.Pool(),
		Addrs: func(_ context.Context, host addr.Domain) ([]netip.Addr, error) {
			d.mu.Lock()
			defer d.mu.Unlock()
			all, known := d.addrs[host.String()]
			if known && all == nil {
				return nil, errors.New("SERVFAIL")
			}
			return all, nil
		},
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			d.mu.Lock()
			d.dialled = append(d.dialled, address)
			d.mu.Unlock()
			if strings.HasPrefix(address, "8.8.4.4:") {
				return nil, errors.New("refused")
			}
			return (&net.Dialer{}).DialContext(ctx, network, d.listen)
		},
		Timeout: time.Minute,
	}
	return d
}

// asked returns what was asked and dialled since the last time.
func (d *directory) asked() (hosts, dialled []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	hosts, dialled, d.hosts, d.dialled = d.hosts, d.dialled, nil, nil
	return hosts, dialled
}

// Key, no key, not known: by what the server and the DNS say.
func TestWKD(t *testing.T) {
	d := startDirectory(t)
	e := entity(t, "bob@plain.example", made(now.Add(-day)))
	newer := entity(t, "bob@plain.example", made(now.Add(-day/2)))
	eve := entity(t, "eve@plain.example", made(now.Add(-day/4)))
	old := made(now.Add(-10 * day))
	old.KeyLifetimeSecs = 86400
	give := func(status int, text ...[]byte) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			w.Write(bytes.Join(text, nil))
		}
	}
	redirect := func(to string, times int) http.HandlerFunc {
		n := 0
		return func(w http.ResponseWriter, r *http.Request) {
			if n++; n <= times {
				http.Redirect(w, r, to, http.StatusFound)
				return
			}
			n = 0
			w.Write(public(t, e))
		}
	}
	const advanced, direct = "openpgpkey.plain.example", "plain.example"
	const path = "/.well-known/openpgpkey/plain.example/hu/jycbiujnsxs47xrkethgtj69xuunurok?l=bob"
	for name, tt := range map[string]struct {
		addrs   map[string][]netip.Addr
		handler http.HandlerFunc
		want    string
		why     string
		host    string // which was asked last, "" for none
	}{
		"advanced":              {nil, give(200, public(t, e)), "key", "", advanced},
		"direct":                {map[string][]netip.Addr{advanced: {}}, give(200, public(t, e)), "key", "", direct},
		"the newest":            {nil, give(200, public(t, newer), public(t, e), public(t, eve)), "key", "", advanced},
		"armored":               {nil, give(200, armored(t, block, public(t, e))), "key", "", advanced},
		"redirected":            {nil, redirect("https://keys.example/x", 1), "key", "", "keys.example"},
		"redirected thrice":     {nil, redirect("https://keys.example/x", 3), "key", "", "keys.example"},
		"second address":        {map[string][]netip.Addr{advanced: {netip.MustParseAddr("8.8.4.4"), somewhere}}, give(200, public(t, e)), "key", "", advanced},
		"public beside private": {map[string][]netip.Addr{advanced: {netip.MustParseAddr("10.0.0.1"), somewhere}}, give(200, public(t, e)), "key", "", advanced},

		"404":                             {nil, give(404), "no key", "404", advanced},
		"410":                             {nil, give(410), "no key", "410", advanced},
		"no address":                      {map[string][]netip.Addr{advanced: {}, direct: {}}, give(200, public(t, e)), "no key", "has an address", ""},
		"a page":                          {nil, give(200, []byte("<html>Not found</html>")), "no key", "no OpenPGP key", advanced},
		"nothing":                         {nil, give(200), "no key", "empty", advanced},
		"another's":                       {nil, give(200, public(t, eve)), "no key", "no valid user id", advanced},
		"expired":                         {nil, give(200, public(t, entity(t, "bob@plain.example", old))), "no key", "expired", advanced},
		"a secret key":                    {nil, give(200, secret(t, e)), "no key", "secret key", advanced},
		"too long":                        {nil, give(200, public(t, e), make([]byte, maxWKD)), "no key", "longer", advanced},
		"private":                         {map[string][]netip.Addr{advanced: {netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("::1")}}, give(200, public(t, e)), "no key", "no public address", ""},
		"redirected to a private address": {map[string][]netip.Addr{"inner.example": {netip.MustParseAddr("127.0.0.1")}}, redirect("https://inner.example/x", 1), "no key", "no public address", advanced},

		"500":                      {nil, give(500), "not known", "500", advanced},
		"503":                      {nil, give(503, public(t, e)), "not known", "503", advanced},
		"403":                      {nil, give(403), "not known", "403", advanced},
		"429":                      {nil, give(429), "not known", "429", advanced},
		"204":                      {nil, give(204), "not known", "204", advanced},
		"redirected to HTTP":       {nil, redirect("http://keys.example/x", 1), "not known", "not plainly HTTPS", advanced},
		"redirected to a port":     {nil, redirect("https://keys.example:8443/x", 1), "not known", "not plainly HTTPS", advanced},
		"redirected to an address": {nil, redirect("https://127.0.0.1/x", 1), "not known", "no host name", advanced},
		"redirected to IPv6":       {nil, redirect("https://[::1]/x", 1), "not known", "no host name", advanced},
		"redirected for ever":      {nil, redirect("https://keys.example/x", 9), "not known", "more than 3", "keys.example"},
		"the DNS fails":            {map[string][]netip.Addr{advanced: nil}, give(200, public(t, e)), "not known", "SERVFAIL", ""},
		"the DNS fails later":      {map[string][]netip.Addr{advanced: {}, direct: nil}, give(200, public(t, e)), "not known", "SERVFAIL", ""},
		"nothing listens":          {map[string][]netip.Addr{advanced: {netip.MustParseAddr("8.8.4.4")}}, give(200, public(t, e)), "not known", "refused", ""},
		"another's certificate":    {nil, redirect("https://wrong.example/x", 1), "not known", "certificate is valid for another.example", advanced},
		"cut off": {nil, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100000")
			w.Write(public(t, e))
		}, "not known", "unexpected EOF", advanced},
		"no HTTP": {nil, func(w http.ResponseWriter, r *http.Request) {
			conn, _, _ := w.(http.Hijacker).Hijack()
			conn.Close()
		}, "not known", "EOF", advanced},
	} {
		d.mu.Lock()
		d.addrs = map[string][]netip.Addr{advanced: {somewhere}, direct: {somewhere}, "keys.example": {somewhere}, "wrong.example": {somewhere}}
		for host, all := range tt.addrs {
			d.addrs[host] = all
		}
		d.handler = tt.handler
		d.mu.Unlock()
		key, err := d.wkd.Find(t.Context(), bob, now)
		hosts, dialled := d.asked()
		last := ""
		if len(hosts) > 0 {
			last, _, _ = strings.Cut(hosts[len(hosts)-1], "/")
		}
		if result(key, err) != tt.want || err != nil && !strings.Contains(err.Error(), tt.why) || last != tt.host {
			t.Errorf("%s: %s, %v; asked %q; want %s %q at %q", name, result(key, err), err, hosts, tt.want, tt.why, tt.host)
		}
		for _, a := range dialled {
			if !strings.HasPrefix(a, "9.9.9.9:443") && !strings.HasPrefix(a, "8.8.4.4:443") {
				t.Errorf("%s: dialled %s", name, a)
			}
		}
		switch name {
		case "advanced":
			if hosts[0] != advanced+path || key.Source != "wkd https://"+advanced+path {
				t.Errorf("asked %s, source %s", hosts[0], key.Source)
			}
		case "the newest":
			if key.Fingerprint != fingerprint(newer.PrimaryKey) {
				t.Error("isn't the newest")
			}
		}
	}
	for address, want := range map[string]string{"bob@[192.0.2.1]": "no key", "bob@" + strings.Repeat("a.", 124) + "de": "no key"} {
		if key, err := d.wkd.Find(t.Context(), addr.MustAddress(address), now); result(key, err) != want {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// A server that says nothing is "not known" when the time is up.
func TestWKDTimeout(t *testing.T) {
	d := startDirectory(t)
	d.addrs["openpgpkey.plain.example"] = []netip.Addr{somewhere}
	d.handler = func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte("x"))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}
	d.wkd.Timeout = 100 * time.Millisecond
	key, err := d.wkd.Find(t.Context(), bob, now)
	if result(key, err) != "not known" || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

func TestReachable(t *testing.T) {
	for ip, want := range map[string]bool{
		"9.9.9.9": true, "2620:fe::fe": true, "2a01:4f8::1": true,
		"127.0.0.1": false, "10.1.2.3": false, "172.16.0.1": false, "192.168.0.1": false, "169.254.169.254": false, "100.64.0.1": false,
		"0.0.0.0": false, "192.0.2.1": false, "198.18.0.1": false, "198.51.100.1": false, "203.0.113.1": false, "224.0.0.1": false, "255.255.255.255": false,
		"::1": false, "::": false, "fe80::1": false, "fc00::1": false, "fd00::1": false, "ff02::1": false, "2001:db8::1": false,
		"64:ff9b::7f00:1": false, "2002:7f00:1::": false, "2001::1": false, "3fff::1": false, "100::1": false, "fe80::1%lo": false, "fec0::1": false,
	} {
		if got := reachable(netip.MustParseAddr(ip)); got != want {
			t.Errorf("%s: %v, want %v", ip, got, want)
		}
	}
}

// With a real name server: only what DNSSEC vouches for is a key.
func TestDANE(t *testing.T) {
	record := func(address string) string {
		e := entity(t, address, made(now.Add(-day)))
		return base64.StdEncoding.EncodeToString(public(t, e))
	}
	name := func(local string) string {
		n, err := owner.Name(addr.MustAddress(local+"@x"), owner.OpenPGP)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSuffix(n.String(), ".x")
	}
	zones := "$TTL 300\n$ORIGIN signed.example.\n@ SOA ns hostmaster 1 3600 600 86400 120\n" +
		name("bob") + " OPENPGPKEY " + record("bob@signed.example") + "\n" +
		name("carol") + " OPENPGPKEY " + record("eve@signed.example") + "\n" +
		name("dave") + " OPENPGPKEY " + base64.StdEncoding.EncodeToString([]byte("garbage")) + "\n" +
		name("dave") + " OPENPGPKEY " + record("dave@signed.example") + "\n" +
		name("erin") + " CNAME " + name("erin") + ".plain.example.\n" +
		"$ORIGIN plain.example.\n@ SOA ns hostmaster 1 3600 600 86400 120\n" +
		name("bob") + " OPENPGPKEY " + record("bob@plain.example") + "\n" +
		name("erin") + " OPENPGPKEY " + record("erin@signed.example") + "\n"
	server, err := testnet.StartDNS("127.0.0.1:0", zones)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	server.SetSecure("signed.example")
	resolver, err := dns.New(dns.Config{Server: server.Addr(), Timeout: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	d := DANE{Lookup: func(ctx context.Context, name addr.Domain) ([][]byte, bool, error) {
		a, err := resolver.OPENPGPKEY(ctx, name)
		return a.Records, a.Secure, err
	}}
	for address, want := range map[string]string{
		"bob@signed.example":   "key",
		"dave@signed.example":  "key",    // garbage beside a key
		"carol@signed.example": "no key", // another's
		"frank@signed.example": "no key", // none
		"Bob@signed.example":   "no key", // another local part
		"bob@plain.example":    "no key", // without DNSSEC
		"erin@signed.example":  "no key", // an alias into a zone without
		"bob@[192.0.2.1]":      "no key",
	} {
		key, err := d.Find(t.Context(), addr.MustAddress(address), now)
		if got := result(key, err); got != want {
			t.Errorf("%s: %s, %v, want %s", address, got, err, want)
		}
		if err == nil && !strings.HasPrefix(key.Source, "dane ") {
			t.Errorf("source %q", key.Source)
		}
	}
	server.SetFault(name("bob")+".signed.example.", 61, testnet.DNSServFail)
	if key, err := d.Find(t.Context(), addr.MustAddress("bob@signed.example"), now); result(key, err) != "not known" {
		t.Errorf("SERVFAIL: %v", err)
	}
}

// found is a Finder with an answer.
type found struct {
	key *Key
	err error
}

func (f found) Find(context.Context, addr.Address, time.Time) (*Key, error) { return f.key, f.err }

func TestFirst(t *testing.T) {
	one, two := found{key: &Key{Source: "1"}}, found{key: &Key{Source: "2"}}
	none, unknown := found{err: fmt.Errorf("%w: x", ErrNoKey)}, found{err: errors.New("SERVFAIL")}
	for i, tt := range []struct {
		finders []Finder
		want    string
	}{
		{nil, "no key"}, {[]Finder{one, two}, "key"}, {[]Finder{none, two}, "key"}, {[]Finder{unknown, two}, "key"}, {[]Finder{none, none}, "no key"},
		{[]Finder{none, unknown}, "not known"}, {[]Finder{unknown, none}, "not known"}, {[]Finder{OpenStore(nil), one}, "key"},
	} {
		key, err := First(t.Context(), bob, now, tt.finders...)
		if got := result(key, err); got != tt.want {
			t.Errorf("%d: %s, %v, want %s", i, got, err, tt.want)
		}
	}
	if key, _ := First(t.Context(), bob, now, one, two); key.Source != "1" {
		t.Error("isn't the first")
	}
}

// Whatever a server answers, it is a key of bob's or none.
func FuzzWKD(f *testing.F) {
	f.Add(public(f, entity(f, "bob@plain.example", made(now.Add(-day)))))
	f.Add(armored(f, block, public(f, entity(f, "eve@plain.example", made(now.Add(-day))))))
	f.Add([]byte("<html>"))
	f.Fuzz(func(t *testing.T, text []byte) {
		key, err := newest([][]byte{text}, bob, "wkd", now)
		switch result(key, err) {
		case "key":
			e, err := readEntity(key.Octets)
			if err != nil || !speaksFor(e, bob, now) {
				t.Errorf("another's: %v", err)
			}
		case "no key":
		default:
			t.Errorf("%v, %v", key, err)
		}
	})
}
