package openpgp

import (
	"cmp"
	"context"
	"crypto/sha1" // #nosec G505 -- WKD names files by it; nothing depends on its strength
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"golang.org/x/text/unicode/norm"

	"tlsonly/internal/addr"
)

// The limits of what a key server may do.
const (
	maxWKD       = 256 << 10 // octets of an answer
	maxRedirects = 3
	maxTried     = 4 // addresses of a host
	wkdTimeout   = 10 * time.Second
)

// WKD finds keys in the Web Key Directory of their domains
// (draft-koch-openpgp-webkey-service): over HTTPS at "openpgpkey." and the
// domain, or at the domain itself where the first has no address.
//
// SECURITY: the domain is a stranger's. Only addresses that everybody can reach
// are asked, at port 443, by HTTPS, after a redirection too; size, time and
// number of redirections are bounded.
type WKD struct {
	// Addrs returns the addresses of a host, none where it has none for certain.
	// An error says that this isn't known.
	Addrs func(ctx context.Context, host addr.Domain) ([]netip.Addr, error)
	// Roots are the authorities; nil for the system's.
	Roots *x509.CertPool
	// Dial connects; nil for net.Dialer's.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Timeout is for one look-up; default 10s.
	Timeout time.Duration
}

// errPrivate says that a host has only addresses that aren't asked.
var errPrivate = errors.New("it has no public address")

// Find returns a's key. That there is none is known when the server says 404 or
// 410, has something else there, or has no address; other answers, and none at
// all, are errors that don't wrap ErrNoKey.
func (w *WKD) Find(ctx context.Context, a addr.Address, now time.Time) (*Key, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(w.Timeout, wkdTimeout))
	defer cancel()
	none := func(err error) (*Key, error) {
		return nil, fmt.Errorf("%w for %s by WKD: %w", ErrNoKey, a, err)
	}
	if a.Domain.IsZero() || a.Domain.IsLiteral() {
		return none(errors.New("the address has no domain name"))
	}
	host, advanced := a.Domain, false
	if sub, err := addr.ParseDomain("openpgpkey." + a.Domain.String()); err == nil {
		addresses, err := w.Addrs(ctx, sub)
		if err != nil {
			return nil, fmt.Errorf("WKD: addresses of %s: %w", sub, err)
		}
		if len(addresses) > 0 {
			host, advanced = sub, true
		}
	}
	if !advanced {
		addresses, err := w.Addrs(ctx, host)
		if err != nil {
			return nil, fmt.Errorf("WKD: addresses of %s: %w", host, err)
		}
		if len(addresses) == 0 {
			return none(fmt.Errorf("neither openpgpkey.%s nor %s has an address", host, host))
		}
	}
	address := wkdURL(a, host, advanced)
	text, status, err := w.get(ctx, address)
	switch {
	case errors.Is(err, errPrivate):
		return none(fmt.Errorf("%s: %w", host, errPrivate))
	case err != nil:
		return nil, fmt.Errorf("WKD: %s: %w", address, err)
	case status == http.StatusNotFound || status == http.StatusGone:
		return none(fmt.Errorf("%s: HTTP status %d", address, status))
	case status != http.StatusOK:
		return nil, fmt.Errorf("WKD: %s: HTTP status %d", address, status)
	case len(text) > maxWKD:
		return none(fmt.Errorf("%s: longer than %d octets", address, maxWKD))
	}
	return newest([][]byte{text}, a, "wkd "+address, now)
}

// wkdURL returns where a's key is, by the advanced method or the direct one
// (section 3.1 of the draft).
func wkdURL(a addr.Address, host addr.Domain, advanced bool) string {
	local := norm.NFC.String(a.Local)
	lower := strings.Map(func(c rune) rune {
		if c >= 'A' && c <= 'Z' {
			return c + 'a' - 'A'
		}
		return c
	}, local)
	sum := sha1.Sum([]byte(lower)) // #nosec G401 -- as above
	path := "/.well-known/openpgpkey/"
	if advanced {
		path += a.Domain.String() + "/"
	}
	return "https://" + host.String() + path + "hu/" + zbase32(sum[:]) + "?l=" +
		strings.ReplaceAll(url.QueryEscape(local), "+", "%20")
}

// zbase32 encodes octets, a multiple of 5, by the alphabet of z-base-32 (RFC
// 6189, section 5.1.6).
func zbase32(b []byte) string {
	const alphabet = "ybndrfg8ejkmcpqxot1uwisza345h769"
	var s strings.Builder
	for ; len(b) >= 5; b = b[5:] {
		n := uint64(b[0])<<32 | uint64(b[1])<<24 | uint64(b[2])<<16 | uint64(b[3])<<8 | uint64(b[4])
		for shift := 35; shift >= 0; shift -= 5 {
			s.WriteByte(alphabet[n>>shift&31])
		}
	}
	return s.String()
}

// get fetches a URL: at most one octet more than maxWKD of its content.
func (w *WKD) get(ctx context.Context, address string) (text []byte, status int, err error) {
	transport := &http.Transport{
		Proxy: nil, // a proxy named in the environment is for other things
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return w.connect(ctx, network, address)
		},
		TLSClientConfig:        &tls.Config{RootCAs: w.Roots, MinVersion: tls.VersionTLS12},
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 16 << 10,
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		switch {
		case len(via) > maxRedirects:
			return fmt.Errorf("more than %d redirections", maxRedirects)
		case r.URL.Scheme != "https" || r.URL.Port() != "" && r.URL.Port() != "443" || r.URL.User != nil:
			return fmt.Errorf("redirected to %.100q, which is not plainly HTTPS", r.URL.Scheme+"://"+r.URL.Host)
		}
		return nil
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, 0, err
	}
	request.Header.Set("User-Agent", "tlsonly")
	response, err := client.Do(request)
	if err != nil {
		return nil, 0, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, response.StatusCode, nil
	}
	text, err = io.ReadAll(io.LimitReader(response.Body, maxWKD+1))
	if err == nil {
		// A server that sees us leave can end its answer properly before we have
		// left.
		err = ctx.Err()
	}
	return text, response.StatusCode, err
}

// connect connects to port 443 of a host's public addresses, one after the
// other.
func (w *WKD) connect(ctx context.Context, network, address string) (net.Conn, error) {
	name, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	host, err := addr.ParseDomain(name)
	if _, ipErr := netip.ParseAddr(name); err != nil || ipErr == nil || host.IsLiteral() {
		return nil, fmt.Errorf("%.100q is no host name", name)
	}
	addresses, err := w.Addrs(ctx, host)
	if err != nil {
		return nil, err
	}
	dial := w.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	err = errPrivate
	tried := 0
	for _, ip := range addresses {
		if ip = ip.Unmap(); !reachable(ip) {
			continue
		}
		if tried++; tried > maxTried {
			break
		}
		var conn net.Conn
		if conn, err = dial(ctx, network, netip.AddrPortFrom(ip, 443).String()); err == nil {
			return conn, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

// special are the networks of IANA's registries (RFC 6890) that aren't for
// everybody, but for those that netip knows.
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("192.0.0.0/24"), netip.MustParsePrefix("192.0.2.0/24"),
	netip.MustParsePrefix("192.88.99.0/24"), netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.0/24"),
	netip.MustParsePrefix("240.0.0.0/4"),
}

// global is what IANA gives out of IPv6; within it are ways to IPv4 addresses,
// private ones too, and examples.
var (
	global   = netip.MustParsePrefix("2000::/3")
	special6 = []netip.Prefix{
		netip.MustParsePrefix("2001::/23"), netip.MustParsePrefix("2001:db8::/32"),
		netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("3fff::/20"),
	}
)

// reachable reports whether an address is one that everybody can reach.
func reachable(ip netip.Addr) bool {
	networks := special
	if ip.Is6() {
		networks = special6
		if !global.Contains(ip) {
			return false
		}
	}
	if !ip.IsGlobalUnicast() || ip.IsPrivate() || ip.Zone() != "" {
		return false
	}
	for _, n := range networks {
		if n.Contains(ip) {
			return false
		}
	}
	return true
}
