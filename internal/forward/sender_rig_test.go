package forward_test

import (
	"context"
	"errors"
	"fmt"
	"net/smtp"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/forward"
	"tlsonly/internal/mta/postfix"
	"tlsonly/internal/testnet/rig"
)

// What BySender says is how a real Postfix sends: every transport discards here,
// under a name of its own.
func TestBySenderAgainstPostfix(t *testing.T) {
	if err := rig.Isolated(); errors.Is(err, rig.ErrNotIsolated) {
		t.Skip(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	dir, err := rig.TempDir()
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) string {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(dir, name)
	}
	first := write("first", `a@one.test way-a:[hop.test]:26
b@one.test way-b:
c@one.test way-c
@one.test way-one:
d@one.test DUNNO
e@one.test dunno
games way-local:
<> way-null:
f+ext@one.test way-ext:
g@one.test :[hop.test]
"q q"@one.test way-quoted:
h@one.test way-a: [hop.test]
j@one.test nosuch:
`)
	second := write("second", "d@one.test way-b:\nk@two.test way-b:\nb@one.test way-a:\n")
	patterns := write("patterns", "/^l(.*)@three\\.test$/ way-a:\n/^@three\\.test$/ way-b:\n")
	var master []string
	for _, name := range strings.Fields("usual way-a way-b way-c way-one way-local way-null way-ext way-quoted") {
		master = append(master, name+" unix - - n - - discard -o syslog_name=as/"+name)
	}
	p, err := rig.StartPostfix(ctx, rig.PostfixConfig{Master: master, Main: map[string]string{
		"myhostname": "host.test", "mydestination": "host.test", "recipient_delimiter": "+",
		"default_transport":                       "usual:[usual.test]",
		"sender_dependent_default_transport_maps": "texthash:" + first + ", texthash:" + second + ", regexp:" + patterns,
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	}()
	e, err := forward.New(forward.Config{Tables: &postfix.Tables{Instance: postfix.Instance{Dir: p.Etc}}})
	if err != nil {
		t.Fatal(err)
	}
	relay := regexp.MustCompile(`as/(\S+)/discard\[\d+\]: \w+: to=<(\S+)>, relay=(\S+?),`)
	for i, from := range []string{"a@one.test", "A@ONE.test", "b@one.test", "b+x@one.test", "c@one.test", "z@one.test", "d@one.test", "e@one.test",
		"games@host.test", "games@else.test", "", "f+ext@one.test", "f@one.test", "f+other@one.test", `"q q"@one.test`,
		"h@one.test", "k@two.test", "other@two.test", "l1@three.test", "L1@Three.test", "m@three.test"} {
		to := fmt.Sprintf("r%d@far.test", i)
		if err := smtp.SendMail(p.Addr, nil, from, []string{to}, []byte("Subject: x\r\n\r\nx\r\n")); err != nil {
			t.Errorf("%s: %v", from, err)
			continue
		}
		line, err := p.WaitLog(ctx, "to=<"+to+">")
		if err != nil {
			t.Fatal(err)
		}
		m := relay.FindStringSubmatch(line)
		way, err := e.BySender(ctx, from)
		if err != nil || m == nil || way.Transport != m[1] {
			t.Errorf("%s: %+v, %v; postfix: %s", from, way, err, line)
		}
	}
	// For the first the client of a real Postfix waits at RCPT; the other's mail
	// waits for a transport that isn't there.
	if way, err := e.BySender(ctx, "g@one.test"); err == nil {
		t.Errorf("no transport: %+v", way)
	}
	if way, err := e.BySender(ctx, "j@one.test"); err != nil || way.Transport != "nosuch" || way.Program != "" {
		t.Errorf("nosuch: %+v, %v", way, err)
	}
	for from, hop := range map[string]string{"a@one.test": "[hop.test]:26", "h@one.test": "[hop.test]", "b@one.test": "", "d@one.test": "[usual.test]"} {
		if way, err := e.BySender(ctx, from); err != nil || way.Hop != hop {
			t.Errorf("%s: %+v, %v, want the next hop %q", from, way, err, hop)
		}
	}
}
