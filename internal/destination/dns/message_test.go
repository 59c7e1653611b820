package dns

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	miekg "github.com/miekg/dns"

	"tlsonly/internal/addr"
)

// odd answers one question over UDP with what reply makes of it, and keeps the question.
func odd(t *testing.T, reply func(m *miekg.Msg)) (*Resolver, <-chan *miekg.Msg) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	asked := make(chan *miekg.Msg, 1)
	go func() {
		p := make([]byte, 1500)
		n, from, err := conn.ReadFrom(p)
		if err != nil {
			return
		}
		q := new(miekg.Msg)
		if err := q.Unpack(p[:n]); err != nil {
			t.Error(err)
			return
		}
		m := new(miekg.Msg).SetReply(q)
		m.RecursionAvailable = true
		reply(m)
		if p, err = m.Pack(); err != nil {
			t.Error(err)
			return
		}
		// A datagram that is too short to be a message comes first; it must not disturb.
		for _, p := range [][]byte{[]byte("junk"), p} {
			if _, err := conn.WriteTo(p, from); err != nil {
				t.Error(err)
			}
		}
		asked <- q
	}()
	return resolver(t, Config{Server: conn.LocalAddr().String(), Timeout: 20 * time.Second, Tries: 1}), asked
}

func rr(t *testing.T, s string) miekg.RR {
	t.Helper()
	r, err := miekg.NewRR(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestOddAnswers(t *testing.T) {
	servfail := func(o ...miekg.EDNS0) func(*miekg.Msg) {
		return func(m *miekg.Msg) {
			m.Rcode = miekg.RcodeServerFailure
			m.SetEdns0(1232, true).IsEdns0().Option = o
		}
	}
	answer := func(records ...string) func(*miekg.Msg) {
		return func(m *miekg.Msg) {
			for _, s := range records {
				m.Answer = append(m.Answer, rr(t, s))
			}
		}
	}
	tests := []struct {
		name  string
		reply func(*miekg.Msg)
		want  string // the texts joined, the status when there are none, or what the error contains
	}{
		{"nothing, no SOA", answer(), "no-data"},
		{"another name's record", answer(`other.example. 60 TXT "x"`), "no-data"},
		{"another type", answer(`a.example. 60 MX 10 x`), "no-data"},
		{"another class", answer(`a.example. 60 CH TXT "x"`), "no-data"},
		{"unrelated ones beside", answer(`b.example. TXT "x"`, `a.example. TXT "y"`, `c.example. CNAME d.`), "y"},
		{"name in another case", answer(`A.Example. TXT "y"`), "y"},
		{"chain in the wrong order", answer(`b.example. TXT "y"`, `a.example. CNAME b.example.`), "y"},
		{"records of a name that doesn't exist", func(m *miekg.Msg) {
			answer(`a.example. TXT "x"`)(m)
			m.Rcode = miekg.RcodeNameError
		}, "no-such-domain"},
		{"referral", func(m *miekg.Msg) {
			m.RecursionAvailable = false
			m.Ns = []miekg.RR{rr(t, "example. NS ns.example.")}
		}, "only refers to other servers"},
		{"empty, from an authoritative server", func(m *miekg.Msg) {
			m.RecursionAvailable, m.Authoritative = false, true
			m.Ns = []miekg.RR{rr(t, "example. NS ns.example.")}
		}, "no-data"},
		{"not implemented", func(m *miekg.Msg) { m.Rcode = miekg.RcodeNotImplemented }, "TXT of a.example: NOTIMP"},
		{"EDNS version refused", func(m *miekg.Msg) {
			m.Rcode = miekg.RcodeBadVers
			m.SetEdns0(1232, false)
		}, "BADVERS"},
		{"refusal without the question", func(m *miekg.Msg) { m.Rcode, m.Question = miekg.RcodeRefused, nil }, "REFUSED"},
		{"code without a name", func(m *miekg.Msg) { m.Rcode = 14 }, "RCODE14"},
		{"bogus", servfail(&miekg.EDNS0_EDE{InfoCode: 6, ExtraText: "no\nkey"}), `SERVFAIL: DNSSEC Bogus ("no\nkey")`},
		{"unknown extended error", servfail(&miekg.EDNS0_EDE{InfoCode: 4711}), "SERVFAIL: extended error 4711"},
		{"SERVFAIL with nothing more", servfail(), "TXT of a.example: SERVFAIL"},
	}
	for _, tt := range tests {
		r, asked := odd(t, tt.reply)
		a, err := r.TXT(t.Context(), addr.MustDomain("a.example"))
		<-asked
		got := strings.Join(a.Records, " ")
		if got == "" {
			got = string(a.Status)
		}
		if err != nil {
			got = err.Error()
		}
		if got != tt.want && (err == nil || !strings.Contains(got, tt.want)) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestTTL(t *testing.T) {
	for _, tt := range []struct {
		answer, authority string
		want              time.Duration
	}{
		{"a.example. 70 TXT x", "", 70 * time.Second},
		{"a.example. 2147483647 TXT x", "", (1<<31 - 1) * time.Second},
		{"a.example. 2147483648 TXT x", "", 0}, // RFC 2181, section 8
		{"", "example. 50 SOA ns. host. 1 2 3 4 60", 50 * time.Second},
		{"", "example. 70 SOA ns. host. 1 2 3 4 60", 60 * time.Second},
		{"", "other. 70 SOA ns. host. 1 2 3 4 60", 0}, // not this name's zone
		{"", "", 0},
	} {
		r, asked := odd(t, func(m *miekg.Msg) {
			if tt.answer != "" {
				m.Answer = []miekg.RR{rr(t, tt.answer)}
			}
			if tt.authority != "" {
				m.Ns = []miekg.RR{rr(t, tt.authority)}
			}
		})
		a, err := r.TXT(t.Context(), addr.MustDomain("a.example"))
		<-asked
		if err != nil || a.TTL != tt.want {
			t.Errorf("%q %q: TTL %s, %v, want %s", tt.answer, tt.authority, a.TTL, err, tt.want)
		}
	}
}

// What goes out: one question, recursion desired, EDNS with 1232 octets, DO unless DNSSEC is off.
func TestQuery(t *testing.T) {
	for _, dnssec := range []string{Auto, On, Off} {
		r, asked := odd(t, func(*miekg.Msg) {})
		r = resolver(t, Config{Server: r.Server(), DNSSEC: dnssec, Timeout: 20 * time.Second, Tries: 1})
		if _, err := r.MX(t.Context(), addr.MustDomain("a.example")); err != nil {
			t.Fatal(err)
		}
		q := <-asked
		opt := q.IsEdns0()
		if opt == nil || opt.UDPSize() != 1232 || opt.Do() != (dnssec != Off) || !q.RecursionDesired ||
			q.CheckingDisabled || len(q.Question) != 1 {
			t.Errorf("dnssec %s: query %v", dnssec, q)
		}
	}
}

// FuzzParse: whatever comes, parse doesn't panic, takes nothing that isn't the answer to the question, and finds
// as many records as the message announces.
func FuzzParse(f *testing.F) {
	q := new(miekg.Msg).SetQuestion("a.example.", miekg.TypeMX)
	q.Id = 4711
	for _, edit := range []func(*miekg.Msg){
		func(*miekg.Msg) {},
		func(m *miekg.Msg) { m.Id++ },
		func(m *miekg.Msg) { m.Response = false },
		func(m *miekg.Msg) { m.Truncated = true },
		func(m *miekg.Msg) { m.Question[0].Name = "b.example." },
		func(m *miekg.Msg) { m.Question = nil },
		func(m *miekg.Msg) { m.Question, m.Rcode = nil, miekg.RcodeRefused },
		func(m *miekg.Msg) {
			m.Answer = []miekg.RR{&miekg.MX{Hdr: miekg.RR_Header{Name: "a.example.", Rrtype: miekg.TypeMX, Class: 1}, Mx: "."}}
		},
	} {
		m := new(miekg.Msg).SetReply(q)
		edit(m)
		p, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(p)
		f.Add(p[:len(p)-1])
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, p []byte) {
		m, err := parse(p, q)
		if err != nil {
			if m != nil || !errors.Is(err, errMismatch) && !errors.Is(err, errMalformed) {
				t.Errorf("%v, %v", m, err)
			}
			return
		}
		switch {
		case m.Id != q.Id || !m.Response:
			t.Error("not an answer to this question")
		case m.Truncated:
		case len(m.Question) == 0 && m.Rcode != miekg.RcodeSuccess && m.Rcode != miekg.RcodeNameError:
		case len(m.Question) != 1 || m.Question[0].Qtype != miekg.TypeMX:
			t.Error("another question")
		case int(p[6])<<8|int(p[7]) != len(m.Answer):
			t.Errorf("%d records read, %d announced", len(m.Answer), int(p[6])<<8|int(p[7]))
		}
	})
}

// A record of the right type without data is a broken answer, not an empty record.
func TestRecordWithoutData(t *testing.T) {
	for _, ask := range []func(*Resolver) error{
		func(r *Resolver) error { _, err := r.MX(t.Context(), addr.MustDomain("a.example")); return err },
		func(r *Resolver) error { _, err := r.TLSA(t.Context(), addr.MustDomain("a.example")); return err },
		func(r *Resolver) error { _, err := r.TXT(t.Context(), addr.MustDomain("a.example")); return err },
		func(r *Resolver) error {
			_, err := lookupAddrs(t, r, "a.example")
			return err
		},
	} {
		r, _ := odd(t, func(m *miekg.Msg) {
			m.Answer = []miekg.RR{&miekg.RFC3597{Hdr: miekg.RR_Header{Name: "a.example.", Class: miekg.ClassINET,
				Rrtype: m.Question[0].Qtype, Ttl: 60}}}
		})
		if err := ask(r); !errors.Is(err, errMalformed) {
			t.Errorf("got %v, want %v", err, errMalformed)
		}
	}
}

// lookupAddrs asks for one family, for the server of odd answers once.
func lookupAddrs(t *testing.T, r *Resolver, name string) ([]netip.Addr, error) {
	f, err := r.lookup(t.Context(), addr.MustDomain(name), miekg.TypeA)
	if err != nil {
		return nil, err
	}
	return addrs(Answer[netip.Addr]{}, f.records, nil).Records, nil
}
