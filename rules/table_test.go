package rules

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/policy"
)

// internal/mta/postfix tests against Class what becomes of the list.
func TestSenders(t *testing.T) {
	observed := enforce("observed", policy.LevelEncrypt, patterns("@observed.example"), nil)
	observed.Mode = policy.Observe
	over := enforce("over", policy.LevelEncrypt, patterns("@over.example", "late@clinic.example"), nil)
	over.Until = noon()
	user := enforce("user", policy.LevelEncrypt, nil, nil)
	user.User = []string{"bob"}
	for _, c := range []struct {
		name  string
		rules []*Rule
		want  string
	}{
		{"no rules", nil, ""},
		{"no sender in them", []*Rule{user}, ""},
		{"that don't enforce", []*Rule{observed, enforce("may", policy.LevelMay, patterns("@may.example", "*"), nil)}, ""},
		{"everybody", []*Rule{enforce("all", policy.LevelEncrypt, nil, nil)}, "* 1"},
		{"everybody by name, and an address", []*Rule{enforce("all", policy.LevelEncrypt, patterns("*", "a@b.example"), nil)}, "* 1, a@b.example 1"},
		{"all kinds, each once", []*Rule{
			enforce("legacy", policy.LevelMay, patterns("@clinic.example"), patterns("@legacy.example")),
			enforce("clinic", policy.LevelEncrypt, patterns("@clinic.example", "billing@example.com", "<>", "billing@example.com"), nil),
			enforce("lab", policy.LevelEncrypt, patterns("@.lab.example"), nil),
		}, "@clinic.example 1, billing@example.com 2, <> 2, @.lab.example 3"},
		{"one that is over, and an address in another's domain", []*Rule{over, enforce("clinic", policy.LevelEncrypt, patterns("@clinic.example"), nil)},
			"late@clinic.example 2, @clinic.example 3"},
	} {
		var got []string
		for _, s := range New(c.rules).Senders(noon()) {
			got = append(got, fmt.Sprint(s.Pattern, " ", s.Class))
		}
		if text := strings.Join(got, ", "); text != c.want {
			t.Errorf("%s: %s, want %s", c.name, text, c.want)
		}
	}
	if got := New([]*Rule{over}).Senders(noon().Add(-time.Second)); len(got) != 2 {
		t.Errorf("before it is over: %v", got)
	}
}
