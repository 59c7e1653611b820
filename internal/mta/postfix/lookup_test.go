package postfix

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

func TestOwnSenders(t *testing.T) {
	for table, want := range map[string]bool{
		"socketmap:inet:127.0.0.1:8690:sender": true, "socketmap:unix:/run/tlsonly/map:sender10": true,
		"regexp:/etc/postfix/tlsonly_senders.regexp": true,
		"regexp:/etc/postfix/senders.regexp":         false, "hash:/etc/postfix/senders": false, "socketmap:inet:127.0.0.1:9000:senders": false,
	} {
		if got := isOurSenders(table); got != want {
			t.Errorf("%s: %v", table, got)
		}
	}
}

// tableDir is an instance that isn't running, with tables.
func tableDir(t *testing.T) (*Tables, string) {
	t.Helper()
	if _, err := (Instance{}).find("postmap"); err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("main.cf", "compatibility_level = 3.6\nmyhostname = host.test\nalias_maps = hash:"+dir+"/aliases\nvirtual_alias_maps = $alias_maps\n")
	write("master.cf", "smtp unix - - n - - smtp\nrelay unix - - n - - smtp -o syslog_name=x\n25 inet n - n - - smtpd\ndovecot unix - n n - - pipe flags=R argv=/x ${recipient}\n")
	write("virtual", "a@v.test x@far.test,\n  y@far.test\n\"b c\"@v.test z@far.test\n@cat.test @far.test\n")
	write("aliases", "root: alice\nlist: :include:/x\n")
	write("re", "/^(.*)@re\\.test$/ ${1}@far.test\n")
	for _, command := range [][]string{{"postmap", "hash:" + dir + "/virtual"}, {"postalias", "hash:" + dir + "/aliases"}} {
		path, err := Instance{}.find(command[0])
		if err != nil {
			t.Skip(err)
		}
		if out, err := exec.Command(path, append([]string{"-c", dir}, command[1:]...)...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", command, err, out)
		}
	}
	return &Tables{Instance: Instance{Dir: dir}}, dir
}

func TestTablesSettings(t *testing.T) {
	tables, dir := tableDir(t)
	set, transports, err := tables.Settings(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"config_directory": dir, "virtual_alias_maps": "hash:" + dir + "/aliases", "virtual_alias_domains": "hash:" + dir + "/aliases", "relayhost": "",
		"forward_path": "$home/.forward${recipient_delimiter}${extension}, $home/.forward", "mydestination": "host.test, localhost.test, localhost",
	} {
		if got, ok := set[name]; got != want || !ok {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	if want := map[string]string{"smtp": "smtp", "relay": "smtp", "dovecot": "pipe"}; !maps.Equal(transports, want) {
		t.Errorf("transports %v", transports)
	}
}

func TestTablesLookup(t *testing.T) {
	tables, dir := tableDir(t)
	var asking sync.WaitGroup // postmap takes a second to give up
	look := func(table, keys, want string) {
		found, err := tables.Lookup(t.Context(), strings.ReplaceAll(table, "DIR", dir), strings.Split(keys, "|"))
		var parts []string
		for _, k := range slices.Sorted(maps.Keys(found)) {
			parts = append(parts, k+" = "+found[k])
		}
		got := strings.Join(parts, "; ")
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%s %q: %q (%v), want %q", table, keys, got, err, want)
		}
	}
	check := func(table, keys, want string) { asking.Go(func() { look(table, keys, want) }) }
	check("hash:DIR/virtual", "a@v.test|no@v.test", "a@v.test = x@far.test,  y@far.test")
	check("hash:DIR/virtual", "A@V.test", "A@V.test = x@far.test,  y@far.test") // folded by postmap
	check("hash:DIR/virtual", `"b c"@v.test|@cat.test`, `"b c"@v.test = z@far.test; @cat.test = @far.test`)
	check("hash:DIR/virtual", "no@v.test", "")
	check("hash:DIR/aliases", "root|list|nobody", "list = :include:/x; root = alice")
	check("proxy:hash:DIR/aliases", "root", "root = alice")
	check("texthash:DIR/virtual", "a@v.test|-q", "a@v.test = x@far.test,  y@far.test")
	check("regexp:DIR/re", "x@re.test|Y@RE.test|@re.test|x@v.test", "@re.test = @far.test; Y@RE.test = Y@far.test; x@re.test = x@far.test")
	check("inline:{ {k = v w}, l=m }", "k|l|n", "k = v w; l = m")
	check("static:all", "a|b c|-", "- = all; a = all; b c = all")
	check("unionmap:{inline:{k=v},static:w}", "k|l", "k = v,w; l = w")
	check("hash:DIR/none", "a", "error")
	check("regexp:DIR/none", "a", "error")
	check("fail:1", "a", "error")
	check("nosuchtype:x", "a", "error")
	check("socketmap:inet:127.0.0.1:1:x", "a", "error")
	check("-q:x", "a", "error")
	check("noname", "a", "error")
	check("static:x", "a\nb", "error") // would be two keys
	check("static:x", "a\tb", "error")
	check("static:x", "", "error")
	asking.Wait()

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := tables.Lookup(ctx, "static:x", []string{"a"}); !errors.Is(err, context.Canceled) {
		t.Errorf("ended context: %v", err)
	}
	var keys []string
	for i := range 2*batch + 10 {
		keys = append(keys, fmt.Sprintf("k%d@re.test", i))
	}
	found, err := tables.Lookup(t.Context(), "regexp:"+dir+"/re", keys)
	if err != nil || len(found) != len(keys) || found["k10005@re.test"] != "k10005@far.test" {
		t.Errorf("several batches: %d of %d, %v", len(found), len(keys), err)
	}
}

func TestTablesList(t *testing.T) {
	tables, dir := tableDir(t)
	check := func(table string, want map[string]string) {
		t.Helper()
		got, err := tables.List(t.Context(), strings.ReplaceAll(table, "DIR", dir))
		if (err != nil) != (want == nil) || !maps.Equal(got, want) {
			t.Errorf("%s: %q, %v", table, got, err)
		}
	}
	virtual := map[string]string{"a@v.test": "x@far.test,  y@far.test", `"b c"@v.test`: "z@far.test", "@cat.test": "@far.test"}
	check("hash:DIR/virtual", virtual)
	check("proxy:hash:DIR/virtual", virtual)
	check("texthash:DIR/virtual", virtual)
	check("inline:{k=v}", map[string]string{"k": "v"})
	aliases := map[string]string{"root": "alice", "list": ":include:/x", "@": "@"}
	got, err := tables.List(t.Context(), "hash:"+dir+"/aliases")
	for key := range got {
		if strings.HasPrefix(key, "YP_") {
			delete(got, key)
		}
	}
	if err != nil || !maps.Equal(got, aliases) {
		t.Errorf("aliases: %q, %v", got, err)
	}
	check("hash:DIR/none", nil)
	check("regexp:DIR/re", nil)
}
