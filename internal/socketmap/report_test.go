package socketmap

import (
	"testing"

	"tlsonly/internal/policy"
	"tlsonly/rules"
)

func reportServer(t *testing.T, rs []*rules.Rule, free bool) *Server {
	t.Helper()
	set := rules.Alone(rules.New(rs))
	s, err := New(Config{Rules: func() *rules.Delivery { return set }, Ledger: book{}, FreeBounces: free, Now: noon})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// What Sendmail writes itself is nobody's, so it is held to TLS as long as
// anybody's mail is.
func TestReports(t *testing.T) {
	file := []*rules.Rule{rule(policy.LevelEncrypt, "@clinic.example", "")}
	null := append(file[:1:1], rule(policy.LevelEncrypt, "<>", ""))
	exempt := append([]*rules.Rule{rule(policy.LevelMay, "<>", "@home.example")}, file...)
	others := []*rules.Rule{rule(policy.LevelMay, "*", "")}
	for _, c := range []struct {
		name                string
		rules               []*rules.Rule
		free                bool
		verify, from, robot string
		want                string
	}{
		{"in the clear", file, false, "NONE", "MAILER-DAEMON", "MAILER-DAEMON", "DEFER"},
		{"over TLS", file, false, "OK", "MAILER-DAEMON", "MAILER-DAEMON", "PASS"},
		{"in other case", file, false, "NONE", "Mailer-Daemon", "MAILER-DAEMON", "DEFER"},
		{"at the own name", file, false, "NONE", "MAILER-DAEMON@mta.test", "MAILER-DAEMON", "DEFER"},
		{"by another name", file, false, "NONE", "robot", "Robot", "DEFER"},
		{"by a whole address", file, false, "NONE", "robot@a.test", "Robot@a.test", "DEFER"},
		{"the null sender", file, false, "NONE", "", "MAILER-DAEMON", "DEFER"},
		{"somebody else's", file, false, "NONE", "MAILER-DAEMON@other.example", "MAILER-DAEMON", "PASS"},
		{"like other mail", file, true, "NONE", "MAILER-DAEMON", "MAILER-DAEMON", "PASS"},
		{"like other mail, with a rule", null, true, "NONE", "MAILER-DAEMON", "MAILER-DAEMON", "DEFER"},
		{"exempt", exempt, false, "NONE", "MAILER-DAEMON", "MAILER-DAEMON", "PASS"},
		{"a rule for everybody else", append(file[:1:1], others...), false, "NONE", "MAILER-DAEMON", "MAILER-DAEMON", "DEFER"},
		{"nothing to hold", others, false, "NONE", "MAILER-DAEMON", "MAILER-DAEMON", "PASS"},
	} {
		s := reportServer(t, c.rules, c.free)
		key := "v3<" + c.verify + "><><mx1.home.example><home.example.><free><" + c.from + "><" + c.from +
			"><mta.test><" + c.robot + "><u@home.example>"
		if got := string(s.reply(nil, []byte("tls_rcpt "+key))); got != "OK "+c.want {
			t.Errorf("%s: %q, want %s", c.name, got, c.want)
		}
		want := "TEMP a report waits for a queue run"
		if c.name == "nothing to hold" {
			want = "OK FREE"
		}
		if got := string(s.reply(nil, []byte("tls_report x"))); got != want {
			t.Errorf("%s: %q, want %q", c.name, got, want)
		}
	}
}

// The sender that the host is told is judged as the one in the queue is, and a
// bare one is completed with the name that Sendmail says.
func TestWrittenSender(t *testing.T) {
	s := reportServer(t, []*rules.Rule{rule(policy.LevelEncrypt, "@clinic.example", "")}, false)
	for _, c := range []struct{ from, written, own, want string }{
		{"a@inside.example", "a@inside.example", "mta.test", "PASS"},
		{"a@inside.example", "a@clinic.example", "mta.test", "DEFER"},
		{"a@clinic.example", "a@inside.example", "mta.test", "DEFER"},
		{"a@inside.example", "A@Clinic.Example", "mta.test", "DEFER"},
		{"a@inside.example", "a@b@c", "mta.test", "DEFER"}, // who is that?
		{"a@inside.example", "", "mta.test", "PASS"},
		{"a", "a", "mta.test", "PASS"},
		{"a", "a", "clinic.example", "DEFER"},
		{"a", "a@mta.test", "clinic.example", "DEFER"},
		{"a", "a", "", "DEFER"}, // anybody's
	} {
		key := "v3<NONE><><mx1.far.example><far.example.><free><" + c.from + "><" + c.written + "><" + c.own +
			"><MAILER-DAEMON><u@far.example>"
		if got := string(s.reply(nil, []byte("tls_rcpt "+key))); got != "OK "+c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}

// A mail hub's recipient is at the hub's name in brackets.
func TestHubRecipient(t *testing.T) {
	for recipient, want := range map[string]string{
		"a@[mx1.hub.example]": "a@mx1.hub.example", "a@[192.0.2.1]": "a@[192.0.2.1]", "a@hub.example": "a@hub.example",
		"a@[[x]]": "", "a@[]": "", "[x]": "", "a@[x": "",
	} {
		q, ok := readQuestion("v3<NONE><><mx1.hub.example><[mx1.hub.example]><free><b@b.example><b@b.example><mta.test><M><" + recipient + ">")
		if got := q.to.String(); ok != (want != "") || ok && got != want {
			t.Errorf("%q: %q, %t", recipient, got, ok)
		}
	}
}
