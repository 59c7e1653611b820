// Package dns answers what the DNS says of a mail domain or host: MX, addresses, TLSA and TXT, each with its
// DNSSEC state, its time to live and the name at the end of the alias chain. It keeps three truths apart that
// other resolvers' interfaces mix: the name does not exist, the name has no such record, and the answer could not
// be had. The third is always an *Error, never an empty answer: taking a failure for "no record" is how mail
// loses its DANE or MTA-STS protection (RFC 7672, section 2.1.2).
//
// It decides nothing about mail: null MX, implicit MX and what an insecure answer is worth are the caller's to
// judge. It validates no signatures and caches nothing; both are the work of the site's resolver, which the
// caller names in Config and which should run on this host.
//
// It follows RFC 1035 and 2181 (messages, aliases, TTL), 2308 (negative answers), 4035 and 6840 (AD, DO),
// 6891 (EDNS), 7766 (TCP), 8020 and 8914.
//
// SECURITY: the AD bit is as good as the path to the resolver. It is believed from a loopback address, or from
// another one when Config.TrustResolver says that the path is safe.
package dns

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	miekg "github.com/miekg/dns"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// Limits on what one answer may bring. TXT and TLSA need none: a DNS message ends at 64 KiB.
const (
	maxMX    = 100
	maxAddrs = 64
)

// The values of Config.DNSSEC.
const (
	Auto = "auto" // ask for DNSSEC, believe AD where the path to the resolver is safe
	On   = "on"   // as Auto, and New refuses a resolver whose AD would not be believed
	Off  = "off"  // don't ask; no answer is secure
)

// Config says which resolver is asked and how. The zero Config asks the system's resolver.
type Config struct {
	Server        string        // "host:port", the host an IP address; default: the first of ResolvConf
	ResolvConf    string        // default "/etc/resolv.conf"
	DNSSEC        string        // Auto, On or Off; default Auto
	TrustResolver bool          // believe AD from a resolver that is not on loopback
	Timeout       time.Duration // for one try; default 3s
	Tries         int           // default 2, each with a fresh socket and ID
}

// Resolver asks one recursive resolver. It is safe for concurrent use and holds nothing that needs closing.
type Resolver struct {
	server  string
	dnssec  bool // ask with DO
	believe bool // believe AD
	timeout time.Duration
	tries   int
}

// New checks the Config and returns a Resolver; nothing is asked yet.
func New(c Config) (*Resolver, error) {
	r := &Resolver{
		timeout: cmp.Or(c.Timeout, 3*time.Second),
		tries:   cmp.Or(c.Tries, 2),
	}
	if r.timeout < 0 || r.tries < 0 {
		return nil, fmt.Errorf("resolver: timeout %s, tries %d: want no negative number", c.Timeout, c.Tries)
	}
	server, err := parseServer(c.Server)
	if c.Server == "" {
		server, err = firstNameserver(cmp.Or(c.ResolvConf, "/etc/resolv.conf"))
	}
	if err != nil {
		return nil, err
	}
	r.server = server.String()
	safe := c.TrustResolver || server.Addr().Unmap().IsLoopback()
	switch cmp.Or(c.DNSSEC, Auto) {
	case Auto:
		r.dnssec, r.believe = true, safe
	case On:
		if !safe {
			return nil, fmt.Errorf("resolver %s: dnssec %q needs a resolver on a loopback address, or trust_resolver", server, On)
		}
		r.dnssec, r.believe = true, true
	case Off:
	default:
		return nil, fmt.Errorf("dnssec %q: want auto, on or off", c.DNSSEC)
	}
	return r, nil
}

// Server returns the resolver that is asked, as "address:port".
func (r *Resolver) Server() string { return r.server }

// Believed reports whether an answer can be Secure at all: DNSSEC is asked for, and the path to the resolver is safe.
func (r *Resolver) Believed() bool { return r.believe }

// Status says what an answer is.
type Status string

// The statuses. A failure is none of them but an *Error.
const (
	OK           Status = "ok"
	NoData       Status = "no-data"        // the name exists and has no such record
	NoSuchDomain Status = "no-such-domain" // NXDOMAIN: the name does not exist
)

// Answer is what the DNS says of one name and type.
type Answer[T any] struct {
	// Records is empty unless Status is OK. With OK it is empty too when no record could be used; Detail says why.
	Records []T
	Status  Status
	// Secure means that a validating resolver vouches for every step from the name asked to the records, or to
	// their absence.
	Secure bool
	// TTL is the least over the alias chain and the records, or what RFC 2308 gives a negative answer; 0 when the
	// answer bears none.
	TTL time.Duration
	// Canonical is the name at the end of the alias chain, zero when the name asked is no alias.
	Canonical addr.Domain
	// Incomplete means that there may be more records than these: one address family failed, or a limit was met.
	Incomplete bool
	// Detail says, for a log, what was left out and why.
	Detail string
}

// MX is a mail exchanger. A Null one ("MX 0 .", RFC 7505) has no Host, nor has one
// whose name can't be looked up. Where the name is an address in digits, Host is
// that address.
type MX struct {
	Preference uint16
	Host       addr.Domain
	Null       bool
	// Malformed says why Host is no host name; MTAs differ about these.
	Malformed string
}

// Error says that an answer could not be had: nothing is known of the name.
type Error struct {
	Name, Type string // what was asked: "example.com", "MX"
	Rcode      string // "SERVFAIL" and the like, "" when no usable answer came
	Err        error  // the cause; with an Rcode, what RFC 8914 adds to it, or nil
}

func (e *Error) Error() string {
	s := e.Type + " of " + e.Name
	if e.Rcode != "" {
		s += ": " + e.Rcode
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Reason is policy.Timeout when the time ran out or the caller left, otherwise policy.DNSFailure.
func (e *Error) Reason() policy.Reason {
	var t interface{ Timeout() bool }
	if errors.Is(e.Err, context.Canceled) || errors.As(e.Err, &t) && t.Timeout() {
		return policy.Timeout
	}
	return policy.DNSFailure
}

// MX returns the mail exchangers of d, the most preferred first. A failure is an *Error.
func (r *Resolver) MX(ctx context.Context, d addr.Domain) (Answer[MX], error) {
	f, err := r.lookup(ctx, d, miekg.TypeMX)
	if err != nil {
		return Answer[MX]{}, err
	}
	a := answer[MX](f)
	var notes []string
	for _, rr := range f.records {
		rr := rr.(*miekg.MX)
		mx := MX{Preference: rr.Preference, Null: rr.Mx == "."}
		if !mx.Null {
			if mx.Host, err = addr.ParseHost(rr.Mx); err != nil {
				mx.Malformed = err.Error()
			} else if fault := malformed(mx.Host); fault != "" {
				mx.Malformed = fmt.Sprintf("host %q: %s", rr.Mx, fault)
			}
		}
		a.Records = append(a.Records, mx)
	}
	slices.SortStableFunc(a.Records, func(x, y MX) int { return cmp.Compare(x.Preference, y.Preference) })
	limit(&a, maxMX, &notes)
	a.Detail = strings.Join(notes, "; ")
	return a, nil
}

// malformed says why a name is no host name, as Postfix judges it, "" when it is.
func malformed(d addr.Domain) string {
	if d.IsLiteral() {
		return ""
	}
	digits := true
	for label := range strings.SplitSeq(d.String(), ".") {
		if strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-") {
			return "a label begins or ends with a hyphen"
		}
		digits = digits && strings.Trim(label, "0123456789_") == ""
	}
	if digits {
		return "all of it is digits, and it is no address"
	}
	return ""
}

// TLSA returns the TLSA records at name, "_25._tcp.mx.example.com". A failure is an *Error.
func (r *Resolver) TLSA(ctx context.Context, name addr.Domain) (Answer[policy.TLSA], error) {
	f, err := r.lookup(ctx, name, miekg.TypeTLSA)
	if err != nil {
		return Answer[policy.TLSA]{}, err
	}
	a := answer[policy.TLSA](f)
	for _, rr := range f.records {
		rr := rr.(*miekg.TLSA)
		data, err := hex.DecodeString(rr.Certificate)
		if err != nil {
			return Answer[policy.TLSA]{}, &Error{Name: name.String(), Type: "TLSA", Err: err}
		}
		a.Records = append(a.Records, policy.TLSA{Usage: rr.Usage, Selector: rr.Selector, Matching: rr.MatchingType, Data: data})
	}
	return a, nil
}

// SecureAlias reports whether name is an alias, and a validating resolver vouches for that: for its own record, whatever is at
// the end of the chain. A failure is an *Error.
func (r *Resolver) SecureAlias(ctx context.Context, name addr.Domain) (bool, error) {
	m, err := r.query(ctx, name.String()+".", miekg.TypeCNAME)
	if err == nil && m.Rcode == miekg.RcodeSuccess {
		return r.believe && m.AuthenticatedData && len(pick(m.Answer, name, miekg.TypeCNAME)) > 0, nil
	}
	failed := &Error{Name: name.String(), Type: "CNAME", Err: err}
	if err == nil {
		failed.Rcode, failed.Err = rcodeName(m.Rcode), extended(m)
	}
	return false, failed
}

// TXT returns the text records at name, the strings of each joined (RFC 8461, section 3.1). A failure is an *Error.
func (r *Resolver) TXT(ctx context.Context, name addr.Domain) (Answer[string], error) {
	f, err := r.lookup(ctx, name, miekg.TypeTXT)
	if err != nil {
		return Answer[string]{}, err
	}
	a := answer[string](f)
	for _, rr := range f.records {
		a.Records = append(a.Records, unescape(strings.Join(rr.(*miekg.TXT).Txt, "")))
	}
	return a, nil
}

// Addrs returns the addresses of host, IPv4 first; both families are asked at once. When one family fails and the
// other has addresses, these are the answer and it is Incomplete. A failure is an *Error.
func (r *Resolver) Addrs(ctx context.Context, host addr.Domain) (Answer[netip.Addr], error) {
	var (
		v4, v6     records
		err4, err6 error
		wg         sync.WaitGroup
	)
	wg.Go(func() { v6, err6 = r.lookup(ctx, host, miekg.TypeAAAA) })
	v4, err4 = r.lookup(ctx, host, miekg.TypeA)
	wg.Wait()

	switch {
	case err4 == nil && v4.status == OK && err6 == nil && v6.status == OK:
		a := answer[netip.Addr](v4)
		a.Secure = v4.secure && v6.secure
		a.TTL = min(v4.ttl, v6.ttl)
		return addrs(a, append(v4.records, v6.records...), nil), nil
	// RFC 4074, section 4.2: some name servers answer NXDOMAIN to AAAA for a name that has an A record. Addresses
	// that are there count for more than the other family's answer.
	case err4 == nil && v4.status == OK:
		return addrs(answer[netip.Addr](v4), v4.records, err6), nil
	case err6 == nil && v6.status == OK:
		return addrs(answer[netip.Addr](v6), v6.records, err4), nil
	// RFC 8020: a name that does not exist has no record of any type.
	case err4 == nil && v4.status == NoSuchDomain:
		return answer[netip.Addr](v4), nil
	case err6 == nil && v6.status == NoSuchDomain:
		return answer[netip.Addr](v6), nil
	case err4 != nil:
		return Answer[netip.Addr]{}, err4
	case err6 != nil:
		return Answer[netip.Addr]{}, err6
	}
	a := answer[netip.Addr](v4)
	a.Secure = v4.secure && v6.secure
	a.TTL = min(v4.ttl, v6.ttl)
	return a, nil
}

// addrs fills a with the addresses in records; missing is why the other family isn't there.
func addrs(a Answer[netip.Addr], records []miekg.RR, missing error) Answer[netip.Addr] {
	var notes []string
	if missing != nil {
		a.Incomplete = true
		notes = append(notes, missing.Error())
	}
	for _, rr := range records {
		var ip netip.Addr
		switch rr := rr.(type) {
		case *miekg.A:
			ip, _ = netip.AddrFromSlice(rr.A.To4())
		case *miekg.AAAA:
			ip, _ = netip.AddrFromSlice(rr.AAAA.To16())
		}
		if !slices.Contains(a.Records, ip) {
			a.Records = append(a.Records, ip)
		}
	}
	limit(&a, maxAddrs, &notes)
	a.Detail = strings.Join(notes, "; ")
	return a
}

func answer[T any](f records) Answer[T] {
	return Answer[T]{Status: f.status, Secure: f.secure, TTL: f.ttl, Canonical: f.canonical}
}

func limit[T any](a *Answer[T], n int, notes *[]string) {
	if len(a.Records) > n {
		*notes = append(*notes, fmt.Sprintf("%d of %d records used", n, len(a.Records)))
		a.Records, a.Incomplete = a.Records[:n], true
	}
}

// unescape undoes the presentation form in which miekg/dns keeps text: \" \\ and \DDD.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b = append(b, s[i])
			continue
		}
		i++
		if i+2 < len(s) && isDigit(s[i]) && isDigit(s[i+1]) && isDigit(s[i+2]) {
			b = append(b, (s[i]-'0')*100+(s[i+1]-'0')*10+(s[i+2]-'0'))
			i += 2
			continue
		}
		b = append(b, s[i])
	}
	return string(b)
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
