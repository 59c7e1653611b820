package main

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Whatever becomes of a message: nothing of its header and its body gets into the log, at its most talkative, or into a file
// of the daemon's.
func TestMTANothingOfContentIsKept(t *testing.T) {
	long(t)
	withBoth(t, func(t *testing.T, start func() realMTA) {
		world := newWorld(t)
		d := startDaemon(t, "[log]\nlevel = \"debug\"\n"+strings.Replace(daemonHead, "[dns]", "headers = true\n[dns]", 1)+`
[[rule]]
name = "hold"
from = ["@held.example"]
tls = "encrypt"
on_fail = "hold"
[[rule]]
name = "tag"
from = ["@tagged.example"]
tls = "encrypt"
on_fail = "tag"
`+clinicRule)
		m := start()
		const marker = "MarkerQ7x"
		message := []string{
			"From: " + marker + "From <" + marker + "from@clinic.example>", "To: " + marker + "To:;", "Message-ID: <" + marker + "id@clinic.example>",
			"Subject: " + marker + "Subject", "X-" + marker + "Name: x", "TLS-Only: " + marker + "Tag", "Folded: x", "\t" + marker + "Folded",
			"MIME-Version: 1.0", `Content-Type: multipart/mixed; boundary="` + marker + `"`,
			"", "--" + marker, "", marker + "Body", "--" + marker, "Content-Type: text/plain; name=" + marker + "Attached", "", "x", "--" + marker + "--",
		}
		c := dial(t, m.address)
		for _, s := range []struct{ from, to, more, want string }{
			{"doctor@clinic.example", "a@good.example", "", "250"},
			{"x@tagged.example", "a@none.example", "", "250"},
			{"x@held.example", "a@none.example", "", "250"},
			{"x@nobody.example", "a@none.example", "", "250"},
			{"doctor@clinic.example", "a@good.example", "TLS-Required: no", "550"}, // judged at its end
		} {
			c.expect("MAIL FROM:<"+s.from+">", "250")
			c.expect("RCPT TO:<"+s.to+">", "250")
			sent := message
			if s.more != "" {
				sent = append([]string{s.more}, message...)
			}
			c.data(s.want, sent...)
		}
		got := waitMessages(t, world, "good.example", 1)[0]
		if n := bytes.Count(got.Data, []byte(marker)); n < 12 {
			t.Fatalf("the message has %d markers:\n%s", n, got.Data)
		}
		waitMessages(t, world, "none.example", 2)
		d.waitDecision("from=doctor@clinic.example", "verdict=accept")
		d.waitDecision("from=x@tagged.example", "rule=tag")
		d.waitDecision("from=x@held.example", "rule=hold")
		d.waitDecision("from=doctor@clinic.example", "verdict=reject", "reason=tls-required-no")

		look := func(when string) {
			t.Helper()
			known := false
			err := filepath.WalkDir(filepath.Dir(d.file), func(path string, e fs.DirEntry, err error) error {
				if err != nil || e.IsDir() {
					return err
				}
				text, err := os.ReadFile(path)
				if bytes.Contains(bytes.ToLower(text), []byte(strings.ToLower(marker))) {
					t.Errorf("%s: something of a message is in %s", when, filepath.Base(path))
				}
				known = known || strings.HasPrefix(path, d.database()) && bytes.Contains(text, []byte("good.example"))
				return err
			})
			if err != nil || !known {
				t.Errorf("%s: %v; what the store should have was found: %t", when, err, known)
			}
		}
		look("while it runs")
		d.stop(syscall.SIGTERM)
		look("afterwards")
	})
}
