// Command demo shows what tlsonly does: it starts a Postfix of its own, the
// daemon in front of it and a small internet of destinations good and bad
// behind it, sends each of them one message of a protected and one of an
// unprotected sender, and prints what happened to each. One recipient without
// TLS has an OpenPGP key, and gpg opens what arrives there. Everything runs in
// namespaces of its own and is gone when it ends.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/textproto"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/miekg/dns"

	"tlsonly/internal/testnet"
	"tlsonly/internal/testnet/rig"
)

const (
	milterAddress = "127.0.0.1:8689"
	smtpAddress   = "127.0.0.1:2525"
	resolver      = "127.0.0.1:53"
	withDANE      = "dane.example"
	withKey       = "key.example"
	protected     = "doctor@clinic.example"
	unprotected   = "news@shop.example"
)

const ruleFile = `[milter]
listen = "inet:` + milterAddress + `"
deadline = "6s"

[dns]
resolver = "` + resolver + `"

[probe]
helo = "mail.clinic.example"
timeout = "5s"
confirm = "1s"

[fallback]
listen = "inet:127.0.0.1:8692"

[[rule]]
name = "partners"
from = ["@clinic.example"]
to = ["@` + withKey + `"]
tls = "encrypt"
on_fail = "fallback"
fallback = ["openpgp"]

[[rule]]
name = "clinic"
from = ["@clinic.example"]
tls = "encrypt"
on_fail = "reject"
on_unknown = "defer"
`

func main() {
	binary := flag.String("tlsonly", "bin/tlsonly", "the daemon's `FILE`")
	flag.Parse()
	// Inside there is no network to fetch it from.
	if err := rig.FetchUnbound(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
	}
	inside, code, err := rig.Isolate()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
	if !inside {
		os.Exit(code)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := demo(ctx, *binary); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func demo(ctx context.Context, binary string) (err error) {
	sites := append([]testnet.Site{{Domain: withDANE, Offers: "DANE", Hosts: []testnet.Host{{}}}}, testnet.Sites()...)
	sites = append(sites, testnet.Site{Domain: "nowhere.example", Offers: "no such domain"},
		testnet.Site{Domain: withKey, Offers: "no STARTTLS, but a key", Hosts: []testnet.Host{{NoTLS: true}}})
	fmt.Println("Starting DNS, mail hosts, tlsonly and Postfix …")
	world, stopWorld, err := startWorld(ctx, sites)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopWorld()) }()

	recipient, err := newKeyOwner(ctx, "user@"+withKey)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, recipient.end()) }()

	file, stopDaemon, log, err := startDaemon(ctx, binary, recipient.published)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopDaemon()) }()

	postfix, err := rig.StartPostfix(ctx, rig.PostfixConfig{Listen: smtpAddress, Main: map[string]string{
		"smtp_tls_security_level":  "may",
		"smtpd_relay_restrictions": "permit_mynetworks, reject",
		"smtp_helo_timeout":        "5s",
		"smtp_connect_timeout":     "5s",
	}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, postfix.Stop()) }()

	fmt.Println("\nBinding Postfix: tlsonly setup postfix --apply, tlsonly doctor")
	tlsonly := func(args ...string) error {
		cmd := exec.CommandContext(ctx, binary, append(args, "-c", file, "--config-directory", postfix.Etc)...)
		out, err := cmd.CombinedOutput()
		fmt.Printf("\n%s\n", indent(string(out)))
		if err != nil {
			return fmt.Errorf("tlsonly %s: %w", args[0], err)
		}
		return nil
	}
	if err := tlsonly("setup", "postfix", "--apply"); err != nil {
		return err
	}
	if err := tlsonly("doctor", "postfix"); err != nil {
		return err
	}

	fmt.Printf("\nThe rule file:\n\n%s\n\n", indent(ruleFile))
	fmt.Printf("One message to each destination from %s (protected) and from %s (not).\n\n", protected, unprotected)
	rows := sendAll(sites)
	waitDelivered(ctx, world, rows)
	printTable(ctx, world, rows, recipient)
	fmt.Printf("\nWhat is accepted and has not arrived waits in Postfix's queue. What the daemon logged of its decisions, in their order\n"+
		"(a recipient that is refused first has no queue id yet):\n\n%s\n", indent(decisions(log())))
	return nil
}

// startWorld starts the destinations and what /etc/resolv.conf names: an Unbound
// that validates the world's signatures, or, where there is none, the world's own
// DNS, of which doctor will say that it doesn't validate.
func startWorld(ctx context.Context, sites []testnet.Site) (*testnet.World, func() error, error) {
	world, err := testnet.StartWorld("127.0.0.1:0", 25, sites)
	if err != nil {
		return nil, nil, err
	}
	stop, err := validate(ctx, world)
	if err == nil {
		return world, func() error { return errors.Join(stop(), world.Close()) }, nil
	}
	if err := errors.Join(err, world.Close()); !errors.Is(err, os.ErrNotExist) {
		return nil, nil, err
	}
	fmt.Println("Without Unbound nothing here validates DNSSEC: doctor will warn of it, and DANE is not used.")
	world, err = testnet.StartWorld(resolver, 25, sites)
	if err != nil {
		return nil, nil, err
	}
	return world, world.Close, nil
}

// validate signs the world's DNS and starts an Unbound for it. Error:
// os.ErrNotExist where there is no Unbound.
func validate(ctx context.Context, world *testnet.World) (stop func() error, err error) {
	zones, err := world.SignedZones(withDANE)
	if err != nil {
		return nil, err
	}
	// What doctor asks about: a name that is signed, and one that is signed wrongly.
	zones = append(zones, testnet.SignedZone{Name: "arpa."}, testnet.SignedZone{Name: "org."},
		testnet.SignedZone{Name: "dnssec-failed.org.", Fault: testnet.DNSExpired})
	signed, err := testnet.StartSigned("127.0.0.1:0", zones)
	if err != nil {
		return nil, err
	}
	name, data := world.Hosts(withDANE)[0].TLSA()
	if err := signed.SetRecords(name, dns.TypeTLSA, data); err != nil {
		return nil, errors.Join(err, signed.Close())
	}
	unbound, err := rig.StartUnbound(ctx, rig.UnboundConfig{Listen: resolver, Forward: signed.Addr(), Anchor: signed.Anchor()})
	if err != nil {
		return nil, errors.Join(err, signed.Close())
	}
	return func() error { return errors.Join(unbound.Stop(), signed.Close()) }, nil
}

// startDaemon starts tlsonly serve and waits until it takes connections. file is its configuration.
// keys is a folder of OpenPGP keys.
func startDaemon(ctx context.Context, binary, keys string) (file string, stop func() error, log func() string, err error) {
	dir, err := rig.TempDir()
	if err != nil {
		return "", nil, nil, err
	}
	file = filepath.Join(dir, "tlsonly.toml")
	logFile := filepath.Join(dir, "log")
	text := ruleFile + fmt.Sprintf("\n[openpgp]\nkeys = [%q]\n\n[store]\nurl = %q\n", keys, "sqlite://"+filepath.Join(dir, "state", "tlsonly.db"))
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return "", nil, nil, err
	}
	out, err := os.Create(logFile)
	if err != nil {
		return "", nil, nil, err
	}
	defer out.Close()
	cmd := exec.Command(binary, "serve", "-c", file)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return "", nil, nil, err
	}
	log = func() string {
		text, _ := os.ReadFile(logFile) // the file is ours; unreadable is empty
		return string(text)
	}
	stop = func() error {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			return err
		}
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("tlsonly: %w\n%s", err, log())
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		conn, err := net.Dial("tcp", milterAddress)
		if err == nil {
			conn.Close()
			return file, stop, log, nil
		}
		select {
		case <-ctx.Done():
			return "", nil, nil, errors.Join(fmt.Errorf("tlsonly takes no connections:\n%s", log()), stop())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// row is one message.
type row struct {
	site    testnet.Site
	from    string
	subject string
	reply   string
}

func (r row) accepted() bool { return strings.HasPrefix(r.reply, "250") }

// sendAll sends the messages of one sender to all sites at the same time, then those of the other.
func sendAll(sites []testnet.Site) []row {
	var all []row
	for _, from := range []string{protected, unprotected} {
		rows := make([]row, len(sites))
		var wg sync.WaitGroup
		for i, s := range sites {
			rows[i] = row{site: s, from: from, subject: fmt.Sprintf("message-%d", len(all)+i)}
			wg.Go(func() { rows[i].reply = send(rows[i]) })
		}
		wg.Wait()
		all = append(all, rows...)
	}
	return all
}

// send hands one message to Postfix and returns the reply to RCPT, or to the end of the message where that differs.
func send(r row) string {
	conn, err := textproto.Dial("tcp", smtpAddress)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	reply := ""
	step := func(want int, format string, args ...any) bool {
		if format != "" {
			if err := conn.PrintfLine(format, args...); err != nil {
				reply = err.Error()
				return false
			}
		}
		code, text, err := conn.ReadResponse(want)
		reply = fmt.Sprintf("%d %s", code, text)
		return err == nil
	}
	if !step(220, "") || !step(250, "EHLO client.example") || !step(250, "MAIL FROM:<%s>", r.from) {
		return reply
	}
	if !step(250, "RCPT TO:<user@%s>", r.site.Domain) {
		return reply
	}
	if step(354, "DATA") {
		step(250, "From: <%s>\r\nTo: <user@%s>\r\nSubject: %s\r\n\r\nHello.\r\n.", r.from, r.site.Domain, r.subject)
	}
	if strings.HasPrefix(reply, "250") {
		reply = "250 accepted"
	}
	return reply
}

// waitDelivered gives Postfix a while to deliver what it accepted.
func waitDelivered(ctx context.Context, world *testnet.World, rows []row) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for _, r := range rows {
		for r.accepted() && deliverable(r.site) && arrived(world, r) == nil {
			select {
			case <-ctx.Done():
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
}

// deliverable says whether an ordinary message can arrive there soon: after a handshake that failed Postfix waits.
func deliverable(s testnet.Site) bool {
	return len(s.Hosts) > 0 && s.Hosts[0].Fault != testnet.HangConnect && s.Hosts[0].Fault != testnet.GarbageAfter
}

// arrived is the message of a row, or its copy: one that is encrypted has its
// subject inside, and is the only one that the protected sender has there.
func arrived(world *testnet.World, r row) *testnet.Message {
	for _, m := range world.Messages(r.site.Domain) {
		if strings.Contains(string(m.Data), "Subject: "+r.subject+"\r\n") || r.from == protected && bytes.Contains(m.Data, pgpBegin) {
			return &m
		}
	}
	return nil
}

func printTable(ctx context.Context, world *testnet.World, rows []row, recipient *keyOwner) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "FROM\tDESTINATION\tOFFERS\tREPLY\tARRIVED\tOVER\tMESSAGE")
	for _, r := range rows {
		came, over, what := "no", "-", "-"
		if m := arrived(world, r); m != nil {
			came, over, what = "yes", "the clear", "as it was sent"
			if m.TLS {
				over = tls.VersionName(m.Version)
			}
			if bytes.Contains(m.Data, pgpBegin) {
				what = recipient.opens(ctx, m.Data, r.subject)
			}
		}
		who, _, _ := strings.Cut(r.from, "@")
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", who, r.site.Domain, r.site.Offers, r.reply, came, over, what)
	}
	w.Flush()
}

func decisions(log string) string {
	var b strings.Builder
	for line := range strings.Lines(log) {
		if strings.Contains(line, "msg=decision") {
			_, line, _ = strings.Cut(line, "msg=decision ")
			b.WriteString(line)
		}
	}
	return b.String()
}

func indent(s string) string {
	return "    " + strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n    ")
}
