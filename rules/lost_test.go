package rules

import (
	"reflect"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// What a later file takes away is named, and nothing else.
func TestLost(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	rule := func(name string, level policy.Level, change func(*Rule), senders ...string) *Rule {
		r := from(level, senders...)
		r.Name, r.Mode, r.MinVersion, r.MinBits = name, policy.Enforce, policy.TLS12, 128
		if change != nil {
			change(r)
		}
		return r
	}
	user := func(r *Rule) { r.User = []string{"alice", "bob"} }
	old := New([]*Rule{
		rule("gone", policy.LevelEncrypt, nil, "@gone.example"),
		rule("same", policy.LevelEncrypt, nil, "@same.example"),
		rule("watched", policy.LevelSecure, nil, "@watched.example"),
		rule("lower", policy.LevelSecure, nil, "@lower.example"),
		rule("older", policy.LevelEncrypt, func(r *Rule) { r.MinVersion = policy.TLS13 }, "@older.example"),
		rule("shorter", policy.LevelEncrypt, func(r *Rule) { r.MinBits = 256 }, "@shorter.example"),
		rule("login", policy.LevelEncrypt, user),
		rule("over", policy.LevelEncrypt, func(r *Rule) { r.Until = now.Add(-time.Hour) }, "@over.example"),
		rule("old exception", policy.LevelMay, nil, "@free.example"),
	})
	later := New([]*Rule{
		rule("new exception", policy.LevelMay, func(r *Rule) { r.To = []addr.Pattern{addr.MustPattern("@d.example")} }, "@same.example"),
		rule("same under another name", policy.LevelEncrypt, nil, "@same.example"),
		rule("same", policy.LevelEncrypt, nil, "@other.example"),
		rule("watched", policy.LevelSecure, func(r *Rule) { r.Mode = policy.Observe }, "@watched.example"),
		rule("lower", policy.LevelEncrypt, nil, "@lower.example"),
		rule("older", policy.LevelEncrypt, nil, "@older.example"),
		rule("shorter", policy.LevelEncrypt, nil, "@shorter.example"),
		rule("login", policy.LevelEncrypt, func(r *Rule) { r.User = []string{"bob"} }),
		rule("renamed exception", policy.LevelMay, nil, "@free.example"),
	})
	var names []string
	for _, w := range old.Weakened(later, now) {
		names = append(names, w.Name+": "+w.Why)
	}
	for _, c := range []struct {
		what      string
		got, want []string
	}{
		{"weakened", names, []string{"gone: it is gone", `watched: tls = "secure", mode = "observe"`, `lower: tls = "encrypt", not "secure"`,
			`older: min_version = "1.2", not "1.3"`, `shorter: min_bits = 128, not 256`}},
		{"unprotected", old.Unprotected(later, now), []string{"@gone.example", "@watched.example", "user:alice"}},
		{"exceptions", old.Exceptions(later, now), []string{"new exception"}},
		{"nothing", old.Unprotected(old, now), nil},
	} {
		if !reflect.DeepEqual(c.got, c.want) {
			t.Errorf("%s: %q, want %q", c.what, c.got, c.want)
		}
	}
}
