package rig_test

import (
	"fmt"
	"net/netip"
	"net/smtp"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"tlsonly/internal/destination/starttls"
	"tlsonly/internal/policy"
	"tlsonly/internal/profile"
	"tlsonly/internal/testnet"
	"tlsonly/internal/testnet/rig"
)

// rowWorld is a host of each row, and DNS that leads to it.
type rowWorld struct {
	t     *testing.T
	rows  []testnet.Row
	ca    *testnet.CA
	hosts []*testnet.Scripted
}

func (w *rowWorld) domain(i int) string { return fmt.Sprintf("d%d.example", i) }
func (w *rowWorld) name(i int) string   { return fmt.Sprintf("mx.d%d.example", i) }
func (w *rowWorld) ip(i int) string     { return fmt.Sprintf("127.0.%d.%d", 2+i/200, 1+i%200) }

func startRows(t *testing.T, rows []testnet.Row) *rowWorld {
	t.Helper()
	ca, err := testnet.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	w := &rowWorld{t: t, rows: rows, ca: ca}
	zone := "$ORIGIN example.\n$TTL 60\n@ IN SOA ns.example. hostmaster.example. 1 60 60 60 60\n@ IN NS ns.example.\n"
	for i, row := range rows {
		script, err := row.Script(testnet.RowHost{Name: w.name(i), CA: ca, Dir: t.TempDir()})
		if err != nil {
			t.Fatal(row.Name, err)
		}
		host, err := testnet.StartScript(w.ip(i)+":25", w.name(i), script)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { host.Close() })
		w.hosts = append(w.hosts, host)
		zone += fmt.Sprintf("%s. IN MX 10 %s.\n%s. IN A %s\n", w.domain(i), w.name(i), w.name(i), w.ip(i))
	}
	dns, err := testnet.StartDNS("127.0.0.1:53", zone)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dns.Close() })
	return w
}

// deliver sends a message to each host and returns those that have one over TLS,
// and what the MTA logged of each.
func (w *rowWorld) deliver(addr string, log func() string, done *regexp.Regexp) (taken []bool, said []string) {
	w.t.Helper()
	before := make([]int, len(w.hosts))
	for i, h := range w.hosts {
		before[i], _ = h.Taken()
	}
	var group sync.WaitGroup
	slots := make(chan struct{}, 8)
	for i := range w.rows {
		group.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			to := "u@" + w.domain(i)
			if err := smtp.SendMail(addr, nil, "a@clinic.example", []string{to}, []byte("Subject: x\r\n\r\nx\r\n")); err != nil {
				w.t.Errorf("%s: %v", to, err)
			}
		})
	}
	group.Wait()
	found := map[string]string{}
	for end := time.Now().Add(5 * time.Minute); len(found) < len(w.rows) && time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		for _, m := range done.FindAllStringSubmatch(log(), -1) {
			found[m[1]] = m[2]
		}
	}
	for i, h := range w.hosts {
		secure, _ := h.Taken()
		taken = append(taken, secure > before[i])
		said = append(said, found[w.domain(i)])
		if found[w.domain(i)] == "" {
			w.t.Errorf("%s: nothing logged", w.rows[i].Name)
		}
	}
	return taken, said
}

var (
	postfixDone  = regexp.MustCompile(`to=<u@(d\d+\.example)>.* (status=.*)`)
	sendmailDone = regexp.MustCompile(`to=<u@(d\d+\.example)>.* (stat=.*)`)
)

// probes says what a probe for an MTA makes of each host.
func (w *rowWorld) probes(mta profile.MTA) []policy.Observation {
	w.t.Helper()
	p := starttls.Prober{HELO: "mta.test", Timeout: time.Minute, MTA: func() profile.MTA { return mta }}
	found := make([]policy.Observation, len(w.rows))
	var group sync.WaitGroup
	slots := make(chan struct{}, 8)
	for i := range w.rows {
		group.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			found[i] = p.Probe(w.t.Context(), starttls.Target{Address: netip.MustParseAddrPort(w.ip(i) + ":25"), Name: w.name(i)})
		})
	}
	group.Wait()
	return found
}

// What Postfix and Sendmail do with a host of each row, and what a probe makes of it.
func TestRows(t *testing.T) {
	rig.Long(t)
	needIsolation(t)
	rows := append(testnet.Dialects(), testnet.Stacks()...)
	w := startRows(t, rows)
	toPostfix, toSendmail := w.probes(profile.For(profile.Postfix)), w.probes(profile.For(profile.Sendmail))
	policies := ""
	for i, o := range toPostfix {
		policies += w.domain(i) + " encrypt"
		if !o.Unnamed {
			policies += " servername=hostname"
		}
		policies += "\n"
	}
	dir, err := rig.TempDir()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/policy", []byte(policies), 0o644); err != nil {
		t.Fatal(err)
	}
	main := map[string]string{"smtp_tls_policy_maps": "texthash:" + dir + "/policy", "smtp_tls_security_level": "encrypt", "smtp_helo_timeout": "20s", "smtp_starttls_timeout": "20s",
		"smtp_quit_timeout": "1s", "smtp_mail_timeout": "20s", "smtp_tls_loglevel": "1"}
	p, err := rig.StartPostfix(t.Context(), rig.PostfixConfig{Main: main})
	if err != nil {
		t.Fatal(err)
	}
	postfix, postfixSaid := w.deliver(p.Addr, p.Log, postfixDone)
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	var mc []string
	for _, name := range []string{"INITIAL", "HELO", "STARTTLS", "MAIL", "QUIT", "CONNECT"} {
		mc = append(mc, "define(`confTO_"+name+"', `20s')dnl")
	}
	s, err := rig.StartSendmail(t.Context(), rig.SendmailConfig{Mc: mc})
	if err != nil {
		t.Fatal(err)
	}
	sendmail, sendmailSaid := w.deliver(s.Addr, s.Log, sendmailDone)
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	for i, row := range rows {
		mark := ""
		if row.Postfix != postfix[i] || row.Sendmail != sendmail[i] {
			mark = "  <<< MTA"
			t.Errorf("%s: Postfix %v, Sendmail %v, want %v, %v", row.Name, postfix[i], sendmail[i], row.Postfix, row.Sendmail)
		}
		op, os := toPostfix[i], toSendmail[i]
		sawPostfix, sawSendmail := op.Outcome == policy.SawTLS, os.Outcome == policy.SawTLS
		if row.Untold {
			if op.Outcome != policy.SawUnreachable || os.Outcome != policy.SawUnreachable {
				t.Errorf("%s: the probe says %s, %s of what it can't tell", row.Name, op.Outcome, os.Outcome)
			}
		} else if sawPostfix != postfix[i] || sawSendmail != sendmail[i] {
			mark += "  <<< probe"
			t.Errorf("%s: the probe says %v for Postfix, %v for Sendmail, which take %v, %v", row.Name, sawPostfix, sawSendmail, postfix[i], sendmail[i])
		}
		t.Logf("%-45s P %-5v S %-5v%s\n   %.150s\n   %.150s\n   P %s %s %s\n   S %s %s %s\n   %s", row.Name, postfix[i], sendmail[i], mark, postfixSaid[i], sendmailSaid[i],
			op.Outcome, op.Stage, op.Detail, os.Outcome, os.Stage, os.Detail, strings.Join(w.hosts[i].Errors(), "; "))
	}
}
