package main

import (
	"bufio"
	"fmt"
	"maps"
	"net"
	"net/smtp"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"tlsonly/internal/testnet"
)

// What Postfix itself writes about a protected message, and to whomever: a
// bounce, a notice, a warning. In each case it goes to a host without TLS, where
// without the binding the message's subject is read.

// answering is a site whose host answers each RCPT alike.
func answering(domain, reply string) testnet.Site {
	return testnet.Site{Domain: domain, Hosts: []testnet.Host{{Reject: func(string) string { return reply }}}}
}

// bouncing is a case in which a protected message comes back.
type bouncing struct {
	name   string
	main   map[string]string
	files  map[string]string // in the case's directory, which stands for DIR
	master []string
	sites  []testnet.Site
	rules  string
	tables string
	to     string // of the message; default: one who is refused
	report string // who gets what Postfix writes about it
	root   string
	after  func(w *wire)
}

func (b bouncing) wireCase() wireCase {
	c := wireCase{name: b.name, master: b.master, rules: b.rules, tables: b.tables, root: b.root, setup: true}
	c.sites = append(b.sites, answering("refusing.example", "550 5.1.1 no such user"))
	c.main = func(dir string) map[string]string {
		main := maps.Clone(b.main)
		for name, text := range b.files {
			path := write(dir, name, strings.ReplaceAll(text, "DIR", dir))
			if strings.HasSuffix(name, ".forward") {
				if err := os.Chown(path, 65534, 65534); err != nil {
					panic(err)
				}
			}
		}
		for k, v := range main {
			main[k] = strings.ReplaceAll(v, "DIR", dir)
		}
		return main
	}
	to := b.to
	if to == "" {
		to = "u@refusing.example"
	}
	c.send = func(w *wire) {
		w.message(doctor, []string{to}, nil)
		if b.after != nil {
			b.after(w)
		}
	}
	c.check = func(w *wire) { w.waits(b.report, noOffer) }
	return c
}

func runBouncing(t *testing.T, cases []bouncing) {
	var all []wireCase
	for _, b := range cases {
		all = append(all, b.wireCase())
	}
	runWire(t, all)
}

// aliased are main.cf's lines for a protected sender whose mail goes elsewhere.
func aliased(more ...string) map[string]string {
	main := map[string]string{"virtual_alias_domains": "clinic.example",
		"virtual_alias_maps": "inline:{ {doctor@clinic.example = x@none.example} }"}
	for i := 0; i < len(more); i += 2 {
		main[more[i]] = more[i+1]
	}
	return main
}

func othersAre(s string) string { return fmt.Sprintf("[binding]\nothers = %q\n", s) }

// requeued puts everything that waits back to the start of the queue.
func requeued(w *wire) {
	w.settle()
	w.run("postsuper", "-r", "ALL")
	w.run("postqueue", "-f")
}

func TestMTAHolesBounces(t *testing.T) {
	long(t)
	local := func(more ...string) map[string]string {
		main := map[string]string{"mydestination": "local.example, clinic.example", "alias_maps": "texthash:DIR/aliases"}
		for i := 0; i < len(more); i += 2 {
			main[more[i]] = more[i+1]
		}
		return main
	}
	const x = "x@none.example"
	runBouncing(t, []bouncing{
		{name: "virtual alias", main: aliased(), report: x},
		{name: "virtual alias, others published", main: aliased(), report: x, tables: othersAre("published")},
		{name: "virtual alias, others off", main: aliased(), report: x, tables: othersAre("off")},
		{name: "virtual alias, static table", main: aliased(), report: x, tables: sendersTable},
		{name: "virtual alias, requeued", main: aliased(), report: x, after: requeued},
		{name: "local alias", main: local(), files: map[string]string{"aliases": "doctor " + x + "\n"}, report: x},
		{name: "included", main: local(), files: map[string]string{"aliases": "doctor :include:DIR/list\n", "list": x + "\n"}, report: x},
		{name: ".forward", main: local("forward_path", "DIR/$user.forward"),
			files:  map[string]string{"aliases": "doctor nobody@local.example\n", "nobody.forward": x + "\n"},
			report: x},
		{name: "home by a next hop", main: map[string]string{"transport_maps": "inline:{ {clinic.example = :[mx1.none.example]} }"}, report: doctor},
		{name: "another relay for the null sender", report: doctor, main: map[string]string{"relayhost": "[mx1.none.example]",
			"sender_dependent_relayhost_maps": "inline:{ {@clinic.example = [mx1.refusing.example]} }"}},
		{name: "home without TLS, others published", tables: othersAre("published"), report: doctor,
			sites: []testnet.Site{{Domain: "clinic.example", Hosts: []testnet.Host{{NoTLS: true}}}}},
		{name: "home without TLS, others off", tables: othersAre("off"), report: doctor,
			sites: []testnet.Site{{Domain: "clinic.example", Hosts: []testnet.Host{{NoTLS: true}}}}},
	})
}

func TestMTAHolesNotices(t *testing.T) {
	long(t)
	const ops = "ops@none.example"
	notice := func(class, recipient string, more ...string) map[string]string {
		main := map[string]string{"notify_classes": class}
		if recipient != "" {
			main[recipient] = ops
		}
		for i := 0; i < len(more); i += 2 {
			main[more[i]] = more[i+1]
		}
		return main
	}
	home := []testnet.Site{answering("clinic.example", "550 5.1.1 no such user either")}
	runBouncing(t, []bouncing{
		{name: "bounce", main: notice("bounce", "bounce_notice_recipient"), sites: home, report: ops},
		{name: "double bounce", main: notice("2bounce", "2bounce_notice_recipient"), sites: home, report: ops},
		{name: "postmaster alias", main: notice("2bounce", "", "mydestination", "local.example, mta.test", "alias_maps", "texthash:DIR/aliases"),
			files: map[string]string{"aliases": "postmaster " + ops + "\n"}, sites: home, report: ops},
		{name: "sender of notices", main: notice("bounce", "bounce_notice_recipient", "double_bounce_sender", "trouble+x"), sites: home, report: ops},
		{name: "sender of notices, static table", main: notice("bounce", "bounce_notice_recipient", "double_bounce_sender", "trouble+x"),
			tables: sendersTable, sites: home, report: ops},
		{name: "another key for the null sender", report: "x@none.example",
			main: aliased("empty_address_default_transport_maps_lookup_key", "nobody: <at> all")},
		{name: "another key for the null sender, static table", report: "x@none.example", tables: sendersTable,
			main: aliased("empty_address_default_transport_maps_lookup_key", "nobody@all")},
		{name: "delay warning", to: "u@later.example", main: aliased("delay_warning_time", "1s"), report: "x@none.example",
			sites: []testnet.Site{answering("later.example", "451 4.3.0 later")}, after: warned},
		{name: "delay notice", to: "u@later.example", main: notice("delay", "delay_notice_recipient", "delay_warning_time", "1s"), report: ops,
			sites: append(home, answering("later.example", "451 4.3.0 later")), after: warned},
		{name: "expired", to: "u@later.example", main: aliased("maximal_queue_lifetime", "2s"), report: "x@none.example",
			sites: []testnet.Site{answering("later.example", "451 4.3.0 later")}, after: outlived},
		{name: "delivered, as was asked", to: "team@local.example", report: "x@none.example",
			main: aliased("local_transport", "discard"), after: func(w *wire) {
				c := dial(w.t, w.address)
				c.expect("MAIL FROM:<"+doctor+">", "250")
				c.expect("RCPT TO:<team@local.example> NOTIFY=SUCCESS", "250")
				c.data("250", "Subject: "+w.marker)
			}},
	})
}

// The same in the Postfix that heeds TLS-Required.
func TestMTAHolesBounces310(t *testing.T) {
	long(t)
	root := needPostfix310(t)
	home := []testnet.Site{answering("clinic.example", "550 5.1.1 no such user either")}
	runBouncing(t, []bouncing{
		{name: "virtual alias", root: root, main: aliased(), report: "x@none.example"},
		{name: "virtual alias, static table", root: root, main: aliased(), report: "x@none.example", tables: sendersTable},
		{name: "notice", root: root, main: map[string]string{"notify_classes": "bounce", "bounce_notice_recipient": "ops@none.example"},
			sites: home, report: "ops@none.example"},
	})
}

// warned makes Postfix try until it has sent a delay warning.
func warned(w *wire) {
	waitFor(w.t, "a delay warning", func() bool {
		w.run("postqueue", "-f")
		return len(w.postfix.LogLines("sender delay notification: "))+len(w.postfix.LogLines("postmaster delay notification: ")) > 0
	})
}

// outlived makes Postfix try until it gives up.
func outlived(w *wire) {
	waitFor(w.t, "the end of the message's time", func() bool {
		w.run("postqueue", "-f")
		return len(w.postfix.LogLines("status=expired")) > 0
	})
}

// The bounce of anybody's mail waits for TLS, and leaves as it ever did where
// [binding] says so; so does the bounce of protected mail then.
func TestMTAHolesBouncesOfOthers(t *testing.T) {
	long(t)
	isolated(t)
	for _, c := range []struct {
		tables string
		leaves bool
	}{
		{"", false},
		{"[binding]\nbounces = \"others\"\n", true},
		{sendersTable, false},
		{sendersTable + "bounces = \"others\"\n", true},
	} {
		t.Run(fmt.Sprintf("%q", c.tables), func(t *testing.T) {
			w := newWire(t, wireCase{setup: true, tables: c.tables, sites: []testnet.Site{answering("refusing.example", "550 5.1.1 no such user")}}, true)
			w.message("x@none.example", []string{"u@refusing.example"}, nil)
			if !c.leaves {
				w.waits("x@none.example", noOffer)
			} else {
				waitFor(t, "the bounce to be seen in the clear", func() bool { host, _ := w.leak(); return host != "" })
			}
			out, status := w.program("doctor", "postfix")
			if strings.Contains(out, "bounces-unbound") || strings.Contains(out, "aren't sent through our transports") || status != exitOK {
				t.Errorf("doctor: exit status %d\n%s", status, out)
			}
		})
	}
}

// A probe of an address carries nothing of anybody's mail. It goes by the site's
// own transports, so that a host without TLS can say who is there.
func TestMTAHolesProbesOfAddresses(t *testing.T) {
	long(t)
	isolated(t)
	for _, tables := range []string{"", sendersTable} {
		for _, main := range []map[string]string{
			{},
			{"address_verify_sender": "<>"},
			{"double_bounce_sender": "trouble"},
			{"sender_dependent_default_transport_maps": "inline:{ {x@other.example = smtp:} }"},
		} {
			main["smtpd_recipient_restrictions"] = "reject_unverified_recipient, permit_mynetworks, reject"
			main["unverified_recipient_reject_code"] = "550"
			w := newWire(t, wireCase{setup: true, tables: tables, main: func(string) map[string]string { return maps.Clone(main) },
				sites: []testnet.Site{answering("refusing.example", "550 5.1.1 no such user")}}, true)
			c := dial(t, w.address)
			c.expect("MAIL FROM:<x@other.example>", "250")
			c.expect("RCPT TO:<u@none.example>", "250")
			c.expect("RCPT TO:<u@refusing.example>", "550")
			c.expect("QUIT", "221")
			if out, status := w.program("doctor", "postfix"); status != exitOK || strings.Contains(out, "probes-bound") {
				t.Errorf("doctor: exit status %d\n%s", status, out)
			}
			if err := w.postfix.Stop(); err != nil {
				t.Error(err)
			}
			w.daemon.stop(syscall.SIGTERM)
			w.world.Close()
		}
	}
}

// What setup has done to the lists is taken back to the letter.
func TestMTAHolesBouncesUndone(t *testing.T) {
	long(t)
	isolated(t)
	w := newWire(t, wireCase{main: func(string) map[string]string {
		return map[string]string{"sender_dependent_default_transport_maps": "inline:{ {x@other.example = smtp:} }",
			"address_verify_sender_dependent_default_transport_maps": "static:DUNNO, $sender_dependent_default_transport_maps",
			"smtpd_milters":     "inet:127.0.0.1:10026",
			"non_smtpd_milters": "$smtpd_milters"}
	}}, false)
	file := filepath.Join(w.postfix.Etc, "main.cf")
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	w.setup()
	after, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"address_verify_sender_dependent_default_transport_maps = static:DUNNO, inline:{ {x@other.example = smtp:} }\n",
		"sender_dependent_default_transport_maps = socketmap:inet:127.0.0.1:8690:sender1, inline:{ {x@other.example = smtp:} }\n",
		"non_smtpd_milters = $smtpd_milters\n",
	} {
		if !strings.Contains(strings.ReplaceAll(string(after), " =", "="), strings.ReplaceAll(want, " =", "=")) {
			t.Errorf("setup wrote no %q:\n%s", want, after)
		}
	}
	if out, _ := w.program("setup", "postfix", "--apply"); !strings.Contains(out, "nothing to change") {
		t.Errorf("setup again:\n%s", out)
	}
	if out, status := w.program("setup", "postfix", "--undo", "--apply", "--no-reload"); status != exitOK {
		t.Errorf("undo:\n%s", out)
	}
	if after, err = os.ReadFile(file); err != nil || string(after) != string(before) {
		t.Errorf("after undo: %v\n%s\nbefore:\n%s", err, after, before)
	}
}

// A content filter that knows no DSN loses the wish for headers only: the whole
// message comes back in the bounce.
func TestMTAHolesContentFilter(t *testing.T) {
	long(t)
	runBouncing(t, []bouncing{{
		name:   "content filter",
		main:   aliased("content_filter", "smtp:[127.0.0.1]:10024"),
		master: []string{"127.0.0.1:10025 inet n - n - - smtpd -o smtpd_milters= -o content_filter="},
		report: "x@none.example",
		after:  func(w *wire) { startFilter(w.t, "127.0.0.1:10024", "127.0.0.1:10025"); w.run("postqueue", "-f") },
	}})
}

// startFilter runs a filter that gives mail on as it comes, without any ESMTP
// argument.
func startFilter(t *testing.T, at, back string) {
	t.Helper()
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() { l.Close(); serving.Wait() })
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				collect(c, func(from string, to []string, text []byte) error { return smtp.SendMail(back, nil, from, to, text) })
			})
		}
	})
}

// collect speaks SMTP with a client and hands each message on.
func collect(c net.Conn, take func(from string, to []string, text []byte) error) {
	defer c.Close()
	in := bufio.NewReader(c)
	say := func(s string) { fmt.Fprintf(c, "%s\r\n", s) }
	path := func(line string) string {
		_, rest, _ := strings.Cut(line, "<")
		p, _, _ := strings.Cut(rest, ">")
		return p
	}
	var from string
	var to []string
	say("220 filter")
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		switch verb := strings.ToUpper(line); {
		case strings.HasPrefix(verb, "MAIL"):
			from, to = path(line), nil
		case strings.HasPrefix(verb, "RCPT"):
			to = append(to, path(line))
		case strings.HasPrefix(verb, "QUIT"):
			say("221 bye")
			return
		case strings.HasPrefix(verb, "DATA"):
			say("354 go on")
			var text strings.Builder
			for {
				line, err := in.ReadString('\n')
				if err != nil {
					return
				}
				if line == ".\r\n" {
					break
				}
				text.WriteString(strings.TrimPrefix(line, "."))
			}
			if err := take(from, to, []byte(text.String())); err != nil {
				say("451 " + strings.ReplaceAll(err.Error(), "\n", " "))
				continue
			}
		}
		say("250 ok")
	}
}
