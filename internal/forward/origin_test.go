package forward_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/forward"
	"tlsonly/internal/forward/aliases"
	"tlsonly/internal/mta/postfix"
	"tlsonly/internal/testnet/rig"
)

// origins are the steps to the leaf at far.test, or the only one.
func origins(x forward.Expansion, dir string) string {
	for _, l := range x.Leaves {
		if l.Address.Domain.String() != "far.test" && len(x.Leaves) > 1 {
			continue
		}
		var by []string
		for _, step := range l.Path {
			by = append(by, strings.ReplaceAll(step.Origin.String(), dir, ""))
		}
		return strings.Join(by, " -> ")
	}
	return "no leaf"
}

// Of each forward it is told in which line it is written, as a real postalias(1)
// and postmap(1) made the tables; the key where nobody can say so.
func TestOriginPostfix(t *testing.T) {
	if err := rig.Isolated(); errors.Is(err, rig.ErrNotIsolated) {
		t.Skip(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	dir, err := rig.TempDir()
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.ReplaceAll(text, "DIR", dir)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("list", "# members\n\nbin@host.test\n  \"other one\"@far.test\n")
	aliasText := `# comment
plain: p@far.test
continued:
# a comment between
	alice@elsewhere.test,
	c@far.test
twice: first@far.test
twice: second@far.test
MiXed: m@far.test
spaced :  a@elsewhere.test  ,   "s p"@far.test  (name)
group: :include:DIR/list
outer: plain
edited: e@far.test
gone: g@far.test
last: l@far.test
`
	write("aliases", aliasText)
	write("virtual", `x@virt.test   v@far.test

y@virt.test   a@elsewhere.test,
   # between

   y@far.test
twice@virt.test first@far.test
twice@virt.test second@far.test
UP@virt.test up@far.test
@cat.test @far.test
"q q"@virt.test q@far.test
z@virt.test plain@host.test
`)
	write("both", "# made by postalias(1)\nboth: b@far.test\n")
	write("more", "t@virt.test th@far.test\n")
	write("removed", "r@virt.test r@far.test\n")
	write("canon", "# c\nold@host.test new@far.test\n")
	write("bcc", "copied@host.test\n  copy@far.test\n")
	write("re", "# patterns\n/^re-(.*)@virt\\.test$/ re@far.test\n")
	write("fwd.games", "# mine\n\ngames\nf@far.test\n")
	write("sieve.lp", "require \"copy\";\nif true {\n  redirect\n   \"s@far.test\";\n}\n")
	p, err := rig.StartPostfix(ctx, rig.PostfixConfig{Main: map[string]string{
		"myhostname": "host.test", "mydestination": "host.test", "alias_maps": "hash:" + dir + "/aliases",
		"virtual_alias_domains": "virt.test cat.test",
		"virtual_alias_maps": "hash:" + dir + "/virtual, texthash:" + dir + "/more, proxy:hash:" + dir + "/removed, regexp:" + dir + "/re, " +
			"inline:{i@virt.test=i@far.test}, hash:" + dir + "/both",
		"recipient_canonical_maps": "hash:" + dir + "/canon", "recipient_bcc_maps": "hash:" + dir + "/bcc",
		"forward_path": dir + "/fwd.$user",
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	}()
	run := func(args ...string) {
		t.Helper()
		if out, err := p.Run(ctx, "", args[0], args[1:]...); err != nil {
			t.Fatalf("%v: %v %s", args, err, out)
		}
	}
	run("postalias", "hash:"+dir+"/aliases", "hash:"+dir+"/both")
	for _, name := range []string{"virtual", "removed", "canon", "bcc"} {
		run("postmap", "hash:"+dir+"/"+name)
	}
	// What is in effect is what was built. The text says something else since.
	edited := strings.Replace(aliasText, "edited: e@far.test", "\n\nedited: another@far.test", 1)
	write("aliases", strings.Replace(edited, "gone: g@far.test\n", "", 1))
	if err := os.Remove(filepath.Join(dir, "removed")); err != nil {
		t.Fatal(err)
	}
	e, err := forward.New(forward.Config{Tables: &postfix.Tables{Instance: postfix.Instance{Dir: p.Etc}}, Sieve: []string{dir + "/sieve.%n"}})
	if err != nil {
		t.Fatal(err)
	}
	for to, want := range map[string]string{
		"plain@host.test":     "hash:/aliases:2",
		"continued@host.test": "hash:/aliases:3",
		"twice@host.test":     "hash:/aliases:7",
		"mixed@host.test":     "hash:/aliases:9",
		"spaced@host.test":    "hash:/aliases:10",
		"group@host.test":     "hash:/aliases:11 -> :include:/list:4",
		"outer@host.test":     "hash:/aliases:12 -> hash:/aliases:2",
		"edited@host.test":    `hash:/aliases, key "edited"`,
		"gone@host.test":      `hash:/aliases, key "gone"`,
		"x@virt.test":         "hash:/virtual:1",
		"y@virt.test":         "hash:/virtual:3",
		"twice@virt.test":     "hash:/virtual:7",
		"up@virt.test":        "hash:/virtual:9",
		"any@cat.test":        "hash:/virtual:10",
		`"q q"@virt.test`:     "hash:/virtual:11",
		"z@virt.test":         "hash:/virtual:12 -> hash:/aliases:2",
		"t@virt.test":         "texthash:/more:1",
		"r@virt.test":         `proxy:hash:/removed, key "r@virt.test"`,
		"re-x@virt.test":      `regexp:/re, key "re-x@virt.test"`,
		"i@virt.test":         `inline:{i@virt.test=i@far.test}, key "i@virt.test"`,
		"both@host.test":      "hash:/both:2",
		"old@host.test":       "recipient_canonical_maps hash:/canon:2",
		"copied@host.test":    "recipient_bcc_maps hash:/bcc:1",
		"games@host.test":     "/fwd.games:4",
		"lp@host.test":        "sieve /sieve.lp:3",
	} {
		x := e.Expand(ctx, addr.MustAddress(to), addr.Address{})
		if got := origins(x, dir); got != want {
			t.Errorf("%s: %s, want %s: %+v", to, got, want, x.Leaves)
		}
	}
	// JSON has them apart.
	text, err := json.Marshal(e.Expand(ctx, addr.MustAddress("plain@host.test"), addr.Address{}).Leaves[0].Path)
	if want := `[{"from":"plain@host.test","source":"hash:DIR/aliases","file":"DIR/aliases","line":2,"key":"plain"}]`; err != nil ||
		strings.ReplaceAll(string(text), dir, "DIR") != want {
		t.Errorf("%s, %v", text, err)
	}
	// So does the list of all.
	var all []string
	if _, err := e.All(ctx, func(f forward.Forwarder) bool {
		all = append(all, strings.ReplaceAll(f.Origin.String(), dir, ""))
		return true
	}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"hash:/aliases:3", `hash:/aliases, key "gone"`, "hash:/virtual:12", "texthash:/more:1", "regexp:/re:2", "sieve /sieve.lp", "recipient_bcc_maps hash:/bcc:1"} {
		if !slices.Contains(all, want) {
			t.Errorf("no %q in %q", want, all)
		}
	}
	// The text is read again when it changes.
	write("aliases", "\n\n\n"+aliasText)
	for deadline := time.Now().Add(30 * time.Second); ; {
		got := origins(e.Expand(ctx, addr.MustAddress("gone@host.test"), addr.Address{}), dir)
		if got == "hash:/aliases:17" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("gone@host.test: %s", got)
		}
	}
}

// Sendmail's files are read as they stand, so each forward has its line.
func TestOriginSendmail(t *testing.T) {
	w := newWorld(t)
	w.cfg.Tables, w.cfg.Dialect = nil, aliases.Sendmail
	w.cfg.Local = []addr.Domain{addr.MustDomain("host.test")}
	list := w.file("list", "# members\nl@far.test\n")
	w.cfg.Aliases = []string{w.file("aliases", "# c\none: o@far.test\nlong: alice@elsewhere.test,\n\tl@far.test\ntwice: a@far.test\ntwice: b@far.test\ngroup: :include:"+list+"\n")}
	w.cfg.Virtual = []string{w.file("virtuser", "# v\nv@virt.test\tv@far.test\n@cat.test\t%1@far.test\n\nchain@virt.test\tone@host.test\n")}
	w.cfg.Mailertables = []string{w.file("mailertable", "# m\nhere.test\tlocal:one\n")}
	w.cfg.Forward = []string{"~/.forward"}
	w.file("bob/.forward", "# mine\n\\bob\nb@far.test\n")
	e := w.expander()
	for to, want := range map[string]string{
		"one@host.test":   "/aliases:2",
		"long@host.test":  "/aliases:3",
		"twice@host.test": "/aliases:6", // the last counts
		"group@host.test": "/aliases:7 -> :include:/list:2",
		"v@virt.test":     "/virtuser:2",
		"x@cat.test":      "/virtuser:3",
		"chain@virt.test": "/virtuser:5 -> /aliases:2",
		"x@here.test":     "/mailertable:2 -> /aliases:2",
		"bob@host.test":   "/bob/.forward:3",
	} {
		x := e.Expand(t.Context(), addr.MustAddress(to), addr.Address{})
		if got := origins(x, w.dir); got != want {
			t.Errorf("%s: %s, want %s: %+v", to, got, want, x.Leaves)
		}
	}
}
