package milter

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	gomilter "github.com/d--j/go-milter"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
	"tlsonly/rules"
)

// said are the macros that an MTA has sent.
type said map[gomilter.MacroName]string

// modifier is a Modifier that knows macros only.
type modifier struct {
	gomilter.Modifier
	said
}

func (m modifier) Get(name gomilter.MacroName) string { return m.said[name] }

func patterns(texts ...string) (found []addr.Pattern) {
	for _, s := range texts {
		found = append(found, addr.MustPattern(s))
	}
	return found
}

// A sender is each address that the MTA can make of it, and the original.
func TestWhose(t *testing.T) {
	set := rules.New([]*rules.Rule{{From: patterns("@clinic.example", "@.wards.example"), Level: policy.LevelEncrypt, Mode: policy.Enforce}})
	domains := func(texts ...string) (found []addr.Domain) {
		for _, s := range texts {
			found = append(found, addr.MustDomain(s))
		}
		return found
	}
	for _, c := range []struct {
		path  string
		names *Names
		said  said
		want  []string
	}{
		{path: "<>", want: []string{"<>"}},
		{path: "x@y.example", want: []string{"x@y.example"}},
		{path: "x@clinic", want: []string{"x@clinic", "x@clinic.example", "x@clinic.wards.example"}},
		{path: "x@clinic", said: said{"j": "mta.dept.test"}, want: []string{"x@clinic", "x@clinic.dept.test", "x@clinic.test", "x@clinic.example", "x@clinic.wards.example"}},
		{path: "x@clinic", names: &Names{Known: true}, said: said{"j": "mta.test"}, want: []string{"x@clinic"}},
		{path: "x@clinic", names: &Names{Known: true, Below: domains("test")}, want: []string{"x@clinic", "x@clinic.test"}},
		{path: "x", names: &Names{Origins: domains("a.example", "clinic"), Below: domains("example"), Known: true},
			want: []string{"x", "x@a.example", "x@clinic", "x@clinic.example"}},
		{path: "x", names: &Names{Origins: domains("a.example"), Known: true}, said: said{"{mail_addr}": "x@told.example"}, want: []string{"x@told.example"}},
		{path: "x@[192.0.2.1]", want: []string{"x@[192.0.2.1]"}},
		{path: "SRS0=H=T=clinic.example=x@y.example", want: []string{"x@clinic.example"}},
		{path: "SRS0=H=T=y.example=x@clinic.example", want: []string{"x@y.example"}},
		{path: "SRS0=H=clinic=x@y.example", names: &Names{Known: true},
			want: []string{"SRS0=H=clinic=x@y.example", "x@clinic", "x@clinic.example", "x@clinic.wards.example",
				"clinic=x@h", "clinic=x@h.wards.example"}},
		{path: "prvs=1234abcdef=x@clinic", names: &Names{Known: true, Below: domains("test")}, want: []string{"x@clinic", "x@clinic.test"}},
		{path: "prvs=1234abcdef=x", names: &Names{Known: true, Origins: domains("clinic.example")}, want: []string{"x", "x@clinic.example"}},
	} {
		s := &session{server: &Server{}}
		if c.names != nil {
			s.server.c.Names = func() Names { return *c.names }
		}
		m := modifier{said: c.said}
		from, err := sender(c.path, m)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		whose, err := s.whose(set, c.path, from, m)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range whose {
			got = append(got, a.String())
		}
		for _, want := range c.want {
			if !slices.Contains(got, want) {
				t.Errorf("%s, %v: %q, want %s among them", c.path, c.names, got, want)
			}
		}
		slices.Sort(got)
		if got = slices.Compact(got); len(got) > len(c.want) {
			t.Errorf("%s, %v: %q, want no more than %q", c.path, c.names, got, c.want)
		}
	}
}

// What delivery must know is durable before a recipient is accepted, or the
// recipient is deferred.
func TestNote(t *testing.T) {
	byLogin := &rules.Rule{Name: "alice", User: []string{"alice"}, Level: policy.LevelEncrypt, Mode: policy.Enforce}
	observed := &rules.Rule{Name: "watched", User: []string{"alice"}, Level: policy.LevelEncrypt, Mode: policy.Observe}
	from, to := addr.MustAddress("Doctor@clinic.example"), addr.MustAddress("u@far.example")
	hop := addr.MustDestination
	for _, c := range []struct {
		rule    *rules.Rule
		verdict policy.Verdict
		hops    []addr.Destination
		mta     mta
		fail    bool
		want    string
	}{
		{byLogin, policy.Accept, []addr.Destination{hop("far.example")}, postfixMTA, false, "doctor@clinic.example "},
		{byLogin, policy.Hold, []addr.Destination{hop("relay.example"), hop("[relay.example]"), hop("relay.example:26")}, postfixMTA, false, "relay.example doctor@clinic.example "},
		{byLogin, policy.Accept, []addr.Destination{hop("relay.example")}, sendmailMTA, false, "doctor@clinic.example "},
		{byLogin, policy.Reject, []addr.Destination{hop("relay.example")}, postfixMTA, false, ""},
		{observed, policy.Accept, []addr.Destination{hop("relay.example")}, postfixMTA, false, ""},
		{nil, policy.Accept, []addr.Destination{hop("relay.example")}, postfixMTA, false, ""},
		{byLogin, policy.Accept, []addr.Destination{hop("relay.example")}, postfixMTA, true, ""},
	} {
		got := ""
		tell := func(name string) error {
			if c.fail {
				return errors.New("store unavailable")
			}
			got += name + " "
			return nil
		}
		s := &session{server: &Server{}}
		s.server.c.Relayed = func(_ context.Context, d addr.Destination) error { return tell(d.String()) }
		s.server.c.Lent = func(_ context.Context, a addr.Address) error { return tell(a.String()) }
		msg := &message{ctx: t.Context(), from: from, envelope: envelope{mta: c.mta}}
		msg.candidates = rules.New(nil).SenderOf(from, nil, "", time.Now())
		d := &Decision{Rule: c.rule, Recipient: to, Destinations: c.hops, Judgement: rules.Judgement{Verdict: c.verdict}}
		s.note(msg, d)
		if got != c.want {
			t.Errorf("%v: noted %q, want %q", c.rule, got, c.want)
		}
		want := c.verdict
		if c.fail {
			want = policy.Defer
		}
		if d.Verdict != want || c.fail && (d.Reply.Code != 451 || d.Cause == "") {
			t.Errorf("%v: verdict %s, reply %v, cause %q; want %s", c.rule, d.Verdict, d.Reply, d.Cause, want)
		}
	}
}
