package rig

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// FetchUnbound makes sure that Debian's Unbound, and what libraries it needs that aren't installed, are unpacked in the user's
// cache directory. It needs apt-get, dpkg and a network when they aren't, so it must be called before Isolate; later calls
// cost a stat.
//
// Unpacked, not installed: the package starts a service, which would take port 53 and may change the host's resolver.
func FetchUnbound(ctx context.Context) error {
	return fetch("unbound", func(work string) (string, error) { return unpackAll(ctx, work, "unbound") })
}

// UnboundConfig says what Unbound is to be like. All it doesn't know, it asks of one server.
type UnboundConfig struct {
	Listen  string // default: "127.0.0.1:53", which /etc/resolv.conf in the namespaces names
	Forward string // address of that server, 127.0.0.1:PORT, as of testnet.Signed
	Anchor  string // the trust anchor, DS or DNSKEY as a master-file line; "": nothing is validated
}

// Unbound is a running Unbound, a resolver that validates DNSSEC. It keeps no records, so that those changed behind it are
// seen at once, but which keys are good and which zones unsigned: Flush makes it forget that.
type Unbound struct {
	journal
	Addr string // where it answers, over UDP and TCP
	Dir  string // its own directory

	daemon *process
}

// StartUnbound starts Unbound and returns when it answers. It works only where Isolated is nil. The caller must Stop it.
func StartUnbound(ctx context.Context, cfg UnboundConfig) (*Unbound, error) {
	u, err := startUnbound(ctx, cfg)
	if err == nil {
		return u, nil
	}
	if u != nil {
		err = errors.Join(fmt.Errorf("%w\n%s", err, tail(u.Log())), u.Stop())
	}
	return nil, fmt.Errorf("start unbound: %w", err)
}

// startUnbound returns what there is to stop also with an error.
func startUnbound(ctx context.Context, cfg UnboundConfig) (*Unbound, error) {
	// Outside nothing would end it with the tests.
	if err := Isolated(); err != nil {
		return nil, err
	}
	prefix, err := cache("unbound")
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(prefix); err != nil {
		return nil, fmt.Errorf("%w: FetchUnbound must be called outside the namespaces first", err)
	}
	dir, err := TempDir()
	if err != nil {
		return nil, err
	}
	u := &Unbound{Addr: cmp.Or(cfg.Listen, "127.0.0.1:53"), Dir: dir}
	log := filepath.Join(dir, "log")
	u.journal = journal{func() string {
		b, _ := os.ReadFile(log) // not there: nothing logged yet
		return string(b)
	}}
	text, err := u.configuration(cfg)
	if err != nil {
		return u, err
	}
	file := filepath.Join(dir, "unbound.conf")
	for path, text := range map[string]string{file: text, filepath.Join(dir, "anchor"): cfg.Anchor + "\n"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return u, err
		}
	}
	daemon := exec.CommandContext(context.WithoutCancel(ctx), filepath.Join(prefix, "usr/sbin/unbound"), "-d", "-p", "-c", file)
	daemon.Env = append(os.Environ(), libraryPath(prefix))
	if u.daemon, err = start(daemon, log); err != nil {
		return u, err
	}
	return u, u.wait(ctx)
}

// wait returns when Unbound answers. It opens its ports before it reads the trust anchor, and its control socket last.
func (u *Unbound) wait(ctx context.Context) error {
	if err := u.daemon.waitPort(ctx, u.Addr); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var silent error
	err := poll(ctx, func() bool {
		select {
		case <-u.daemon.ended:
			silent = errors.New("ended at once")
			return true
		default:
		}
		silent = u.tell(ctx, "status")
		return silent == nil
	})
	return errors.Join(err, silent)
}

// configuration returns unbound.conf.
func (u *Unbound) configuration(cfg UnboundConfig) (string, error) {
	host, port, err := net.SplitHostPort(u.Addr)
	if err != nil {
		return "", err
	}
	upstream, upstreamPort, err := net.SplitHostPort(cfg.Forward)
	if err != nil {
		return "", fmt.Errorf("forward: %w", err)
	}
	modules, anchor := "iterator", ""
	if cfg.Anchor != "" {
		modules, anchor = "validator iterator", fmt.Sprintf("trust-anchor-file: %q", filepath.Join(u.Dir, "anchor"))
	}
	return fmt.Sprintf(`server:
	interface: %[1]s
	port: %[2]s
	outgoing-interface: 127.0.0.1
	do-ip6: no
	do-not-query-localhost: no
	directory: %[3]q
	pidfile: ""
	chroot: ""
	username: ""
	use-syslog: no
	log-time-ascii: yes
	module-config: %[4]q
	%[5]s
	trust-anchor-signaling: no
	root-key-sentinel: no
	val-log-level: 2
	ede: yes
	# Built in is that these don't exist; here the server behind decides.
	local-zone: test. nodefault
	local-zone: invalid. nodefault
	# A test asks a name that it asked before, with other flags, and means the server behind.
	aggressive-nsec: no
	rrset-roundrobin: no
	qname-minimisation: no
remote-control:
	control-enable: yes
	control-interface: %[6]q
	control-use-cert: no
forward-zone:
	name: .
	forward-addr: %[7]s@%[8]s
	forward-no-cache: yes
`, host, port, u.Dir, modules, anchor, u.control(), upstream, upstreamPort), nil
}

// control is the socket that unbound-control uses.
func (u *Unbound) control() string { return filepath.Join(u.Dir, "control") }

// Flush makes Unbound forget all it knows: which keys are good, which zones are unsigned or bogus, which servers are slow. It is
// needed when a zone was changed from signed to unsigned, or faults came or went; not for other records.
func (u *Unbound) Flush(ctx context.Context) error {
	for _, command := range []string{"flush_zone .", "flush_bogus", "flush_infra all"} {
		if err := u.tell(ctx, command); err != nil {
			return fmt.Errorf("unbound: %s: %w", command, err)
		}
	}
	return nil
}

// tell has Unbound carry out a command of unbound-control, in the protocol of that program.
func (u *Unbound) tell(ctx context.Context, command string) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", u.control())
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "UBCT1 "+command+"\n"); err != nil {
		return err
	}
	answer, err := io.ReadAll(conn)
	if err == nil && (len(answer) == 0 || strings.HasPrefix(string(answer), "error")) {
		err = fmt.Errorf("answer %q", answer)
	}
	return err
}

// Stop ends Unbound, waits until it is gone and removes its directory, the log with it. A second Stop does nothing.
func (u *Unbound) Stop() error {
	var err error
	if u.daemon != nil {
		err = u.daemon.stop()
		u.daemon = nil
	}
	return errors.Join(err, os.RemoveAll(u.Dir))
}
