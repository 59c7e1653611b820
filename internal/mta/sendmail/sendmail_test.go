package sendmail

import (
	"os"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/policy"
)

func TestEndpoint(t *testing.T) {
	for _, c := range []struct{ network, address, want string }{
		{"tcp", "127.0.0.1:8689", "inet:8689@127.0.0.1"},
		{"tcp", "localhost:8689", "inet:8689@127.0.0.1"},
		{"tcp", "0.0.0.0:8689", "inet:8689@127.0.0.1"},
		{"tcp", "[::ffff:127.0.0.1]:8689", "inet:8689@127.0.0.1"},
		{"tcp", "[::1]:8689", "inet6:8689@::1"},
		{"tcp", "[::]:8689", "inet6:8689@::1"},
		{"unix", "/run/tlsonly/milter.sock", "unix:/run/tlsonly/milter.sock"},
		{"tcp", "mail.example:8689", ""},     // Sendmail would look it up for each session
		{"tcp", "127.0.0.1:milter", ""},      // a name of /etc/services
		{"tcp", "[fe80::1%eth0]:8689", ""},   // a zone
		{"tcp", "127.0.0.1", ""},             // no port
		{"unix", "run/tlsonly.sock", ""},     // relative
		{"unix", "/run/it's, F=/x.sock", ""}, // would end the argument
		{"unix", "/run/$(x)", ""},            // means something to Sendmail
		{"unixpacket", "/run/tlsonly/x", ""}, // another protocol
	} {
		got, err := Endpoint(c.network, c.address)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s %s: %q, %v; want %q", c.network, c.address, got, err, c.want)
		}
	}
}

// The file that is packaged is what Snippet says for the default configuration.
func TestPackaged(t *testing.T) {
	want, err := os.ReadFile("../../../packaging/sendmail/tlsonly.m4")
	if err != nil {
		t.Fatal(err)
	}
	got := Snippet(Settings{Milter: "inet:8689@127.0.0.1", Socketmap: "inet:8690@127.0.0.1", Deadline: 20 * time.Second,
		MinVersion: policy.TLS12, RedactBounces: true})
	if got != string(want) {
		t.Errorf("got:\n%s", got)
	}
}

func TestSnippet(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Settings)
		with   string
		lacks  string
	}{
		{"waits longer than the daemon takes", func(s *Settings) { s.Deadline = 2 * time.Minute }, "T=C:10s;S:10s;R:135s;E:300s", ""},
		{"the map, too", func(s *Settings) { s.Deadline = 1500 * time.Millisecond }, "socket -f -d17 -T<TMPF> inet:8690@127.0.0.1\n", ""},
		{"TLS 1.3 only", func(s *Settings) { s.MinVersion = policy.TLS13 }, "C{TlsonlyOld}SSLv3 TLSv1 TLSv1.1 TLSv1.2\n", ""},
		{"TLS 1.0 is enough", func(s *Settings) { s.MinVersion = policy.TLS10 }, "C{TlsonlyOld}SSLv3\n", ""},
		{"bounces as the site has them", func(s *Settings) { s.RedactBounces = false }, "", "nobodyreturn"},
		{"a socket", func(s *Settings) { s.Milter = "unix:/run/tlsonly/milter.sock" }, "`S=unix:/run/tlsonly/milter.sock, F=T,", ""},
	} {
		s := settings()
		c.change(&s)
		got := Snippet(s)
		if !strings.Contains(got, c.with) || c.lacks != "" && strings.Contains(got, c.lacks) {
			t.Errorf("%s:\n%s", c.name, got)
		}
	}
}

func TestMerge(t *testing.T) {
	const ours = beginMark + "\nnew\n" + endMark + "\n"
	for _, c := range []struct{ name, mc, want string }{
		{"first", "A\nMAILER(`smtp')dnl\n\n\n", "A\nMAILER(`smtp')dnl\n\n" + ours},
		{"again", "A\n\n" + ours, "A\n\n" + ours},
		{"older lines, others after them", "A\n" + beginMark + ", by hand\nINPUT_MAIL_FILTER(`tlsonly', `x')\n" + endMark + "\nB", "A\nB\n\n" + ours},
		{"another filter", "INPUT_MAIL_FILTER(`opendkim', `x')", "INPUT_MAIL_FILTER(`opendkim', `x')\n\n" + ours},
		{"named in a comment", "dnl LOCAL_TLS_RCPT", "dnl LOCAL_TLS_RCPT\n\n" + ours},
		{"no end", "A\n" + beginMark + "\n", ""},
		{"no begin", "A\n" + endMark + "\n", ""},
		{"begun twice", beginMark + "\n" + beginMark + "\n" + endMark + "\n", ""},
		{"a filter of this name", "INPUT_MAIL_FILTER(`tlsonly', `x')\n", ""},
		{"rules for the same place", "LOCAL_TLS_RCPT\nR$*\t$@ OK\n", ""},
	} {
		got, err := merge(c.mc, ours)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: %q, %v; want %q", c.name, got, err, c.want)
		}
	}
}
