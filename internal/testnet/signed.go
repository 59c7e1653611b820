package testnet

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/miekg/dns"
)

// Signed is a name server for zones that are really signed (RFC 4033, 4034, 4035; RFC 5155 for NSEC3), with keys made at
// its start: what a validating resolver needs behind it to tell secure, insecure and bogus apart. It serves a whole
// tree from the root down, so that the root's key is the one trust anchor; a zone nothing was said of is delegated by
// its closest parent. A signed zone's parent has its DS, and proves that an unsigned one has none.
//
// It is what a forwarder asks: every question goes to the zone that has the answer, there are no referrals, and an
// alias is answered without its target, which the resolver asks for next. rig.StartUnbound is made for it.
//
// SECURITY: signatures are made when asked for and never checked; keys exist in memory only.
type Signed struct {
	addr    string
	servers []*dns.Server
	serving sync.WaitGroup
	close   func() error

	mu      sync.Mutex
	sources map[string]*signedSource
	zones   map[string]*signedZone // of sources; replaced as a whole, never changed
	faults  map[dnsQuery]DNSFault
	queries map[dnsQuery]int
}

// SignedZone is one zone of a Signed server.
type SignedZone struct {
	Name string // "good.example"; "." is the root
	// Text holds the records in master file format (RFC 1035, section 5), relative to Name. SOA and NS of the zone may be
	// left out; keys, DS, signatures, denials and the delegation of the server's other zones are made.
	Text     string
	Unsigned bool     // no key; the parent proves that there is no DS
	NSEC3    bool     // absence is proven with NSEC3 in place of NSEC
	Fault    DNSFault // of every answer from the zone for which SetFault says nothing
}

// The faults that only a Signed server has; they make an answer bogus. Of the others it knows those that concern the whole
// message, from DNSServFail to DNSTruncateAlways and from DNSWrongID on, without DNSInsecure.
const (
	DNSExpired     DNSFault = "expired"      // signatures that ended a month ago
	DNSWrongKey    DNSFault = "wrong-key"    // signatures by another key under the tag of the right one
	DNSStripped    DNSFault = "stripped"     // no signatures
	DNSNoDenial    DNSFault = "no-denial"    // absence is stated and not proven
	DNSWrongDenial DNSFault = "wrong-denial" // the proof, well signed, is of something else
	DNSWrongDS     DNSFault = "wrong-ds"     // only of a zone: its parent has another key's DS
)

// StartSigned starts a server on the UDP and the TCP port of listen, as StartDNS does. A root that isn't among the zones is
// made and signed.
func StartSigned(listen string, zones []SignedZone) (*Signed, error) {
	s := &Signed{sources: make(map[string]*signedSource), queries: make(map[dnsQuery]int)}
	s.close = sync.OnceValue(s.shutdown)
	s.ClearFaults()
	sources := make(map[string]*signedSource)
	for _, z := range zones {
		if _, twice := sources[dns.CanonicalName(z.Name)]; twice {
			return nil, fmt.Errorf("zone %s: given twice", z.Name)
		}
		if err := addSource(sources, z); err != nil {
			return nil, err
		}
	}
	if sources["."] == nil {
		if err := addSource(sources, SignedZone{Name: "."}); err != nil {
			return nil, err
		}
	}
	if err := s.serveZones(sources); err != nil {
		return nil, err
	}
	packets, stream, err := listenDNS(listen)
	if err != nil {
		return nil, fmt.Errorf("name server: %w", err)
	}
	s.addr = packets.LocalAddr().String()
	for _, server := range []*dns.Server{{PacketConn: packets}, {Listener: stream}} {
		if err := s.serve(server); err != nil {
			return nil, errors.Join(fmt.Errorf("name server: %w", err), packets.Close(), stream.Close(), s.Close())
		}
	}
	return s, nil
}

// serve starts server and returns once it can be shut down.
func (s *Signed) serve(server *dns.Server) error {
	started, ended := make(chan struct{}), make(chan error, 1)
	server.Handler = dns.HandlerFunc(s.answer)
	server.NotifyStartedFunc = func() { close(started) }
	s.serving.Go(func() { ended <- server.ActivateAndServe() })
	select {
	case err := <-ended:
		return err
	case <-started:
		s.servers = append(s.servers, server)
		return nil
	}
}

// Addr returns "127.0.0.1:port".
func (s *Signed) Addr() string { return s.addr }

// Close ends the server and everything it started. A second Close does nothing.
func (s *Signed) Close() error { return s.close() }

func (s *Signed) shutdown() error {
	var errs []error
	for _, server := range s.servers {
		errs = append(errs, server.Shutdown())
	}
	s.serving.Wait()
	return errors.Join(errs...)
}

// Anchor returns the trust anchor, the root's DS as a master-file line; "" when the root is unsigned.
func (s *Signed) Anchor() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	root := s.sources["."]
	if root.Unsigned {
		return ""
	}
	return root.key.public.ToDS(dns.SHA256).String()
}

// SetZone adds a zone or replaces it, records and all; its key stays. On an error nothing changes. A resolver may keep
// what it knew.
func (s *Signed) SetZone(z SignedZone) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	sources := maps.Clone(s.sources)
	if err := addSource(sources, z); err != nil {
		return err
	}
	return s.serveZones(sources)
}

// SetRecords makes the data ("3 1 1 …", each a line's end) all the records of name and qtype; none takes them away. The
// zone is the closest one that is served. On an error nothing changes.
func (s *Signed) SetRecords(name string, qtype uint16, data ...string) error {
	name = dns.CanonicalName(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	source := *s.sources[closestZone(s.sources, name)]
	source.records = slices.DeleteFunc(slices.Clone(source.records), func(rr dns.RR) bool {
		return rr.Header().Rrtype == qtype && dns.CanonicalName(rr.Header().Name) == name
	})
	for _, d := range data {
		rr, err := dns.NewRR(fmt.Sprintf("%s %d IN %s %s", name, dnsTTL, dns.TypeToString[qtype], d))
		if err != nil {
			return fmt.Errorf("records of %s: %w", name, err)
		}
		source.records = append(source.records, rr)
	}
	sources := maps.Clone(s.sources)
	sources[source.Name] = &source
	return s.serveZones(sources)
}

// serveZones makes the zones that sources describe and serves them from now on; s.mu is the caller's.
func (s *Signed) serveZones(sources map[string]*signedSource) error {
	zones, err := signedZones(sources)
	if err != nil {
		return err
	}
	s.sources, s.zones = sources, zones
	return nil
}

// SetFault makes the server fail when name and qtype are asked; "", 0 and the order are those of DNS.SetFault.
func (s *Signed) SetFault(name string, qtype uint16, f DNSFault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[dnsKey(name, qtype)] = f
}

// ClearFaults takes the faults away that SetFault set. A zone's own stays.
func (s *Signed) ClearFaults() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = make(map[dnsQuery]DNSFault)
}

// Queries returns how often name and qtype were asked, over UDP and TCP together; "" and 0 as in SetFault.
func (s *Signed) Queries(name string, qtype uint16) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return countQueries(s.queries, dnsKey(name, qtype))
}

func (s *Signed) answer(w dns.ResponseWriter, req *dns.Msg) {
	if len(req.Question) != 1 {
		return
	}
	q := dnsKey(req.Question[0].Name, req.Question[0].Qtype)
	s.mu.Lock()
	s.queries[q]++
	fault, zones := mostExact(s.faults, q), s.zones
	s.mu.Unlock()

	at := q.name
	// RFC 4035, section 3.1.4.1: the DS of a zone is its parent's.
	if q.qtype == dns.TypeDS && at != "." && zones[at] != nil {
		at = dnsParent(at)
	}
	zone := zones[closestZone(zones, at)]
	if fault = cmp.Or(fault, zone.Fault); fault == DNSDrop {
		return
	}
	m := new(dns.Msg).SetReply(req)
	m.Authoritative, m.RecursionAvailable = true, true
	size, opt := dns.MinMsgSize, req.IsEdns0()
	if opt != nil {
		size = max(size, int(opt.UDPSize()))
		m.SetEdns0(dns.DefaultMsgSize, opt.Do())
	}
	r := signedReply{zone: zone, fault: fault, do: opt != nil && opt.Do()}
	if err := r.fill(m, q); err != nil {
		fault = DNSServFail
	}
	overTCP := w.LocalAddr().Network() == "tcp"
	if !overTCP {
		m.Truncate(size)
	}
	dnsSend(w, m, fault, overTCP)
}
