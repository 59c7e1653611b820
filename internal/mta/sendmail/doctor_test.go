package sendmail

import (
	"bytes"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/instance"
	"tlsonly/internal/mta"
	"tlsonly/internal/policy"
	"tlsonly/internal/testnet/rig"
)

// list writes findings one a line.
func list(fs []mta.Finding) string {
	var b strings.Builder
	for _, f := range fs {
		b.WriteString(string(f.Severity) + " " + f.Check + ": " + f.Text + " | " + f.Remedy + "\n")
	}
	return b.String()
}

// queueRuns has the Sendmail that runs look as if it made queue runs.
func queueRuns(t *testing.T, l *lab) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(l.Dir, "sendmail.pid"), []byte("1\n/usr/sbin/sendmail -bd -q10m\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestDoctor(t *testing.T) {
	startMilter(t)
	m := startMap(t, netstring("OK DEFER"))
	l := newLab(t, bound())
	s := settings()
	queueRuns(t, l)
	s.Protected = []Question{{addr.MustAddress("alice@clinic.example"), addr.MustAddress("bob@none.example")}, {addr.Address{}, addr.MustAddress("bob@none.example")}}
	found, err := l.installation("").Doctor(l.ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != 28 || strings.Contains(list(found), "warning ") || mta.Fails(found) {
		t.Errorf("%d findings of a good installation:\n%s", len(found), list(found))
	}
	if !slices.ContainsFunc(m.questions(), func(q string) bool {
		return strings.HasSuffix(q, "<alice@clinic.example><alice@clinic.example><mta.test><MAILER-DAEMON><bob@none.example>")
	}) {
		t.Errorf("asked %q", m.questions())
	}
	if entries, err := filepath.Glob(filepath.Join(l.Dir, "*doctor*")); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %q, %v", entries, err)
	}

	good, err := os.ReadFile(l.Cf)
	if err != nil {
		t.Fatal(err)
	}
	m.say(netstring("OK PASS"))
	for _, c := range []struct{ name, old, new, want string }{
		{"the daemon lets go what it must hold", "", "", "hole proof: mail from alice@clinic.example to bob@none.example leaves in the clear when the milter has not seen it"},
		{"no F=", "F=T, ", "", "hole filter: F=: mail is accepted without a decision while the daemon is down"},
		{"F=R", "F=T, ", "F=R, ", "warning filter: F=R: mail bounces"},
		{"impatient", "R:60s", "R:4s", "warning filter: T=C:10s;S:10s;R:4s;E:300s: Sendmail gives up"},
		{"another milter", "S=inet:8689@", "S=inet:8890@", "hole filter: the filter is at inet:8890@127.0.0.1, the daemon at inet:8689@127.0.0.1"},
		{"no filter", "Xtlsonly,", "Xother,", "hole filter: sendmail.cf has no filter tlsonly"},
		{"not asked", "O InputMailFilters=tlsonly", "O InputMailFilters=", "hole filter: InputMailFilters is \"\""},
		{"a daemon without filters", "Name=MTA,", "Name=MTA, I=none,", "hole filter: DaemonPortOptions"},
		{"a daemon with it", "Name=MTA,", "Name=MTA, I=other;tlsonly,", "ok filter: all SMTP daemons"},
		{"another map", "inet:8690@", "inet:8691@", "hole map: the map tls_rcpt is"},
		{"the map, shorter", "-d20", "-d2", "warning map: the map tls_rcpt is"},
		{"no map", "Ktls_rcpt", "Kother", "hole map: sendmail.cf has no map tls_rcpt"},
		{"no rules", "STlsonlyRcpt", "SOther", "hole ruleset: sendmail.cf has no rulesets"},
		{"rules that nobody calls", "\nStls_rcpt\n", "\nSother_rcpt\n", "hole ruleset: sendmail.cf has no ruleset tls_rcpt"},
		{"rules not called from tls_rcpt", `$>"Local_tls_rcpt"`, `$>canonify`, "hole proof: a protected message leaves in the clear"},
		{"rules weakened", "RNOTLS $*\t\t$#error", "RNOTLS $*\t\t$@ OK #error", "hole proof: a protected message leaves in the clear if STARTTLS fails"},
		{"rules that break off", "\nR<?> $*\t\t\t$: <?", "\nR$*\t$: $>TlsonlyRcpt $1\nR<?> $*\t\t\t$: <?", "ok proof: a protected message waits if there is no TLS"},
		{"rules edited", "RNOTLS $*\t\t$#error", "RNOTLS $* \t\t$#error", "warning ruleset: the rules are not as"},
		{"fails open without the daemon", "R$*\t\t\t$#error", "R$*\t\t\t$@ OK #error", "hole proof: mail that the milter has not seen leaves in the clear with the daemon down"},
		{"too strict", "C{TlsonlyEncrypted}OK TRUSTED FAIL", "C{TlsonlyEncrypted}OK TRUSTED", "warning proof: a protected message waits although there is TLS"},
		{"goes to any host without the daemon", "R<free TLS>", "R<$- TLS>", "hole proof: a protected message leaves to any host over TLS with the daemon down"},
		{"the same for some recipients", "R<free TLS>", "R<ask TLS>", "hole proof: a message with some protected recipients leaves to any host"},
		{"all mail stops without the daemon", "R<free TLS>", "R<nobody TLS>", "warning proof: all mail waits with the daemon down"},
		{"the daemon takes any host", "", "", "hole proof: a message of level secure leaves to any host over TLS"},
		{"no fingerprints", "O CertFingerprintAlgorithm=", "#", "warning certificates: CertFingerprintAlgorithm is not set"},
		{"other fingerprints", "O CertFingerprintAlgorithm=sha256", "O CertFingerprintAlgorithm=sha1", "warning certificates: CertFingerprintAlgorithm is \"sha1\""},
		{"CNAMEs followed", "O DontExpandCnames=True", "#", "hole domains: DontExpandCnames is not set"},
		{"CNAMEs followed on purpose", "O DontExpandCnames=True", "O DontExpandCnames=False", "hole domains: DontExpandCnames is \"False\""},
		{"other domains tried", "O ResolverOptions=-DNSRCH", "#", "hole domains: ResolverOptions \"\" lacks -DNSRCH"},
		{"other domains tried on purpose", "O ResolverOptions=-DNSRCH", "O ResolverOptions=-DNSRCH +dnsrch", "hole domains: ResolverOptions \"-DNSRCH +dnsrch\" lacks"},
		{"TLS 1.0 allowed", "C{TlsonlyOld}SSLv3 TLSv1 TLSv1.1", "C{TlsonlyOld}SSLv3", "hole proof: a protected message leaves over TLS 1.0"},
		{"bounces with text", ",nobodyreturn", "", "warning bounces: PrivacyOptions lacks nobodyreturn"},
		{"nothing runs", "O PidFile=", "O PidFile=/nowhere", "not running running: Sendmail doesn't run"},
	} {
		text := strings.ReplaceAll(string(good), c.old, c.new)
		if c.old == "" {
			text = string(good)
		} else if text == string(good) {
			t.Errorf("%s: sendmail.cf has no %q", c.name, c.old)
		}
		found, err := l.installation(text).Doctor(l.ctx, s)
		if err != nil || !strings.Contains("\n"+list(found), "\n"+c.want) {
			t.Errorf("%s: %v, no %q in\n%s", c.name, err, c.want, list(found))
		}
	}

	for _, daemon := range []instance.Identity{
		fake, instance.Expected("test", "sqlite:///tlsonly.db"), instance.Expected("test", "sqlite:///other.db"),
	} {
		s.Daemon = daemon
		found, err := l.installation(string(good)).Doctor(l.ctx, s)
		others := strings.Count(list(found), "hole daemon: another tlsonly answers")
		if want := 2; err != nil || (daemon.Instance == fake.Instance) != (others == 0) || others != 0 && others != want {
			t.Errorf("the daemon is %v, and %v is wanted: %v\n%s", fake, daemon, err, list(found))
		}
	}
	s.Daemon = instance.Identity{}

	in := l.installation(string(good))
	now := time.Now().Add(time.Hour)
	if err := os.Chtimes(in.Cf, now, now); err != nil {
		t.Fatal(err)
	}
	m.stop()
	found, err = in.Doctor(l.ctx, s)
	if err != nil || !strings.Contains(list(found), "hole running: the running Sendmail started before") ||
		!strings.Contains(list(found), "not running daemon: the daemon doesn't answer at its socketmap") ||
		!strings.Contains(list(found), "broken proof: the daemon does not answer") {
		t.Errorf("not restarted, daemon away: %v\n%s", err, list(found))
	}
	if _, err := l.installation(string(good)+"\nO NoSuchOption=x\nKbroken\n").Doctor(l.ctx, s); err == nil || !strings.Contains(err.Error(), "NoSuchOption") {
		t.Errorf("a sendmail.cf that Sendmail can't read: %v", err)
	}
}

// copyCf copies the package's m4 files to a root of the test's own, for some name others by their full path.
func copyCf(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := filepath.Join(to, strings.TrimPrefix(path, from))
		if d.IsDir() {
			return os.MkdirAll(target, 0o755)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, bytes.ReplaceAll(text, []byte("/usr/share/sendmail/cf"), []byte(to)), 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// debian makes a directory that stands for the root, and returns its /etc/mail and Debian's own sendmail.mc.
func debian(t *testing.T, l *lab) (in Installation, etc, mc string) {
	t.Helper()
	root, err := rig.TempDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	in = l.installation("")
	in.Root, in.Cf = root, ""
	cf := filepath.Join(root, "usr/share/sendmail/cf")
	copyCf(t, filepath.Join(strings.TrimSuffix(in.Program, "/usr/libexec/sendmail/sendmail"), "usr/share/sendmail/cf"), cf)
	etc = filepath.Join(root, "etc/mail")
	// What the package's scripts would have made: users and tables.
	mc = strings.NewReplacer(
		"include(`/etc/mail", "include(`"+etc,
		"FEATURE(`access_db', , `skip')", "define(`confTRUSTED_USER', `root')dnl\nFEATURE(`access_db', `hash -o "+etc+"/access', `skip')",
		"FEATURE(`use_cw_file')", "define(`confCW_FILE', `-o "+etc+"/local-host-names')",
	).Replace(read(t, filepath.Join(cf, "debian/sendmail.mc")))
	for _, name := range []string{"m4/dialup.m4", "m4/provider.m4"} {
		write(t, etc, name, "")
	}
	return in, etc, mc
}

func write(t *testing.T, etc, name, text string) {
	t.Helper()
	path := filepath.Join(etc, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o640)); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestApply(t *testing.T) {
	startMap(t, netstring("OK DEFER"))
	l := newLab(t, rig.SendmailConfig{})
	in, etc, mc := debian(t, l)
	write := func(name, text string) { t.Helper(); write(t, etc, name, text) }
	read := func(path string) string { t.Helper(); return read(t, path) }
	now := time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)
	if _, err := in.Apply(l.ctx, settings(), now); !errors.Is(err, ErrLayout) {
		t.Errorf("without sendmail.mc: %v", err)
	}
	write("sendmail.mc", mc)
	if _, err := in.Apply(l.ctx, settings(), now); !errors.Is(err, ErrLayout) {
		t.Errorf("without sendmail.cf: %v", err)
	}
	write("sendmail.cf", "# old\n")

	got, err := in.Apply(l.ctx, settings(), now)
	if err != nil || len(got.Written) != 2 || len(got.Backups) != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	if text := read(filepath.Join(etc, "sendmail.cf.20270102T030405Z")); text != "# old\n" {
		t.Errorf("backup %q", text)
	}
	if read(got.Backups[0]) != mc || read(filepath.Join(etc, "sendmail.mc")) != strings.TrimRight(mc, "\n")+"\n\n"+Snippet(settings()) {
		t.Errorf("sendmail.mc:\n%s", read(filepath.Join(etc, "sendmail.mc")))
	}
	if info, err := os.Stat(filepath.Join(etc, "sendmail.cf")); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode of sendmail.cf: %v, %v", info.Mode(), err)
	}
	c := parseConf(read(filepath.Join(etc, "sendmail.cf")))
	if f := c.option["privacyoptions"]; strings.Count(f, "nobodyreturn") != 1 || !strings.Contains(f, "authwarnings") {
		t.Errorf("PrivacyOptions %q", f)
	}
	if opts := c.option["resolveroptions"]; opts != "+WorkAroundBrokenAAAA -DNSRCH" {
		t.Errorf("ResolverOptions %q", opts)
	}
	found, err := in.Doctor(l.ctx, settings())
	if err != nil || mta.Holes(found) || !strings.Contains(list(found), "ok ruleset") {
		t.Errorf("doctor after it: %v\n%s", err, list(found))
	}

	if got, err := in.Apply(l.ctx, settings(), now.Add(time.Hour)); err != nil || len(got.Written)+len(got.Backups) > 0 {
		t.Errorf("again: %+v, %v", got, err)
	}
	other := settings()
	other.MinVersion = policy.TLS13
	if got, err := in.Apply(l.ctx, other, now.Add(2*time.Hour)); err != nil || len(got.Written) != 2 {
		t.Errorf("other settings: %+v, %v", got, err)
	}
	if n := strings.Count(read(filepath.Join(etc, "sendmail.mc")), beginMark); n != 1 {
		t.Errorf("our lines stand there %d times", n)
	}

	write("sendmail.mc", mc+"define(`confINPUT_MAIL_FILTERS', `')dnl\nDAEMON_OPTIONS(`Name=x, Port=26, I=none')\n")
	if _, err := in.Apply(l.ctx, settings(), now.Add(3*time.Hour)); err != nil {
		t.Errorf("what is for the site to mend stopped it: %v", err)
	}
	write("sendmail.mc", mc+"define(`confCERT_FINGERPRINT_ALGORITHM', `sha1')dnl\ndefine(`confDONT_EXPAND_CNAMES', `False')dnl\n")
	if _, err := in.Apply(l.ctx, settings(), now.Add(3*time.Hour+time.Minute)); err != nil {
		t.Errorf("what is for the site to say stopped it: %v", err)
	}
	found, err = in.Doctor(l.ctx, settings())
	if err != nil || !strings.Contains(list(found), "warning certificates: CertFingerprintAlgorithm is \"sha1\"") ||
		!strings.Contains(list(found), "hole domains: DontExpandCnames is \"False\"") {
		t.Errorf("doctor: %v\n%s", err, list(found))
	}
	// Nothing is touched where the result would not bind: here rules of the same name come before ours.
	write("sendmail.mc", mc+"LOCAL_RULESETS\nSTlsonlyRcpt\nR$*\t$@ PASS\n")
	before := read(filepath.Join(etc, "sendmail.cf"))
	if _, err := in.Apply(l.ctx, settings(), now.Add(4*time.Hour)); err == nil || read(filepath.Join(etc, "sendmail.cf")) != before {
		t.Errorf("rules that don't hold: %v", err)
	}
	write("sendmail.mc", strings.Replace(mc, "include(`"+filepath.Join(in.Root, "usr/share/sendmail/cf")+"/m4/cf.m4')dnl", "", 1))
	if _, err := in.Apply(l.ctx, settings(), now); !errors.Is(err, ErrLayout) {
		t.Errorf("sendmail.mc that doesn't include cf.m4: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(etc, ".tlsonly-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

// What Apply wrote is taken back: to the letter where the site has changed nothing since, else out of what it has made of it.
func TestUndo(t *testing.T) {
	startMap(t, netstring("OK PASS"))
	l := newLab(t, rig.SendmailConfig{})
	in, etc, mc := debian(t, l)
	mcPath, cfPath := filepath.Join(etc, "sendmail.mc"), filepath.Join(etc, "sendmail.cf")
	now := time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)
	after := func() time.Time { now = now.Add(time.Hour); return now }
	apply := func(s Settings) {
		t.Helper()
		if got, err := in.Apply(l.ctx, s, after()); err != nil || len(got.Written) != 2 {
			t.Fatalf("apply: %+v, %v", got, err)
		}
	}
	undo := func(written, backups int) {
		t.Helper()
		if got, err := in.Undo(l.ctx, after()); err != nil || len(got.Written) != written || len(got.Backups) != backups {
			t.Fatalf("undo: %+v, %v", got, err)
		}
	}
	if _, err := in.Undo(l.ctx, now); !errors.Is(err, ErrLayout) {
		t.Errorf("without sendmail.mc: %v", err)
	}
	mc += "\n\n" // what setup would leave out
	write(t, etc, "sendmail.mc", mc)
	write(t, etc, "sendmail.cf", "# by hand\n")
	undo(0, 0)

	apply(settings())
	other := settings()
	other.MinVersion = policy.TLS13
	apply(other) // its copies have our lines in them
	undo(2, 2)
	if read(t, mcPath) != mc || read(t, cfPath) != "# by hand\n" {
		t.Errorf("after undo:\n%s\n%s", read(t, mcPath), read(t, cfPath))
	}
	undo(0, 0)

	// The site's own change since then stays, and sendmail.cf has it.
	apply(settings())
	write(t, etc, "sendmail.mc", "dnl the site's\n"+read(t, mcPath)+"LOCAL_CONFIG\nCwsite.test\n")
	undo(2, 2)
	if got, want := read(t, mcPath), "dnl the site's\n"+strings.TrimRight(mc, "\n")+"\n\nLOCAL_CONFIG\nCwsite.test\n"; got != want {
		t.Errorf("sendmail.mc is\n%s\nwant\n%s", got, want)
	}
	c := parseConf(read(t, cfPath))
	if c.ours() || !strings.Contains(c.text, "\nCwsite.test\n") || strings.Contains(strings.ToLower(string(withoutComments([]byte(c.text)))), "tlsonly") {
		t.Errorf("sendmail.cf:\n%s", c.text)
	}
	undo(0, 0)

	// Somebody has taken the lines out and not made sendmail.cf anew.
	apply(settings())
	write(t, etc, "sendmail.mc", mc)
	undo(1, 1)
	if parseConf(read(t, cfPath)).ours() || read(t, mcPath) != mc {
		t.Error("ours in sendmail.cf alone: it is still there")
	}

	// What can't be told apart is left alone.
	for _, bad := range []string{mc + beginMark + "\n", mc + Snippet(settings()) + Snippet(settings()) + endMark + "\n",
		mc + Snippet(settings()) + "LOCAL_CONFIG\nXtlsonly, S=inet:1@127.0.0.1\n", mc + Snippet(settings()) + "LOCAL_CONFIG\nO NoSuchOption=1\n"} {
		write(t, etc, "sendmail.mc", bad)
		write(t, etc, "sendmail.cf", "STlsonlyRcpt\n")
		if got, err := in.Undo(l.ctx, after()); err == nil || read(t, mcPath) != bad || read(t, cfPath) != "STlsonlyRcpt\n" {
			t.Errorf("%+v, %v", got, err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(etc, ".tlsonly-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

// What programs hand in must go to the Sendmail whose filter is asked.
func TestDoctorSubmission(t *testing.T) {
	in := Installation{Cf: filepath.Join(t.TempDir(), "sendmail.cf")}
	submit := filepath.Join(filepath.Dir(in.Cf), submitFile)
	if found := in.submission(t.Context()); len(found) > 0 {
		t.Errorf("no submit.cf: %s", list(found))
	}
	for host, want := range map[string]mta.Severity{
		"[127.0.0.1]": mta.OK, "[localhost]": mta.OK, "localhost": mta.OK, "[IPv6:::1]": mta.OK, "[LOCALHOST.]": mta.OK, "127.0.0.1": mta.OK,
		"[192.0.2.1]": mta.Hole, "hub.example": mta.Hole, "[IPv6:2001:db8::1]": mta.Hole,
	} {
		if err := os.WriteFile(submit, []byte("V10/Berkeley\nDj$w.test\nD{MTAHost}"+host+"\nSlocalhost\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		found := in.submission(t.Context())
		if len(found) != 1 || found[0].Severity != want || found[0].Where != "submit.cf:3" || (found[0].Remedy == "") != (want == mta.OK) {
			t.Errorf("%s: %s", host, list(found))
		}
	}
	if err := os.WriteFile(submit, []byte("V10/Berkeley\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if found := in.submission(t.Context()); len(found) > 0 {
		t.Errorf("no such host in it: %s", list(found))
	}
}

// A name is this host where all its addresses are.
func TestLocal(t *testing.T) {
	known := map[string][]netip.Addr{
		"mail.example": {netip.MustParseAddr("127.0.0.1")},
		"hub.example":  {netip.MustParseAddr("192.0.2.1")},
		"both.example": {netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("192.0.2.1")},
		"none.example": {},
	}
	lookup := func(name string) ([]netip.Addr, error) {
		if ips, ok := known[name]; ok {
			return ips, nil
		}
		return nil, errors.New("no answer")
	}
	for host, want := range map[string]bool{
		"[mail.example]": true, "mail.example": false, "[hub.example]": false, "[both.example]": false, "[none.example]": false,
	} {
		if got, err := local(host, lookup); got != want || err != nil {
			t.Errorf("%s: %v, %v", host, got, err)
		}
	}
	if here, err := local("[down.example]", lookup); here || err == nil {
		t.Errorf("a name that nobody answers for: %v, %v", here, err)
	}
}
