package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"tlsonly/internal/contract"
	"tlsonly/internal/mta/sendmail"
	"tlsonly/internal/policy"
	"tlsonly/internal/testnet"
	"tlsonly/internal/testnet/rig"
)

// agreeLine is a case with what is said and done about it.
type agreeLine struct {
	agreeCase
	domain string
	from   string // the sender
	user   string // the recipient there
	tag    contract.Tag
	ours   string // the milter's answer
	theirs string // sent, bounced or deferred
	detail string
}

func (l *agreeLine) to() string { return l.user + "@" + l.domain }

// agreeWorld is the internet of the agreement test.
type agreeWorld struct {
	*testnet.World
	lines []*agreeLine
	names map[string]string // of hosts, by the words in braces
	own   string            // an address of the MTA's proxy
	probe string            // more lines of the daemon's table [probe]
	rules string
}

// TestMTAAgreement holds our verdicts against what the MTAs do with a message for the
// same destination that no milter has seen, bound by what setup writes.
func TestMTAAgreement(t *testing.T) {
	long(t)
	isolated(t)
	w := newAgreeWorld(t, agreeCases())
	t.Run("Postfix", func(t *testing.T) { w.postfix(t, "", nil) })
	t.Run("Postfix 3.10", func(t *testing.T) { w.postfix(t, needPostfix310(t), nil) })
	t.Run("Sendmail", func(t *testing.T) { w.sendmail(t) })
}

func newAgreeWorld(t *testing.T, cases []agreeCase) *agreeWorld {
	t.Helper()
	w := &agreeWorld{names: map[string]string{}, rules: clinicRule}
	var sites []testnet.Site
	for i, c := range cases {
		l := &agreeLine{agreeCase: c, domain: fmt.Sprintf("c%03d.example", i+1), from: doctor, user: "u", tag: contract.TagEncrypt}
		w.lines = append(w.lines, l)
		if c.host != nil {
			sites = append(sites, testnet.Site{Domain: l.domain, Hosts: []testnet.Host{*c.host}})
		}
	}
	sites = append(sites, testnet.Site{Domain: "two.example", Hosts: []testnet.Host{{}}},
		testnet.Site{Domain: "own.example", Hosts: []testnet.Host{{}}})
	w.World = newWorld(t, sites...)
	w.own = w.Hosts("own.example")[0].Address().Addr().String()
	var zone strings.Builder
	host := func(word, ip string) {
		name := word + ".hosts.example."
		w.names[word], w.names[word+".ip"] = name, ip+"."
		fmt.Fprintf(&zone, "%s 60 IN A %s\n", name, ip)
	}
	for word, domain := range map[string]string{"good": "good.example", "good2": "two.example", "plain": "none.example", "own": "own.example"} {
		host(word, w.Hosts(domain)[0].Address().Addr().String())
	}
	for i := range 12 {
		word := fmt.Sprintf("plain%d", i+1)
		smtp, err := testnet.StartSMTP(testnet.SMTPConfig{Listen: fmt.Sprintf("127.0.8.%d:25", i+1), Name: word + ".hosts.example"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { smtp.Close() })
		host(word, smtp.Address().Addr().String())
	}
	cert, err := w.CA.Issue(testnet.CertSpec{Names: []string{"mta.test"}})
	if err != nil {
		t.Fatal(err)
	}
	greeter, err := testnet.StartSMTP(testnet.SMTPConfig{Listen: "127.0.8.100:25", Name: "mta.test", TLS: testnet.ServerTLS(cert, 0, 0)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { greeter.Close() })
	host("greeter", "127.0.8.100")
	for i, word := range []string{"dead", "dead2", "dead3", "dead4", "dead5"} {
		host(word, fmt.Sprintf("127.0.9.%d", i+1))
	}
	host("self", "127.0.0.1")
	w.names["gone"], w.names["void"], w.names["six"] = "gone.hosts.example.", "void.hosts.example.", "six.hosts.example."
	zone.WriteString("void.hosts.example. 60 IN TXT x\nsix.hosts.example. 60 IN AAAA ::1\nmta.test. 60 IN A 127.0.0.1\nlocalhost. 60 IN A 127.0.0.1\nonelabel. 60 IN A " +
		w.Hosts("good.example")[0].Address().Addr().String() + "\n")
	for i, l := range w.lines {
		if l.row == nil {
			continue
		}
		name := "mx1." + l.domain
		script, err := l.row.Script(testnet.RowHost{Name: name, CA: w.CA, Dir: t.TempDir()})
		if err != nil {
			t.Fatalf("%s: %v", l.name, err)
		}
		ip := fmt.Sprintf("127.0.%d.%d", 20+i/200, 1+i%200)
		smtp, err := testnet.StartScript(ip+":25", name, script)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { smtp.Close() })
		fmt.Fprintf(&zone, "%s. 60 IN MX 10 %s.\n%s. 60 IN A %s\n", l.domain, name, name, ip)
	}
	for _, l := range w.lines {
		for line := range strings.Lines(l.zone) {
			zone.WriteString(w.record(l.domain, line))
		}
	}
	if err := w.AddRecords(zone.String()); err != nil {
		t.Fatal(err)
	}
	for _, l := range w.lines {
		if l.fault == "" {
			continue
		}
		for _, qtype := range anyType {
			w.DNS.SetFault(strings.ReplaceAll(l.at, "@", l.domain), qtype, l.fault)
		}
	}
	return w
}

// record makes a case's line one of a master file.
func (w *agreeWorld) record(domain, line string) string {
	for word, name := range w.names {
		if strings.Contains(line, " A {"+word+"}") {
			name = strings.TrimSuffix(name, ".")
		}
		line = strings.ReplaceAll(line, "{"+word+"}", name)
	}
	line = strings.ReplaceAll(line, "@@", domain+"."+domain+".")
	line = strings.ReplaceAll(line, "@", domain+".")
	owner, rest, _ := strings.Cut(line, " ")
	return owner + " 60 IN " + rest
}

// judge asks the daemon for all verdicts. A host that is a program of its own may not
// answer in time where much else runs here; it is asked for again.
func (w *agreeWorld) judge(t *testing.T) {
	t.Helper()
	w.ask(t, w.lines)
	for range 3 {
		var late []*agreeLine
		for _, l := range w.lines {
			if l.row != nil && strings.HasPrefix(l.ours, "y451 4.7.5 ") {
				late = append(late, l)
			}
		}
		w.ask(t, late)
	}
}

func (w *agreeWorld) ask(t *testing.T, lines []*agreeLine) {
	t.Helper()
	var group sync.WaitGroup
	next := make(chan *agreeLine, len(lines))
	for _, l := range lines {
		next <- l
	}
	close(next)
	for range 8 {
		group.Go(func() {
			m, err := testnet.DialMilter(milterAddress)
			if err != nil {
				t.Error(err)
				return
			}
			defer m.Close()
			for l := range next {
				if l.ours, err = m.Ask(l.from, l.to()); err != nil {
					t.Errorf("%s: %v", l.name, err)
					return
				}
			}
		})
	}
	group.Wait()
}

// head is the file of a daemon that has time, so that only what is seen decides.
func (w *agreeWorld) head(forwarding string) string {
	return strings.NewReplacer(`deadline = "3s"`, `deadline = "25s"`, `timeout = "2s"`, `timeout = "20s"`).Replace(daemonHead) + w.probe +
		"[cache]\nunknown = \"1s\"\n[forwarding]\n" + forwarding + w.rules
}

// postfix has a Postfix with more settings in its main.cf try all.
func (w *agreeWorld) postfix(t *testing.T, root string, more map[string]string) {
	dir, err := rig.TempDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	const unasked = "127.0.0.1:2525" // where no milter is asked
	main := map[string]string{
		"smtpd_milters": "", "non_smtpd_milters": "",
		"mydestination": "local.example", "local_transport": "local", "proxy_interfaces": w.own,
		"minimal_backoff_time": "1h", "maximal_backoff_time": "1h", "smtp_connect_timeout": "3s", "smtp_helo_timeout": "20s", "smtp_starttls_timeout": "20s",
		"smtp_mail_timeout": "5s", "smtp_quit_timeout": "1s", "smtp_data_done_timeout": "5s", "smtpd_recipient_limit": "2000",
		"virtual_mailbox_domains": "", "notify_classes": "",
	}
	maps.Copy(main, more)
	p, _ := startPostfixWith(t, rig.PostfixConfig{Root: root, Main: main, Master: []string{unasked + " inet n - n - - smtpd -o smtpd_milters="}})
	forwarding := fmt.Sprintf("postfix = %q\n", p.Etc)
	if root != "" {
		for _, name := range []string{"posttls-finger", "postconf"} {
			path := write(dir, name, "#!/bin/sh\nhere=/usr/sbin/"+name+"\n[ ! -x "+root+"$here ] || exec chroot "+root+" $here \"$@\"\nexec $here \"$@\"\n")
			if err := os.Chmod(path, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		forwarding += fmt.Sprintf("postconf = %q\n", filepath.Join(dir, "postconf"))
	}
	wi := &wire{t: t, world: w.World, postfix: p, address: p.Addr, dir: dir, daemon: startDaemon(t, w.head(forwarding))}
	wi.setup()
	wi.reload()
	wi.daemon.stop(syscall.SIGTERM) // so that it knows what setup wrote
	wi.daemon.start()
	w.judge(t)
	bySender := map[string][]*agreeLine{}
	for _, l := range w.lines {
		bySender[l.from] = append(bySender[l.from], l)
	}
	for from, lines := range bySender {
		client := dial(t, unasked)
		client.expect("MAIL FROM:<"+from+">", "250")
		for _, l := range lines {
			client.expect("RCPT TO:<"+l.to()+">", "250")
		}
		client.data("250", "Subject: agreement")
		client.expect("QUIT", "221")
	}
	tried := regexp.MustCompile(`postfix/(\S*)/smtp\[.* to=<([^>]+)>, .*status=(\w+) \((.*)\)`)
	w.wait(t, "Postfix to have tried all", func(byName map[string]*agreeLine) {
		for _, m := range tried.FindAllStringSubmatch(p.Log(), -1) {
			if l := byName[m[2]]; l != nil {
				if l.theirs, l.detail = m[3], m[4]; !strings.HasPrefix(m[1], "tlsonly") {
					t.Errorf("%s: not delivered by our transport: %s", l.name, m[0])
				}
			}
		}
	})
	w.compare(t, onPostfix)
}

// sendmail has a Sendmail with more lines of m4 try all.
func (w *agreeWorld) sendmail(t *testing.T, more ...string) {
	s, err := rig.StartSendmail(patient(t), rig.SendmailConfig{
		Mc: append([]string{"define(`confTO_CONNECT', `3s')dnl", "define(`confTO_INITIAL', `20s')dnl", "define(`confTO_HELO', `20s')dnl",
			"define(`confTO_STARTTLS', `20s')dnl", "define(`confTO_MAIL', `5s')dnl", "define(`confTO_QUIT', `1s')dnl", "define(`confTO_ICONNECT', `3s')dnl"}, more...),
		Rules: strings.Split(sendmail.Snippet(sendmail.Settings{
			Milter: "inet:8689@127.0.0.1", Socketmap: "inet:8690@127.0.0.1", Deadline: 25 * time.Second,
			MinVersion: policy.TLS12, RedactBounces: true,
		}), "\n"),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("Sendmail's log:\n%s", s.Log())
		}
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	cmd := s.Command(patient(t), "sendmail")
	library := ""
	for _, v := range cmd.Env {
		if strings.HasPrefix(v, "LD_LIBRARY_PATH=") {
			library = v
		}
	}
	over(t, "/usr/sbin/sendmail", "#!/bin/sh\nexec env "+library+" "+cmd.Path+" \"$@\"\n")
	if err := os.Chmod("/usr/sbin/sendmail", 0o755); err != nil {
		t.Fatal(err)
	}
	startDaemon(t, w.head(fmt.Sprintf("postfix = \"off\"\nsendmail = %q\n", s.Cf)))
	w.judge(t)
	var group sync.WaitGroup
	slots := make(chan struct{}, 8)
	for _, l := range w.lines {
		group.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			// No milter sees it, so it gets the tag here that one would give it.
			_, err := s.Run(patient(t), "Subject: agreement\n\nx\n", "-Am", "-odi", "-i", "-V", l.tag.EnvelopeID(), "-f", l.from, l.to())
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Errorf("%s: %v", l.name, err)
			}
		})
	}
	group.Wait()
	tried := regexp.MustCompile(`to=<?([^>,]+)>?, .*dsn=([245])\.[\d.]+, (?:reply=.*, )?stat=(.*)`)
	w.wait(t, "Sendmail to have tried all", func(byName map[string]*agreeLine) {
		for _, m := range tried.FindAllStringSubmatch(s.Log(), -1) {
			if l := byName[m[1]]; l != nil {
				l.theirs, l.detail = map[string]string{"2": "sent", "4": "deferred", "5": "bounced"}[m[2]], m[3]
			}
		}
	})
	w.compare(t, onSendmail)
}

// wait waits until read has found out what became of each message.
func (w *agreeWorld) wait(t *testing.T, what string, read func(byName map[string]*agreeLine)) {
	t.Helper()
	byName := map[string]*agreeLine{}
	for _, l := range w.lines {
		byName[l.to()], l.theirs = l, ""
	}
	defer func() {
		for _, l := range byName {
			if l.theirs == "" {
				t.Logf("%s (%s): nothing became of it", l.name, l.to())
			}
		}
	}()
	waitFor(t, what, func() bool {
		read(byName)
		return !slices.ContainsFunc(w.lines, func(l *agreeLine) bool { return l.theirs == "" })
	})
}

// compare prints the table and judges it.
func (w *agreeWorld) compare(t *testing.T, on string) {
	t.Helper()
	var text strings.Builder
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "case\tours\tthe MTA\t\t")
	totals := map[string]int{}
	for _, l := range w.lines {
		ours, _, _ := strings.Cut(strings.TrimPrefix(l.ours, "y"), " ")
		verdict := map[byte]string{'c': "accept", '4': "defer", '5': "refuse"}[(ours + " ")[0]]
		agree := false
		switch verdict {
		case "accept":
			agree = l.theirs == "sent"
		case "defer":
			agree = l.theirs == "deferred"
		case "refuse": // what is refused for want of TLS the MTA keeps trying
			agree = l.theirs != "sent"
		}
		why, explained := l.differs[on]
		what := "same"
		if !agree {
			what = "DIFFERS: " + why
		}
		totals[verdict+", "+l.theirs]++
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", l.name, verdict+" "+strings.TrimPrefix(l.ours, "y"), l.theirs+" "+l.detail, what)
		switch {
		case verdict == "accept" && !agree:
			t.Errorf("%s (%s): accepted, then %s: %s", l.name, l.domain, l.theirs, l.detail)
		case agree && explained:
			t.Errorf("%s: we and %s say the same; no longer %q", l.name, on, why)
		case !agree && !explained:
			t.Errorf("%s (%s): we say %s, %s: %s %s", l.name, l.domain, l.ours, on, l.theirs, l.detail)
		}
	}
	table.Flush()
	var sums []string
	for _, k := range slices.Sorted(maps.Keys(totals)) {
		sums = append(sums, fmt.Sprintf("%d %s", totals[k], k))
	}
	t.Logf("%s, %d destinations: %s\n%s", on, len(w.lines), strings.Join(sums, "; "), text.String())
}

// TestMTAAgreementGreeters has only the hosts that have the MTA's name somewhere.
func TestMTAAgreementGreeters(t *testing.T) {
	long(t)
	isolated(t)
	w := newAgreeWorld(t, greeters())
	t.Run("Postfix", func(t *testing.T) { w.postfix(t, "", nil) })
	t.Run("Sendmail", func(t *testing.T) { w.sendmail(t) })
}
