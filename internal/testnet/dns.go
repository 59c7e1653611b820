package testnet

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// DNS is a name server that behaves like a recursive resolver over the zones it was given: it follows aliases,
// knows wildcards and empty non-terminals (RFC 4592), and gives negative answers with an SOA (RFC 2308). Names
// outside its zones don't exist.
//
// It signs nothing. SetSecure makes it a stand-in for a validating resolver, and SetFault for a broken one.
type DNS struct {
	addr    string
	servers []*dns.Server
	serving sync.WaitGroup
	closing chan struct{}
	close   func() error

	mu      sync.Mutex
	zones   dnsZones
	secure  []string
	faults  map[dnsQuery]DNSFault
	delays  map[dnsQuery]time.Duration
	queries map[dnsQuery]int
}

// dnsQuery is a name, lower case with a final dot, and a type. For faults "" means every name, and 0 every type.
type dnsQuery struct {
	name  string
	qtype uint16
}

// DNSFault is one way for a name server to fail.
type DNSFault string

// The faults. Slowness is no fault but a delay, see SetDelay.
const (
	DNSServFail       DNSFault = "servfail"
	DNSRefused        DNSFault = "refused"
	DNSFormErr        DNSFault = "formerr"
	DNSNXDomain       DNSFault = "nxdomain"        // the name is denied, whatever the zones say
	DNSDrop           DNSFault = "drop"            // no answer, ever
	DNSTruncateUDP    DNSFault = "truncate-udp"    // TC and nothing else over UDP, the full answer over TCP
	DNSTruncateAlways DNSFault = "truncate-always" // TC over TCP too
	DNSCNAMELoop      DNSFault = "cname-loop"      // an alias that leads back to itself over another one
	DNSNoFollow       DNSFault = "no-follow"       // an alias is answered without its target
	DNSWrongID        DNSFault = "wrong-id"        // the answer bears another ID
	DNSWrongQuestion  DNSFault = "wrong-question"  // the answer repeats another question
	DNSGarbage        DNSFault = "garbage"         // the right ID, then octets that are no message
	DNSInsecure       DNSFault = "insecure"        // the true answer, without AD
	DNSShort          DNSFault = "short"           // a message that announces records and ends before them
)

// StartDNS starts a server on the UDP and the TCP port of listen; port 0 finds one that is free for both. text
// holds the zones in master file format (RFC 1035, section 5) with $ORIGIN lines or absolute names; one text can
// hold many zones, and SOA and NS records may be left out.
func StartDNS(listen, text string) (*DNS, error) {
	z, err := parseDNSZones(text)
	if err != nil {
		return nil, err
	}
	packets, stream, err := listenDNS(listen)
	if err != nil {
		return nil, fmt.Errorf("name server: %w", err)
	}
	d := &DNS{addr: packets.LocalAddr().String(), closing: make(chan struct{}), zones: z,
		queries: make(map[dnsQuery]int), delays: make(map[dnsQuery]time.Duration)}
	d.close = sync.OnceValue(d.shutdown)
	d.ClearFaults()
	for _, s := range []*dns.Server{{PacketConn: packets}, {Listener: stream}} {
		if err := d.serve(s); err != nil {
			return nil, errors.Join(fmt.Errorf("name server: %w", err), packets.Close(), stream.Close(), d.Close())
		}
	}
	return d, nil
}

// listenDNS listens on one port with UDP and TCP.
func listenDNS(listen string) (net.PacketConn, net.Listener, error) {
	const tries = 20 // a port that is free for TCP may be taken for UDP
	var errs error
	for range tries {
		stream, err := net.Listen("tcp", listen)
		if err != nil {
			return nil, nil, err
		}
		packets, err := net.ListenPacket("udp", stream.Addr().String())
		if err == nil {
			return packets, stream, nil
		}
		errs = err
		if err := stream.Close(); err != nil {
			return nil, nil, err
		}
	}
	return nil, nil, errs
}

// serve starts s and returns once it can be shut down.
func (d *DNS) serve(s *dns.Server) error {
	started, ended := make(chan struct{}), make(chan error, 1)
	s.Handler = dns.HandlerFunc(d.answer)
	s.NotifyStartedFunc = func() { close(started) }
	d.serving.Go(func() { ended <- s.ActivateAndServe() })
	select {
	case err := <-ended:
		return err
	case <-started:
		d.servers = append(d.servers, s)
		return nil
	}
}

// Addr returns "127.0.0.1:port".
func (d *DNS) Addr() string { return d.addr }

// Close ends the server and everything it started. A second Close does nothing.
func (d *DNS) Close() error { return d.close() }

func (d *DNS) shutdown() error {
	close(d.closing)
	var errs []error
	for _, s := range d.servers {
		errs = append(errs, s.Shutdown())
	}
	d.serving.Wait()
	return errors.Join(errs...)
}

// SetZones replaces all zones at once. On an error the old ones stay.
func (d *DNS) SetZones(text string) error {
	z, err := parseDNSZones(text)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.zones = z
	return nil
}

// SetSecure makes the server say of all names at or below the domains, and of no others, that they are validated:
// answers all of whose names are there carry AD when the query asked for it with DO or AD (RFC 6840, section 5.8).
// "." is every name.
func (d *DNS) SetSecure(domains ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.secure = nil
	for _, domain := range domains {
		d.secure = append(d.secure, dns.CanonicalName(domain))
	}
}

// SetFault makes the server fail when name and qtype are asked. The name "" is every name, the type 0 every type;
// the most exact fault set counts, the name before the type. It replaces an earlier fault for the same name and type.
func (d *DNS) SetFault(name string, qtype uint16, f DNSFault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults[dnsKey(name, qtype)] = f
}

// SetDelay makes the server answer late when name and qtype are asked, as in SetFault; a fault comes late too.
func (d *DNS) SetDelay(name string, qtype uint16, delay time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.delays[dnsKey(name, qtype)] = delay
}

// ClearFaults takes all faults and delays away.
func (d *DNS) ClearFaults() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults = make(map[dnsQuery]DNSFault)
	d.delays = make(map[dnsQuery]time.Duration)
}

// Queries returns how often name and qtype were asked, over UDP and TCP together; "" and 0 as in SetFault.
func (d *DNS) Queries(name string, qtype uint16) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return countQueries(d.queries, dnsKey(name, qtype))
}

// countQueries counts those that want covers.
func countQueries(queries map[dnsQuery]int, want dnsQuery) int {
	n := 0
	for q, count := range queries {
		if (want.name == "" || want.name == q.name) && (want.qtype == 0 || want.qtype == q.qtype) {
			n += count
		}
	}
	return n
}

func dnsKey(name string, qtype uint16) dnsQuery {
	if name != "" {
		name = dns.CanonicalName(name)
	}
	return dnsQuery{name, qtype}
}

// mostExact returns the value for q in m, or for the widest question that covers it.
func mostExact[T any](m map[dnsQuery]T, q dnsQuery) T {
	for _, k := range []dnsQuery{q, {q.name, 0}, {"", q.qtype}} {
		if v, ok := m[k]; ok {
			return v
		}
	}
	return m[dnsQuery{}]
}

func (d *DNS) answer(w dns.ResponseWriter, req *dns.Msg) {
	if len(req.Question) != 1 {
		return
	}
	q := dnsKey(req.Question[0].Name, req.Question[0].Qtype)
	d.mu.Lock()
	d.queries[q]++
	fault, delay := mostExact(d.faults, q), mostExact(d.delays, q)
	zones, secure := d.zones, d.secure
	d.mu.Unlock()

	if delay > 0 {
		late := time.NewTimer(delay)
		defer late.Stop()
		select {
		case <-late.C:
		case <-d.closing:
			return
		}
	}
	if fault == DNSDrop {
		return
	}
	overTCP := w.LocalAddr().Network() == "tcp"
	m := new(dns.Msg).SetReply(req)
	m.RecursionAvailable = true
	opt := req.IsEdns0()
	if opt != nil {
		m.SetEdns0(dns.DefaultMsgSize, opt.Do())
	}
	names := zones.fill(m, fault)
	if req.AuthenticatedData || opt != nil && opt.Do() {
		m.AuthenticatedData = !slices.ContainsFunc(names, func(n string) bool { return !dnsUnder(n, secure) })
	}
	if !overTCP {
		size := dns.MinMsgSize
		if opt != nil {
			size = max(size, int(opt.UDPSize()))
		}
		m.Truncate(size)
	}
	dnsSend(w, m, fault, overTCP)
}

func dnsUnder(name string, domains []string) bool {
	return slices.ContainsFunc(domains, func(d string) bool { return dns.IsSubDomain(d, name) })
}

// dnsSend writes m, or what the fault makes of it.
func dnsSend(w dns.ResponseWriter, m *dns.Msg, fault DNSFault, overTCP bool) {
	switch fault {
	case DNSServFail:
		m.Rcode, m.Answer, m.Ns, m.AuthenticatedData = dns.RcodeServerFailure, nil, nil, false
	case DNSRefused:
		m.Rcode, m.Answer, m.Ns, m.AuthenticatedData = dns.RcodeRefused, nil, nil, false
	case DNSFormErr:
		m.Rcode, m.Answer, m.Ns, m.Extra, m.AuthenticatedData = dns.RcodeFormatError, nil, nil, nil, false
	case DNSTruncateUDP, DNSTruncateAlways:
		if !overTCP || fault == DNSTruncateAlways {
			m.Truncated, m.Answer, m.Ns = true, nil, nil
		}
	case DNSInsecure:
		m.AuthenticatedData = false
	case DNSWrongID:
		m.Id = ^m.Id
	case DNSWrongQuestion:
		m.Question[0].Name = "other." + m.Question[0].Name
	}
	p, err := m.Pack()
	if err != nil {
		p = nil // nothing that can be said: as if dropped
	}
	const header = 12
	switch {
	case p == nil:
		return
	case fault == DNSGarbage:
		p = append(p[:header:header], "\xff\xfe this is no message"...)
	case fault == DNSShort:
		// The header and the question stay; ten answers are announced.
		var questionOnly dns.Msg
		questionOnly.MsgHdr, questionOnly.Question = m.MsgHdr, m.Question
		if p, err = questionOnly.Pack(); err != nil {
			return
		}
		p[6], p[7] = 0, 10
	}
	_, _ = w.Write(p) // a client that went away is no concern of the server
}
