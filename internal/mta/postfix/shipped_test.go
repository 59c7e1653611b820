package postfix

import (
	"os"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/contract"
)

// What the packages ship for those who don't run setup is what setup writes.
func TestShipped(t *testing.T) {
	shipped := func(name string) string {
		t.Helper()
		text, err := os.ReadFile("../../../packaging/postfix/" + name)
		if err != nil {
			t.Fatal(err)
		}
		var kept []string
		for line := range strings.Lines(string(text)) {
			if !strings.HasPrefix(line, "#") {
				kept = append(kept, line)
			}
		}
		return strings.Join(kept, "")
	}
	s := Settings{Milter: "inet:127.0.0.1:8689", Socketmap: "inet:127.0.0.1:8690", Deadline: 20 * time.Second, Classes: []Class{{Number: 1}},
		OnLost: contract.OnLostBounce, DANE: true, CAFile: "/etc/ssl/certs/ca-certificates.crt"}
	print := func() string {
		t.Helper()
		setup, err := Plan(s, facts(t, "3.7.11", map[string]string{pixWords: "disable_esmtp,delay_dotcrlf"}))
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if err := setup.Print(&b); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	if filter := shipped("tlsonly_on_lost.regexp"); !strings.Contains(print(), filter) {
		t.Errorf("setup writes no %s\n%s", filter, print())
	}
	s.OnLost = contract.OnLostDefer
	if example, written := shipped("example.sh"), print(); example != written {
		t.Errorf("the example is\n%s\nsetup writes\n%s", example, written)
	}
}
