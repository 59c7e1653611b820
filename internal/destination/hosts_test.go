package destination

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"tlsonly/internal/addr"
	"tlsonly/internal/destination/dns"
	"tlsonly/internal/destination/starttls"
	"tlsonly/internal/judge"
	"tlsonly/internal/policy"
	"tlsonly/internal/profile"
)

// greeting hosts are good, plain at 192.0.2.1, down at 192.0.2.3, and greet with
// the MTA's own name at 192.0.2.9.
type greeters struct{}

func (greeters) Probe(_ context.Context, t starttls.Target) policy.Observation {
	o := policy.Observation{Address: t.Address, Outcome: policy.SawTLS, Version: policy.TLS13, Bits: 256, Stage: policy.StageQuit,
		Trust: policy.Trusted, HELO: "mx.test"}
	switch t.Address.Addr().String() {
	case "192.0.2.1":
		o = policy.Observation{Address: t.Address, Outcome: policy.SawNoSTARTTLS, Stage: policy.StageEHLO}
	case "192.0.2.3":
		o = policy.Observation{Address: t.Address, Outcome: policy.SawUnreachable, Stage: policy.StageConnect}
	case "192.0.2.9":
		o.HELO = "MTA.test"
	}
	return o
}

// mxList makes an MX answer: "." is null, "!x" malformed, "=x" has the preference
// of the one before.
func mxList(names string) dns.Answer[dns.MX] {
	a := dns.Answer[dns.MX]{Status: dns.OK}
	for name := range strings.FieldsSeq(names) {
		r := dns.MX{Preference: uint16(10 * (len(a.Records) + 1))}
		if rest, ok := strings.CutPrefix(name, "="); ok {
			name, r.Preference = rest, a.Records[len(a.Records)-1].Preference
		}
		switch rest, bad := strings.CutPrefix(name, "!"); {
		case name == ".":
			r.Null = true
		case bad:
			r.Malformed = "malformed"
			r.Host, _ = addr.ParseHost(rest)
		default:
			r.Host, _ = addr.ParseHost(name)
		}
		a.Records = append(a.Records, r)
	}
	return a
}

// TestListOfTheMTA: which hosts count is up to the MTA. The rows were seen with
// Postfix 3.7 and Sendmail 8.17.
func TestListOfTheMTA(t *testing.T) {
	own := profile.Hosts{Name: addr.MustDomain("mta.test"), Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.100")}, No6: true}
	postfix, sendmail, unknown := profile.MTA{Dialect: profile.Postfix, Hosts: own}, profile.MTA{Dialect: profile.Sendmail, Hosts: own}, profile.MTA{}
	sendmail.Hosts.Names = []addr.Domain{addr.MustDomain("mta.test"), addr.MustDomain("localhost")}
	limited := postfix
	limited.Hosts.Limit = 2
	addrs := map[string]dns.Answer[netip.Addr]{
		"good": ips("192.0.2.2"), "plain": ips("192.0.2.1"), "dead": ips("192.0.2.3"), "self": ips("192.0.2.100"), "greeter": ips("192.0.2.9"),
		"mta.test": ips("192.0.2.100"), "localhost": ips("192.0.2.100"), "six": ips("2001:db8::1"), "both": ips("192.0.2.100", "192.0.2.2"),
		"plaingood": ips("192.0.2.1", "192.0.2.2"), "deadgood": ips("192.0.2.3", "192.0.2.2"), "goodplain": ips("192.0.2.2", "192.0.2.1"),
		"mx-.x": ips("192.0.2.2"), "-mx.x": ips("192.0.2.2"),
	}
	const loop, none, plain, null, away = policy.Loop, policy.NoMailHost, policy.NoSTARTTLS, policy.NullMX, policy.Unreachable
	for _, c := range []struct {
		mx                         string
		postfix, sendmail, unknown policy.Reason
	}{
		{"good", "", "", ""},
		{"192.0.2.2.", "", "", ""},
		{"192.0.2.1.", plain, plain, plain},
		{"plain 192.0.2.2.", "", "", ""},
		{"192.0.2.100.", loop, loop, ""},
		{"self", loop, loop, ""},
		{"self good", loop, "", ""},
		{"good self", "", "", ""},
		{"plain self", plain, plain, ""},
		{"plain self good", plain, "", ""},
		{"self =good", loop, "", ""},
		{"good =self", loop, "", ""},
		{"missing self", away, loop, ""},
		{"missing self good", away, "", ""},
		{"both", loop, away, ""},
		{"mta.test good", loop, loop, ""},
		{"localhost good", loop, loop, ""},
		{"good localhost", "", "", ""},
		{"plain localhost good", plain, plain, ""},
		{"greeter", loop, loop, ""},
		{"greeter good", loop, "", ""},
		{"plain greeter", plain, plain, ""},
		{"plain greeter good", "", "", ""},
		{". good", null, "", away},
		{"good .", null, "", away},
		{".", null, null, null},
		{"!mx-.x", none, "", away},
		{"!-mx.x", none, none, away},
		{"!mx-.x good", "", "", ""},
		{"!-mx.x plain", plain, plain, plain},
		{"missing", none, none, none},
		{"missing plain", plain, plain, plain},
		{"six", none, none, ""},
		{"six good", "", "", ""},
		{"plaingood", "", plain, ""},
		{"goodplain", "", "", ""},
		{"deadgood", "", "", ""},
	} {
		d := &fakeDNS{mx: map[string]dns.Answer[dns.MX]{"x.test": mxList(c.mx)}, addrs: addrs}
		for _, of := range []struct {
			mta  profile.MTA
			want policy.Reason
		}{{postfix, c.postfix}, {sendmail, c.sendmail}, {unknown, c.unknown}} {
			a := newListTest(t, d, of.mta)
			got := a.Assess(t.Context(), addr.MustDestination("x.test"), nil)
			if reason := judge.Destination(policy.DefaultDemand(), got); reason != of.want {
				t.Errorf("%q, %q: %q, want %q\n%s: %s", c.mx, of.mta.Dialect, reason, of.want, hostsOf(got), got.Detail)
			}
			// Whoever is content with what is known so far is content with it in the end.
			early := newListTest(t, d, of.mta).Assess(t.Context(), addr.MustDestination("x.test"), encrypted)
			if reason := judge.Destination(policy.DefaultDemand(), early); reason != of.want {
				t.Errorf("%q, %q: early %q, want %q\n%s", c.mx, of.mta.Dialect, reason, of.want, hostsOf(early))
			}
		}
	}
	for mx, want := range map[string]policy.Reason{"plain plaingood": "", "plain dead good": policy.Unreachable, "plaingood good": "", "plain =dead =good": ""} {
		d := &fakeDNS{mx: map[string]dns.Answer[dns.MX]{"x.test": mxList(mx)}, addrs: addrs}
		got := newListTest(t, d, limited).Assess(t.Context(), addr.MustDestination("x.test"), nil)
		if reason := judge.Destination(policy.DefaultDemand(), got); reason != want {
			t.Errorf("%q, two addresses: %q, want %q\n%s", mx, reason, want, hostsOf(got))
		}
	}
}

func newListTest(t *testing.T, d *fakeDNS, mta profile.MTA) *Assessor {
	t.Helper()
	a, err := New(Config{Resolver: d, Prober: greeters{}, MTA: func() profile.MTA { return mta }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

// TestOneBadAddress: where Sendmail would be refused at the first address, nobody is
// told so for good while another address is good.
func TestOneBadAddress(t *testing.T) {
	d := &fakeDNS{mx: map[string]dns.Answer[dns.MX]{"x.test": mxList("h")}, addrs: map[string]dns.Answer[netip.Addr]{"h": ips("192.0.2.1", "192.0.2.2")}}
	a := newListTest(t, d, profile.MTA{Dialect: profile.Sendmail})
	got := a.Assess(t.Context(), addr.MustDestination("x.test"), nil)
	if demand := policy.DefaultDemand(); judge.Destination(demand, got) != policy.NoSTARTTLS || judge.Confirmed(demand, got) {
		t.Errorf("%+v", got)
	}
}

// TestNative: a host that is only in hosts(5) is one to an MTA that looks there.
func TestNative(t *testing.T) {
	d := &fakeDNS{}
	for _, c := range []struct {
		hosts profile.Hosts
		want  policy.Reason
	}{{profile.Hosts{}, policy.NoMailHost}, {profile.Hosts{Native: true}, ""}, {profile.Hosts{Native: true, OnlyNative: true}, ""}} {
		for name, found := range map[string]bool{"[inner.test]": true, "[other.test]": false} {
			a, err := New(Config{Resolver: d, Prober: greeters{}, MTA: func() profile.MTA { return profile.MTA{Dialect: profile.Postfix, Hosts: c.hosts} },
				Native: func(_ context.Context, name string) ([]netip.Addr, error) {
					if name != "inner.test" {
						return nil, errors.New("no such host")
					}
					return []netip.Addr{netip.MustParseAddr("::ffff:192.0.2.2")}, nil
				}})
			if err != nil {
				t.Fatal(err)
			}
			want := c.want
			if !found {
				want = policy.NoMailHost
			}
			got := a.Assess(t.Context(), addr.MustDestination(name), nil)
			if reason := judge.Destination(policy.DefaultDemand(), got); reason != want {
				t.Errorf("%s, %+v: %q, want %q: %s", name, c.hosts, reason, want, hostsOf(got))
			}
			a.Close()
		}
	}
}

// TestExpire: what was found for an MTA that could do other things serves no more.
func TestExpire(t *testing.T) {
	d := &fakeDNS{mx: map[string]dns.Answer[dns.MX]{"x.test": mxList("six")}, addrs: map[string]dns.Answer[netip.Addr]{"six": ips("2001:db8::1")}}
	mta := profile.MTA{Dialect: profile.Postfix}
	a, err := New(Config{Resolver: d, Prober: greeters{}, MTA: func() profile.MTA { return mta }})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	ask := func() (policy.Assessment, policy.Reason) {
		got := a.Assess(t.Context(), addr.MustDestination("x.test"), nil)
		return got, judge.Destination(policy.DefaultDemand(), got)
	}
	before, reason := ask()
	if reason != "" {
		t.Fatal(reason)
	}
	mta.Hosts.No6 = true
	if _, reason := ask(); reason != "" {
		t.Errorf("%q before memory has expired", reason)
	}
	a.Expire()
	if _, reason := ask(); reason != policy.NoMailHost {
		t.Errorf("%q after inet_protocols = ipv4", reason)
	}
	// Neither does what the store has from then.
	b := newListTest(t, d, mta)
	b.Seed(before)
	if got := b.Assess(t.Context(), before.Destination, nil); judge.Destination(policy.DefaultDemand(), got) != policy.NoMailHost {
		t.Errorf("%+v", got)
	}
}
