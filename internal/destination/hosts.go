package destination

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/destination/dns"
	"tlsonly/internal/policy"
	"tlsonly/internal/profile"
)

// loopPort is where an MTA looks for itself: at other ports another one listens.
const loopPort = 25

// mailHosts lists the hosts that take d's mail, in order, without having looked
// at them; or none and the answer. Which they are is up to the MTA that delivers.
func (a *Assessor) mailHosts(d addr.Destination, mta profile.MTA) ([]policy.Host, policy.Assessment) {
	answer := policy.Assessment{Destination: d}
	if d.Direct() {
		return []policy.Host{{Name: d.Host()}}, answer
	}
	mx, err := a.c.Resolver.MX(a.ctx, d.Host())
	if err != nil {
		answer.Problem, answer.Detail = reasonOf(err), err.Error()
		return nil, answer
	}
	answer.Secure, answer.Alias, answer.Detail = mx.Secure, mx.Canonical, mx.Detail
	answer.DNSUntil = a.c.Now().Add(max(mx.TTL, shortestTTL))
	switch mx.Status {
	case dns.NoSuchDomain:
		answer.Problem = policy.NoSuchDomain
		return nil, answer
	case dns.NoData:
		// RFC 5321, section 5.1: no MX record at all means the domain itself, with preference 0.
		return []policy.Host{{Name: d.Host(), Implicit: true}}, answer
	}
	var hosts []policy.Host
	null, malformed := false, ""
	seen := map[addr.Domain]bool{}
	for _, r := range mx.Records {
		switch {
		case r.Null:
			null = true
		case r.Host.IsZero(), r.Malformed != "" && (mta.Dialect != profile.Sendmail || startsWithHyphen(r.Host)):
			malformed = r.Malformed // Sendmail tries what the resolver of the C library looks up
		case seen[r.Host]:
		case len(hosts) < maxHosts:
			seen[r.Host] = true
			hosts = append(hosts, policy.Host{Name: r.Host, Preference: r.Preference})
		case len(hosts) == maxHosts: // one stands for all that come after it
			hosts = append(hosts, policy.Host{Name: r.Host, Preference: r.Preference, Problem: policy.Unreachable,
				Detail: fmt.Sprintf("not probed: it comes after %d others", maxHosts)})
		}
	}
	switch {
	case null && (len(hosts) == 0 || mta.Dialect == profile.Postfix):
		answer.Problem = policy.NullMX // to Postfix also beside others
	case null && mta.Dialect == profile.AnyDialect:
		answer.Problem, answer.Detail = policy.Unreachable, "a null MX beside other MX records: some MTAs deliver, some bounce"
	case len(hosts) > 0: // RFC 7505, section 3: a null MX beside others is a mistake; the others count
		return hosts, answer
	case malformed != "" && mta.Dialect != profile.AnyDialect:
		answer.Problem, answer.Detail = policy.NoMailHost, malformed
	default:
		answer.Problem = policy.Unreachable
		if answer.Detail == "" {
			answer.Detail = "no usable MX record"
		}
		if malformed != "" {
			answer.Detail = malformed
		}
	}
	return nil, answer
}

// startsWithHyphen reports whether a label of a name begins with a hyphen.
func startsWithHyphen(name addr.Domain) bool {
	return strings.HasPrefix(name.String(), "-") || strings.Contains(name.String(), ".-")
}

// resolve finds the addresses of a host, as the MTA does; false when there are
// none, which h says then.
func (a *Assessor) resolve(h *policy.Host, how profile.Hosts) ([]netip.Addr, bool) {
	if how.OnlyNative {
		return a.native(h)
	}
	found, err := a.c.Resolver.Addrs(a.ctx, h.Name)
	switch {
	case err != nil:
		h.Problem, h.Detail = reasonOf(err), err.Error()
		return nil, false
	case found.Status == dns.OK && len(found.Records) == 0:
		h.Problem, h.Detail = policy.Unreachable, found.Detail
		return nil, false
	}
	h.Secure, h.Alias, h.Detail = found.Secure, found.Canonical, found.Detail
	if found.Status == dns.OK {
		return slices.Clone(found.Records), true
	}
	// A name without address is as good as no name: no MTA can connect to it.
	h.Problem = policy.NoSuchDomain
	h.Detail = "no address record: " + string(found.Status)
	if how.Native {
		return a.native(h)
	}
	return nil, false
}

// native looks a host up as other programs here do. Nobody vouches for what it finds.
func (a *Assessor) native(h *policy.Host) ([]netip.Addr, bool) {
	ctx, cancel := context.WithTimeout(a.ctx, a.c.Timeout)
	defer cancel()
	ips, err := a.c.Native(ctx, h.Name.String())
	for i := range ips {
		ips[i] = ips[i].Unmap().WithZone("")
	}
	if err != nil || len(ips) == 0 {
		if h.Problem == "" {
			h.Problem, h.Detail = policy.NoSuchDomain, "this MTA looks it up in no DNS, and it was not found"
		}
		return nil, false
	}
	h.Problem, h.Detail, h.Secure = "", "", false
	return ips, true
}

// list is the hosts of a destination, in the MTA's order, as they get known.
type list struct {
	mta   profile.MTA
	hosts []policy.Host
	state []progress
	late  bool // the preferred hosts had time to greet
}

// greeting is how long a preferred host may take to greet before one that is not
// is good enough. What greets with the MTA's own name is the MTA itself, by an
// address that it doesn't know as its own: that takes no longer.
const greeting = 250 * time.Millisecond

type progress int

const (
	listed   progress = iota
	resolved          // its addresses are known, or that it has none
	probed
)

func newList(mta profile.MTA, hosts []policy.Host, port uint16) *list {
	l := &list{mta: mta, hosts: slices.Clone(hosts), state: make([]progress, len(hosts))}
	for i := range l.hosts {
		h := &l.hosts[i]
		if port == loopPort && mta.Hosts.Is(h.Name) {
			h.Problem, h.Detail = policy.Loop, "it is a name of this MTA"
		}
		if h.Problem != "" {
			l.state[i] = probed
		}
	}
	return l
}

func (l *list) isProbed(i int) bool { return l.state[i] == probed }

// left is how many hosts are to be looked at.
func (l *list) left() (n int) {
	for i := range l.hosts {
		if !l.isProbed(i) {
			n++
		}
	}
	return n
}

// set takes over what is known of host i.
func (l *list) set(i int, h policy.Host, done bool) {
	switch {
	case done:
		l.state[i] = probed
	case l.state[i] < resolved:
		l.state[i] = resolved
	default:
		return
	}
	h.Preference, h.Implicit = l.hosts[i].Preference, l.hosts[i].Implicit
	l.hosts[i] = h
}

// tried returns the hosts with what is known of them as the MTA gets to them:
// none that is as far as the MTA itself, none beyond its limit of addresses. What
// is seen of a host isn't told before it is known what those are that come no
// later.
func (l *list) tried() []policy.Host {
	hosts := slices.Clone(l.hosts)
	addresses := 0 // of hosts that are preferred
	for from := 0; from < len(hosts); {
		to := from
		for to < len(hosts) && hosts[to].Preference == hosts[from].Preference {
			to++
		}
		group := hosts[from:to]
		unresolved := slices.ContainsFunc(l.state[from:to], func(s progress) bool { return s == listed })
		itself := slices.ContainsFunc(group, l.ends)
		beyond := l.mta.Hosts.Limit > 0 && addresses >= l.mta.Hosts.Limit
		ungreeted := from == 0 && !l.late && slices.ContainsFunc(l.state[from:to], func(s progress) bool { return s != probed })
		for _, h := range group {
			addresses += h.Addresses
		}
		switch {
		case unresolved:
			for i := from; i < len(hosts); i++ {
				hosts[i].Observations = nil
			}
			return hosts
		case itself:
			leave(hosts[from:], "this MTA is a mail host itself, and none that is not preferred to it is tried")
			return hosts
		case beyond:
			leave(hosts[from:], fmt.Sprintf("this MTA tries %d addresses of a destination, and those before are as many", l.mta.Hosts.Limit))
			return hosts
		case from == 0 && l.mta.Dialect != profile.Sendmail && slices.ContainsFunc(group, l.greetsAsUs):
			for i := range group {
				if l.greetsAsUs(group[i]) {
					group[i].Problem, group[i].Detail = policy.Loop, greetsAsUs
				}
			}
			leave(hosts, "a mail host is this MTA itself, by an address that it doesn't know as its own")
			return hosts
		}
		for i := range group {
			if l.greetsAsUs(group[i]) {
				group[i].Problem, group[i].Detail = policy.Loop, greetsAsUs
			}
		}
		from = to
		if ungreeted {
			for i := from; i < len(hosts); i++ {
				hosts[i].Observations = nil
			}
			return hosts
		}
	}
	return hosts
}

// ends reports whether a host ends the list, because it is the MTA itself.
// Sendmail knows itself by name only: what has an address of its own is to it one
// more host, which it finds to be itself when it greets.
func (l *list) ends(h policy.Host) bool {
	return h.Problem == policy.Loop && (l.mta.Dialect != profile.Sendmail || l.mta.Hosts.Is(h.Name))
}

const greetsAsUs = "it greets with this MTA's own name"

// greetsAsUs reports whether a host answers EHLO with the name that the MTA has;
// what stands in its banner doesn't count.
func (l *list) greetsAsUs(h policy.Host) bool {
	return !l.mta.Hosts.Name.IsZero() && slices.ContainsFunc(h.Observations, func(o policy.Observation) bool {
		return strings.EqualFold(o.HELO, l.mta.Hosts.Name.String()) && o.Address.Port() == loopPort
	})
}

// leave marks hosts as those that the MTA doesn't try.
func leave(hosts []policy.Host, why string) {
	for i := range hosts {
		if h := &hosts[i]; h.Problem != policy.Loop && h.Problem != policy.NoSuchDomain {
			h.Problem, h.Detail, h.Observations, h.Earlier = policy.NotTried, why, nil, nil
		}
	}
}

// judge says what becomes of mail where the MTA itself is all that is left of the
// list: it bounces, but Postfix keeps trying where preferred hosts have no
// address now.
func (l *list) judge(a *policy.Assessment) {
	first := slices.IndexFunc(a.Hosts, func(h policy.Host) bool { return h.Problem == policy.Loop })
	if first <= 0 || l.mta.Dialect != profile.Postfix || a.Hosts[first].Preference == a.Hosts[0].Preference {
		return
	}
	for _, h := range a.Hosts[:first] {
		if h.Problem != policy.NoSuchDomain {
			return
		}
	}
	a.Problem, a.Detail = policy.Unreachable, "the preferred mail hosts have no address, and the next one is this MTA itself"
}
