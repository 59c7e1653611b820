package rig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// SendmailConfig says what Sendmail is to be like. The zero value listens on a free port of 127.0.0.1, relays for
// 127.0.0.1 by MX to port 25, and has no milter.
type SendmailConfig struct {
	Listen      string            // address of the SMTP server, 127.0.0.1:PORT; default: a free port
	NoDNS       bool              // for a test without a DNS server: addresses aren't looked up, Mailertable must route all
	Mailertable map[string]string // domain to mailer and host: "rcpt.test" to "esmtp:[127.0.0.1]"
	Port        string            // where mail is delivered to; default: 25
	// Milter is where the milter listens, "unix:PATH" or "inet:PORT@HOST" as Sendmail writes it; empty: no milter. A path
	// must lie below a TempDir. The milter's absence is a temporary failure (F=T): without it mail would pass unseen.
	Milter string
	Mc     []string // lines of m4 put before MAILER(`smtp'): defines, features
	Rules  []string // lines put at the end: LOCAL_CONFIG, LOCAL_TLS_RCPT, LOCAL_RULESETS
}

// Sendmail is a running Sendmail.
type Sendmail struct {
	journal
	Addr string // address of the SMTP server
	Dir  string // its own directory: mta.mc, mta.cf, mq (the queue), maps
	Cf   string // its configuration file, for -C

	prefix string // where the package is
	daemon *process
	syslog *syslog
}

// Where the package is inside the namespaces, below their own directory: the cache may lie where Sendmail sees an unsafe path.
const sendmailMount = "sendmail"

// StartSendmail starts Sendmail and returns when its SMTP server listens. The caller must Stop it. It works only where
// Isolated is nil, and for one Sendmail at a time: its log goes to the one /dev/log.
func StartSendmail(ctx context.Context, cfg SendmailConfig) (*Sendmail, error) {
	s, err := startSendmail(ctx, cfg)
	if err == nil {
		return s, nil
	}
	if s != nil {
		err = fmt.Errorf("%w\n%s", err, tail(s.Log()))
		err = errors.Join(err, s.Stop())
	}
	return nil, fmt.Errorf("start sendmail: %w", err)
}

// startSendmail returns what there is to stop also with an error.
func startSendmail(ctx context.Context, cfg SendmailConfig) (*Sendmail, error) {
	if err := Isolated(); err != nil {
		return nil, err
	}
	prefix, err := mountSendmail()
	if err != nil {
		return nil, err
	}
	dir, err := TempDir()
	if err != nil {
		return nil, err
	}
	s := &Sendmail{Addr: cfg.Listen, Dir: dir, Cf: filepath.Join(dir, "mta.cf"), prefix: prefix}
	s.journal = journal{func() string { return "" }} // till there is a log
	if s.Addr == "" {
		if s.Addr, err = FreePort(); err != nil {
			return s, err
		}
	}
	if s.syslog, err = listenSyslog("/dev/log"); err != nil {
		return s, err
	}
	s.journal = journal{s.syslog.text}
	if err := s.configure(ctx, cfg); err != nil {
		return s, err
	}
	daemon := s.Command(context.WithoutCancel(ctx), "sendmail", "-C", s.Cf, "-bD", "-L", "sm-mta")
	if s.daemon, err = start(daemon, filepath.Join(dir, "sendmail.out")); err != nil {
		return s, err
	}
	return s, s.daemon.waitPort(ctx, s.Addr)
}

// mountSendmail shows the cached package where every parent directory is root's.
func mountSendmail() (string, error) {
	cached, err := sendmailCache()
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(cached); err != nil {
		return "", fmt.Errorf("%w: FetchSendmail must be called outside the namespaces first", err)
	}
	prefix := filepath.Join(stage(), sendmailMount)
	switch err := os.Mkdir(prefix, 0o755); {
	case errors.Is(err, os.ErrExist): // mounted by a start before
		return prefix, nil
	case err != nil:
		return "", err
	}
	if err := unix.Mount(cached, prefix, "", unix.MS_BIND, ""); err != nil {
		return "", errors.Join(fmt.Errorf("mount %s: %w", cached, err), os.Remove(prefix))
	}
	return prefix, nil
}

// configure writes mta.mc, has m4 make mta.cf of it, and builds the maps.
func (s *Sendmail) configure(ctx context.Context, cfg SendmailConfig) error {
	mc, err := s.mc(cfg)
	if err != nil {
		return err
	}
	hosts := "files dns"
	if cfg.NoDNS {
		hosts = "files"
	}
	files := map[string]string{"mta.mc": mc, "service.switch": "hosts\t" + hosts + "\naliases\tfiles\n", "aliases": "", "statistics": ""}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(s.Dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := os.Mkdir(filepath.Join(s.Dir, "mq"), 0o700); err != nil {
		return err
	}
	cf := filepath.Join(s.prefix, "usr/share/sendmail/cf") + "/"
	text, err := run(exec.CommandContext(ctx, "m4", "-D_CF_DIR_="+cf, cf+"m4/cf.m4", filepath.Join(s.Dir, "mta.mc")))
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.Cf, text, 0o644); err != nil {
		return err
	}
	var table bytes.Buffer
	for _, k := range slices.Sorted(maps.Keys(cfg.Mailertable)) {
		fmt.Fprintf(&table, "%s %s\n", k, cfg.Mailertable[k])
	}
	makemap := s.Command(ctx, "makemap", "-C", s.Cf, "hash", filepath.Join(s.Dir, "mailertable"))
	makemap.Stdin = &table
	if _, err := run(makemap); err != nil {
		return err
	}
	_, err = s.Run(ctx, "", "-bi")
	return err
}

// mc returns the m4 source.
func (s *Sendmail) mc(cfg SendmailConfig) (string, error) {
	host, port, err := net.SplitHostPort(s.Addr)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	define := func(name, value string) { line("define(`%s', `%s')dnl", name, value) }
	define("MAIL_SETTINGS_DIR", s.Dir+"/")
	define("STATUS_FILE", s.Dir+"/statistics")
	define("ALIAS_FILE", s.Dir+"/aliases")
	define("QUEUE_DIR", s.Dir+"/mq")
	define("confPID_FILE", s.Dir+"/sendmail.pid")
	define("confSERVICE_SWITCH_FILE", s.Dir+"/service.switch")
	define("confDOMAIN_NAME", "mta.test")
	define("confDONT_PROBE_INTERFACES", "True")
	define("confDEF_USER_ID", "65534:65534")
	define("confTO_IDENT", "0") // no query to the client's port 113
	for _, limit := range []string{"confQUEUE_LA", "confREFUSE_LA", "confDELAY_LA"} {
		define(limit, "100000") // a loaded machine must not change what a test sees
	}
	define("confMIN_QUEUE_AGE", "0") // a queue run tries every message
	line("OSTYPE(`linux')dnl")
	line("FEATURE(`no_default_msa')dnl")
	line("FEATURE(`accept_unresolvable_domains')dnl")
	if cfg.NoDNS {
		line("FEATURE(`nocanonify')dnl")
	}
	line("DAEMON_OPTIONS(`Family=inet, Name=MTA, Port=%s, Addr=%s')dnl", port, host)
	line("FEATURE(`mailertable', `hash %s/mailertable')dnl", s.Dir)
	line("RELAY_DOMAIN(`127.0.0.1')dnl")
	if cfg.Port != "" {
		define("ESMTP_MAILER_ARGS", "TCP $h "+cfg.Port)
	}
	if cfg.Milter != "" {
		line("INPUT_MAIL_FILTER(`tlsonly', `S=%s, F=T, T=C:10s;S:10s;R:60s;E:5m')dnl", cfg.Milter)
	}
	for _, l := range cfg.Mc {
		line("%s", l)
	}
	line("MAILER(`smtp')dnl")
	for _, l := range cfg.Rules {
		line("%s", l)
	}
	return b.String(), nil
}

// Command prepares one of Sendmail's programs (sendmail, makemap …); -C is the caller's to give.
func (s *Sendmail) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.prefix, "usr/libexec/sendmail", name), args...)
	cmd.Env = append(os.Environ(), libraryPath(s.prefix))
	return cmd
}

// Run runs sendmail with this configuration and the given standard input and returns its standard output: with -bt for
// rulesets, -bp for the queue.
func (s *Sendmail) Run(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := s.Command(ctx, "sendmail", append([]string{"-C", s.Cf}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := run(cmd)
	return string(out), err
}

// QueueRun tries to deliver every queued message and returns when that's done. Quarantined ones stay.
func (s *Sendmail) QueueRun(ctx context.Context) error {
	_, err := s.Run(ctx, "", "-qf") // f: in the foreground
	return err
}

// Queue returns the listing of the queue as mailq prints it; with quarantined, of the quarantined messages only.
func (s *Sendmail) Queue(ctx context.Context, quarantined bool) (string, error) {
	args := []string{"-bp"}
	if quarantined {
		args = append(args, "-qQ")
	}
	return s.Run(ctx, "", args...)
}

// Stop ends Sendmail, waits until its processes are gone and removes its directory. The log can still be read; a
// second Stop does nothing.
func (s *Sendmail) Stop() error {
	var errs []error
	if s.daemon != nil {
		errs = append(errs, s.daemon.stop())
		s.daemon = nil
	}
	if s.syslog != nil {
		errs = append(errs, s.syslog.Close())
		s.syslog = nil
	}
	return errors.Join(append(errs, os.RemoveAll(s.Dir))...)
}

// syslog is a /dev/log that keeps what it's told.
type syslog struct {
	conn *net.UnixConn
	done chan struct{}

	mu  sync.Mutex
	log strings.Builder
}

func listenSyslog(path string) (*syslog, error) {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	s := &syslog{conn: conn, done: make(chan struct{})}
	if err := os.Chmod(path, 0o666); err != nil {
		conn.Close()
		return nil, err
	}
	go s.receive()
	return s, nil
}

func (s *syslog) receive() {
	defer close(s.done)
	buf := make([]byte, 16<<10)
	for {
		n, err := s.conn.Read(buf)
		if err != nil {
			return // closed
		}
		_, line, _ := strings.Cut(string(buf[:n]), ">") // RFC 3164, section 4.1.1: <priority> comes first
		s.mu.Lock()
		s.log.WriteString(strings.TrimRight(line, "\n\x00") + "\n")
		s.mu.Unlock()
	}
}

func (s *syslog) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

// Close removes the socket; the text stays readable.
func (s *syslog) Close() error {
	err := s.conn.Close()
	<-s.done
	return errors.Join(err, os.RemoveAll(s.conn.LocalAddr().String()))
}
