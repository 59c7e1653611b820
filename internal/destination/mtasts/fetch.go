package mtasts

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/destination/dns"
)

// maxPolicy is the size RFC 8461, section 3.3, suggests as the most.
const maxPolicy = 64 << 10

// maxPerFamily is how many addresses of a policy host are tried, of IPv4 and of IPv6 each.
const maxPerFamily = 3

// fetcher gets policies from policy hosts.
type fetcher struct {
	resolver Resolver
	roots    *x509.CertPool
	dial     func(ctx context.Context, network, address string) (net.Conn, error)
	port     uint16
	timeout  time.Duration
}

// fetch returns the policy file of the policy host, "mta-sts.<domain>". Every error means that there is none to be had now.
func (f *fetcher) fetch(ctx context.Context, host addr.Domain) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	addresses, err := f.addresses(ctx, host)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		Proxy: nil, // a proxy named in the environment is for other things
		// With our own ctx: the transport's doesn't end with the request.
		DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
			return f.connect(ctx, host, addresses)
		},
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 16 << 10,
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{
		Transport: transport,
		// RFC 8461, section 3.3: redirects must not be followed. The answer comes as it is, and isn't 200.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host.String()+"/.well-known/mta-sts.txt", nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("User-Agent", "tlsonly")
	request.Header.Set("Cache-Control", "no-cache") // RFC 8461, section 3.3: no HTTP caching, of those between either
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return read(response)
}

// read takes the policy file out of an answer that may bear one.
func read(response *http.Response) ([]byte, error) {
	if response.StatusCode != http.StatusOK { // RFC 8461, section 3.3
		return nil, fmt.Errorf("HTTP status %d, not 200", response.StatusCode)
	}
	// RFC 8461, section 3.2: so that what a web server's users may put there isn't taken for the domain's policy.
	media := response.Header.Get("Content-Type")
	if t, _, err := mime.ParseMediaType(media); t != "text/plain" || err != nil && !errors.Is(err, mime.ErrInvalidMediaParameter) {
		return nil, fmt.Errorf("media type %.80q, not text/plain", media)
	}
	if encoding := response.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return nil, fmt.Errorf("content encoding %.80q, which was not asked for", encoding)
	}
	if response.ContentLength < 0 && len(response.TransferEncoding) == 0 {
		return nil, errors.New("neither a length nor chunks: the end could have been cut off")
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, maxPolicy+1))
	if err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	if len(text) > maxPolicy {
		return nil, fmt.Errorf("longer than %d octets", maxPolicy)
	}
	return text, nil
}

// addresses returns the addresses to try, the families in turn: one that leads nowhere doesn't hide the other.
func (f *fetcher) addresses(ctx context.Context, host addr.Domain) ([]netip.AddrPort, error) {
	answer, err := f.resolver.Addrs(ctx, host)
	if err != nil {
		return nil, err
	}
	if answer.Status != dns.OK {
		return nil, fmt.Errorf("addresses of %s: %s", host, answer.Status)
	}
	var v4, v6, all []netip.AddrPort
	for _, ip := range answer.Records {
		if ip = ip.Unmap(); ip.Is4() {
			v4 = append(v4, netip.AddrPortFrom(ip, f.port))
		} else {
			v6 = append(v6, netip.AddrPortFrom(ip, f.port))
		}
	}
	for i := range maxPerFamily {
		if i < len(v4) {
			all = append(all, v4[i])
		}
		if i < len(v6) {
			all = append(all, v6[i])
		}
	}
	return all, nil
}

// connect makes a TLS connection to the first address that takes one.
func (f *fetcher) connect(ctx context.Context, host addr.Domain, addresses []netip.AddrPort) (net.Conn, error) {
	conn, err := f.reach(ctx, addresses)
	if err != nil {
		return nil, err
	}
	// RFC 8461, section 3.3: SNI and a certificate for the policy host's name, by a root that is trusted.
	secure := tls.Client(conn, &tls.Config{ServerName: host.String(), RootCAs: f.roots, MinVersion: tls.VersionTLS12})
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return secure, nil
}

// reach connects to the first address that answers. Each gets an equal share of the time left, and so does what follows.
func (f *fetcher) reach(ctx context.Context, addresses []netip.AddrPort) (conn net.Conn, err error) {
	err = errors.New("no address to connect to")
	for i, a := range addresses {
		end, _ := ctx.Deadline()
		try, cancel := context.WithTimeout(ctx, time.Until(end)/time.Duration(len(addresses)-i+1))
		conn, err = f.dial(try, "tcp", a.String())
		cancel()
		if err == nil {
			return conn, nil
		}
	}
	return nil, err
}
