package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tlsonly/internal/testnet"
)

// readsPostfix has the daemon read the settings of the Postfix of the test.
func (w *wire) readsPostfix(tables, rules string) {
	w.t.Helper()
	if rules == "" {
		rules = clinicRule
	}
	w.hup(tables+"[forwarding]\npostfix = \""+w.postfix.Etc+"\"\n"+rules, "msg=reloaded")
}

// home is a route of the site's to its own protected senders.
type home struct {
	name   string
	main   map[string]string // DIR is the case's directory
	files  map[string]string
	master []string
	rules  string
	tables string
}

var innerHost = map[string]string{
	"relay_domains":  "clinic.example",
	"transport_maps": "inline:{ {clinic.example = relay:[mx1.none.example]} }",
}

// homes are routes that don't depend on the sender.
func homes() []home {
	const hop = "relay:[mx1.none.example]"
	routes := func(value string) map[string]string {
		return map[string]string{"relay_domains": "clinic.example", "transport_maps": value}
	}
	return []home{
		{name: "inner host", main: innerHost},
		{name: "senders in a table", main: innerHost, tables: sendersTable},
		{name: "relay_transport", main: map[string]string{"relay_domains": "clinic.example", "relay_transport": hop}},
		{name: "virtual_transport", main: map[string]string{
			"virtual_mailbox_domains": "clinic.example", "virtual_transport": "smtp:[mx1.none.example]"}},
		{name: "local_transport", main: map[string]string{
			"mydestination": "clinic.example", "local_transport": "smtp:[mx1.none.example]", "local_recipient_maps": ""}},
		{name: "one address, in a rule of its own", main: routes("inline:{ {doctor@clinic.example = " + hop + "} }"),
			rules: strings.Replace(clinicRule, "@clinic", "doctor@clinic", 1)},
		{name: "a pattern", main: routes("pcre:{ {/@clinic\\.example$$/ " + hop + "} }")},
		{name: "several hosts, a port", main: routes("inline:{ {clinic.example = relay:[mx1.none.example]:25, [mx1.mixed.example]} }")},
		{name: "by the name of a domain, others published", tables: othersAre("published"),
			main: map[string]string{"relay_domains": "clinic.example", "relay_transport": "relay:none.example"}},
	}
}

func (h home) wireCase() wireCase {
	return wireCase{name: h.name, setup: true, tables: h.tables, rules: h.rules, master: h.master,
		sites: []testnet.Site{answering("refusing.example", "550 5.1.1 no such user")},
		main: func(dir string) map[string]string {
			main := map[string]string{}
			for name, text := range h.files {
				write(dir, name, text)
			}
			for k, v := range h.main {
				main[k] = strings.ReplaceAll(v, "DIR", dir)
			}
			return main
		},
		send: func(w *wire) {
			w.readsPostfix(h.tables, h.rules)
			w.message(doctor, []string{"u@refusing.example"}, nil)
		},
		check: func(w *wire) { w.waits(doctor, noOffer) },
	}
}

// A bounce to a protected sender whose mail has a route of its own.
func TestMTAHolesHome(t *testing.T) {
	long(t)
	var cases []wireCase
	for _, h := range homes() {
		cases = append(cases, h.wireCase())
	}
	runWire(t, cases)
}

// What goes there besides waits, too, unless the site says that it stays there,
// or that bounces go as other mail does; and none of it once the route is gone.
func TestMTAHolesHomeOthers(t *testing.T) {
	long(t)
	isolated(t)
	c := home{main: innerHost}.wireCase()
	w := newWire(t, c, true)
	send := func(n int) {
		t.Helper()
		w.message("x@other.example", []string{"doctor@clinic.example"}, nil)
		if n > 0 {
			waitMessages(t, w.world, "none.example", n)
			return
		}
		w.waits(doctor, noOffer)
		w.run("postsuper", "-d", "ALL")
	}
	w.readsPostfix("", "")
	send(0)
	w.hup("[forwarding]\npostfix = \""+w.postfix.Etc+"\"\nlocal = [\"clinic.example\"]\n"+clinicRule, "msg=reloaded")
	send(1)
	w.readsPostfix("", "")
	send(0)
	// A rule that is gone binds as long as its mail may wait.
	w.readsPostfix("", strings.ReplaceAll(clinicRule, "clinic", "bank"))
	send(0)
	if err := w.postfix.Set(patient(t), map[string]string{
		"transport_maps": "inline:{ {clinic.example = relay:[mx1.good.example]} }"}); err != nil {
		t.Fatal(err)
	}
	w.readsPostfix("", "")
	w.message("x@other.example", []string{"doctor@clinic.example"}, nil)
	waitMessages(t, w.world, "good.example", 1)
}

// Bounces that go as other mail does go so here, too.
func TestMTAHolesHomeFree(t *testing.T) {
	isolated(t)
	const free = "[binding]\nbounces = \"others\"\n"
	w := newWire(t, home{main: innerHost, tables: free}.wireCase(), true)
	w.readsPostfix(free, "")
	w.message("x@other.example", []string{"doctor@clinic.example"}, nil)
	waitMessages(t, w.world, "none.example", 1)
}

// Doctor says what waits for TLS where the daemon knows the route, and a hole
// where it does not.
func TestMTAHolesDoctorHome(t *testing.T) {
	long(t)
	isolated(t)
	w := newWire(t, home{main: innerHost}.wireCase(), true)
	say := func(status int, level, code string) {
		t.Helper()
		out, got := w.program("doctor", "postfix")
		lines := found(out, code)
		if got != status || len(lines) != 1 || !strings.HasPrefix(lines[0], level) {
			t.Errorf("exit status %d, want %d; want one %s %s in\n%s", got, status, level, code, out)
		}
	}
	noted := func() bool {
		out, _ := w.program("setup", "postfix")
		return strings.Contains(out, "all mail to clinic.example, incoming mail too, waits unless [mx1.none.example]")
	}
	say(exitNo, "hole", "route-home")
	if noted() {
		t.Error("setup says of a Postfix that the daemon doesn't read that its mail waits")
	}
	w.readsPostfix("", "")
	if !noted() {
		t.Error("setup doesn't say what will wait")
	}
	say(exitOK, "warning", "route-home-held")
	w.hup("[forwarding]\npostfix = \""+w.postfix.Etc+"\"\nlocal = [\"clinic.example\"]\n"+clinicRule, "msg=reloaded")
	if out, status := w.program("doctor", "postfix"); status != exitOK || strings.Contains(out, "route-home") {
		t.Errorf("with the site's wish: exit status %d\n%s", status, out)
	}
	// A client that doesn't ask our policy map isn't held by it.
	w.readsPostfix("", "")
	w.run("postconf", "-P", "relay/unix/smtp_tls_policy_maps=")
	w.reload()
	say(exitNo, "hole", "route-home")
}

// A table that could be read before and now cannot takes nothing away.
func TestMTAHolesHomeUnread(t *testing.T) {
	long(t)
	isolated(t)
	h := home{main: map[string]string{"relay_domains": "clinic.example", "transport_maps": "texthash:DIR/routes"},
		files: map[string]string{"routes": "clinic.example relay:[mx1.none.example]\n"}}
	w := newWire(t, h.wireCase(), true)
	w.readsPostfix("", "")
	ask := func() string {
		t.Helper()
		answer, err := w.postfix.Run(patient(t), "", "postmap", "-q", "[mx1.none.example]", "socketmap:inet:127.0.0.1:8690:policy")
		if err != nil {
			return err.Error()
		}
		return strings.TrimSpace(answer)
	}
	if got := ask(); !strings.HasPrefix(got, "encrypt") {
		t.Fatalf("before: %q", got)
	}
	if err := os.Rename(filepath.Join(w.dir, "routes"), filepath.Join(w.dir, "gone")); err != nil {
		t.Fatal(err)
	}
	w.readsPostfix("", "")
	if got := ask(); !strings.HasPrefix(got, "encrypt") {
		t.Errorf("with the table unread: %q", got)
	}
	if !slices.ContainsFunc(strings.Split(w.daemon.log(), "\n"), func(line string) bool {
		return strings.Contains(line, "level=WARN") && strings.Contains(line, "texthash:"+w.dir+"/routes")
	}) {
		t.Errorf("not said in the log:\n%s", w.daemon.log())
	}
}
