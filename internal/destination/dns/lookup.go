package dns

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	miekg "github.com/miekg/dns"

	"tlsonly/internal/addr"
)

// maxHops is how many aliases are followed; Postfix and the common resolvers stop between 8 and 16.
const maxHops = 8

var (
	errNotName   = errors.New("not a domain name")
	errLoop      = errors.New("alias loop")
	errLongChain = fmt.Errorf("more than %d aliases", maxHops)
	errReferral  = errors.New("the resolver only refers to other servers, it does not resolve")
)

// records is the answer to one name and type, its records not yet read. All
// records are of the type asked.
type records struct {
	records   []miekg.RR
	status    Status
	secure    bool
	ttl       time.Duration
	canonical addr.Domain
}

// lookup finds the records of the type asked at name or at the end of its alias chain. A failure is an *Error.
func (r *Resolver) lookup(ctx context.Context, name addr.Domain, qtype uint16) (records, error) {
	fail := func(rcode string, err error) (records, error) {
		return records{}, &Error{Name: name.String(), Type: miekg.TypeToString[qtype], Rcode: rcode, Err: err}
	}
	if name.IsZero() || name.IsLiteral() {
		return fail("", errNotName)
	}
	f := records{secure: r.believe, ttl: maxTTL}
	chain := []addr.Domain{name}
	for {
		at := chain[len(chain)-1]
		m, err := r.query(ctx, at.String()+".", qtype)
		if err != nil {
			return fail("", err)
		}
		if m.Rcode != miekg.RcodeSuccess && m.Rcode != miekg.RcodeNameError {
			return fail(rcodeName(m.Rcode), extended(m))
		}
		// Every hop that is asked for by itself must be secure by itself.
		f.secure = f.secure && m.AuthenticatedData
		asked := at
		for hop := at; !hop.IsZero(); {
			at = hop
			if hop, err = f.alias(m, at); err != nil {
				return fail("", err)
			}
			switch {
			case hop.IsZero():
			case slices.Contains(chain, hop):
				return fail("", errLoop)
			case len(chain) > maxHops:
				return fail("", errLongChain)
			default:
				chain = append(chain, hop)
				f.canonical = hop
			}
		}
		f.records = pick(m.Answer, at, qtype)
		switch {
		// RFC 6604, section 3: the code is about the end of the chain.
		case m.Rcode == miekg.RcodeNameError:
			f.records, f.status = nil, NoSuchDomain
			f.ttl = min(f.ttl, negativeTTL(m, at))
			return f, nil
		case len(f.records) > 0:
			f.status = OK
			for _, rr := range f.records {
				f.ttl = min(f.ttl, ttl(rr.Header().Ttl))
				if rr.Header().Rdlength == 0 {
					return fail("", errMalformed)
				}
			}
			return f, nil
		case at != asked:
			continue // the resolver gave the alias and not its target: ask for that
		case isReferral(m):
			return fail("", errReferral)
		}
		f.status = NoData
		f.ttl = min(f.ttl, negativeTTL(m, at))
		return f, nil
	}
}

// alias returns what name is an alias for in m, zero when it isn't one.
func (f *records) alias(m *miekg.Msg, name addr.Domain) (addr.Domain, error) {
	rrs := pick(m.Answer, name, miekg.TypeCNAME)
	if len(rrs) == 0 {
		return addr.Domain{}, nil
	}
	cname := rrs[0].(*miekg.CNAME)
	target, err := addr.ParseDomain(cname.Target)
	if err != nil {
		return addr.Domain{}, fmt.Errorf("alias of %s: %w", name, err)
	}
	f.ttl = min(f.ttl, ttl(cname.Hdr.Ttl))
	return target, nil
}

// pick returns the records at name that are of the type; what else an answer section brings is nobody's question.
func pick(rrs []miekg.RR, name addr.Domain, rrtype uint16) []miekg.RR {
	var out []miekg.RR
	for _, rr := range rrs {
		h := rr.Header()
		if h.Rrtype == rrtype && h.Class == miekg.ClassINET && strings.EqualFold(h.Name, name.String()+".") {
			out = append(out, rr)
		}
	}
	return out
}

const maxTTL = (1<<31 - 1) * time.Second

// ttl reads a TTL. RFC 2181, section 8: one with the highest bit set counts as 0.
func ttl(seconds uint32) time.Duration {
	if seconds > 1<<31-1 {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

// negativeTTL is RFC 2308, section 5: the least of the SOA's TTL and its MINIMUM field; without an SOA the answer
// isn't to be kept.
func negativeTTL(m *miekg.Msg, name addr.Domain) time.Duration {
	for _, rr := range m.Ns {
		if soa, ok := rr.(*miekg.SOA); ok && miekg.IsSubDomain(soa.Hdr.Name, name.String()+".") {
			return min(ttl(soa.Hdr.Ttl), ttl(soa.Minttl))
		}
	}
	return 0
}

// isReferral tells an empty answer that means "ask elsewhere" from one that means "no data" (RFC 2308, section
// 2.2): taken for the latter, a server that doesn't resolve would make every TLSA record vanish.
func isReferral(m *miekg.Msg) bool {
	if m.Authoritative || m.RecursionAvailable {
		return false
	}
	isNS := func(rr miekg.RR) bool { return rr.Header().Rrtype == miekg.TypeNS }
	isSOA := func(rr miekg.RR) bool { return rr.Header().Rrtype == miekg.TypeSOA }
	return slices.ContainsFunc(m.Ns, isNS) && !slices.ContainsFunc(m.Ns, isSOA)
}

func rcodeName(rcode int) string {
	if rcode == miekg.RcodeBadVers { // RFC 6891, section 9; the library's table has the TSIG error of the same number
		return "BADVERS"
	}
	if s, ok := miekg.RcodeToString[rcode]; ok {
		return s
	}
	return fmt.Sprintf("RCODE%d", rcode)
}

// extended returns what the resolver says of its failure (RFC 8914), nil when it doesn't.
func extended(m *miekg.Msg) error {
	opt := m.IsEdns0()
	if opt == nil {
		return nil
	}
	for _, o := range opt.Option {
		if ede, ok := o.(*miekg.EDNS0_EDE); ok {
			text := fmt.Sprintf("extended error %d", ede.InfoCode)
			if s, ok := miekg.ExtendedErrorCodeToString[ede.InfoCode]; ok {
				text = s
			}
			if ede.ExtraText != "" {
				text += fmt.Sprintf(" (%q)", ede.ExtraText)
			}
			return errors.New(text)
		}
	}
	return nil
}
