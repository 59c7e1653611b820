package sendmail

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"tlsonly/internal/addr"
	"tlsonly/internal/mta"
	"tlsonly/internal/testnet/rig"
)

// finding returns the one with a code, the zero one where there is none.
func finding(found []mta.Finding, code string) mta.Finding {
	for _, f := range found {
		if f.Code == code {
			return f
		}
	}
	return mta.Finding{}
}

// Every finding has a code of its own and a place without blanks.
func TestFindingsNamed(t *testing.T) {
	startMap(t, netstring("OK DEFER"))
	l := newLab(t, bound())
	found, err := l.installation("").Doctor(l.ctx, settings())
	if err != nil {
		t.Fatal(err)
	}
	code := regexp.MustCompile(`^(sendmail|daemon)(-[a-z]+)+$`) // who answers is asked alike for both MTAs
	for _, f := range found {
		if !code.MatchString(f.Code) || strings.ContainsAny(f.Where, " \t") {
			t.Errorf("code %q, where %q: %s", f.Code, f.Where, f.Text)
		}
	}
	if f := finding(found, "sendmail-filter"); !regexp.MustCompile(`^sendmail\.cf:[1-9][0-9]*$`).MatchString(f.Where) {
		t.Errorf("the filter's place is %q", f.Where)
	}
}

// What Sendmail writes itself, and what it makes of senders: each finding and
// its opposite.
func TestDoctorReports(t *testing.T) {
	startMap(t, netstring("OK DEFER"))
	l := newLab(t, bound())
	good, err := os.ReadFile(l.Cf)
	if err != nil {
		t.Fatal(err)
	}
	queueRuns(t, l)
	copies := "O PostmasterCopy=ops@far.example\n"
	free := func(s *Settings) { s.FreeBounces = true }
	for _, c := range []struct {
		name, code string
		level      mta.Severity
		change     func(*Settings)
		edit       func(text string) string
	}{
		{"copies", "sendmail-postmaster-copy", mta.OK, nil, func(s string) string { return s + copies }},
		{"copies that are free", "sendmail-postmaster-copy", mta.Hole, free, func(s string) string { return s + copies }},
		{"no copies", "sendmail-postmaster-copy", "", free, nil},
		{"free", "sendmail-bounces-free", mta.Warning, free, nil},
		{"not free", "sendmail-bounces-free", "", nil, nil},
		{"rules of an earlier version", "sendmail-rules-old", mta.Hole, nil,
			func(s string) string { return strings.ReplaceAll(s, "$(tls_rcpt v3<", "$(tls_rcpt v2<") }},
		{"no map for reports", "sendmail-report-map-missing", mta.Hole, nil,
			func(s string) string { return strings.ReplaceAll(s, "Ktls_report ", "Kother ") }},
		{"a map elsewhere", "sendmail-report-map-elsewhere", mta.Hole, nil,
			func(s string) string {
				return regexp.MustCompile("(Ktls_report .*)8690").ReplaceAllString(s, "${1}8691")
			}},
		{"tried at once", "sendmail-proof-report-fresh", mta.Hole, nil,
			func(s string) string { return strings.ReplaceAll(s, "RREPORT $*\t\t$#error", "RREPORT $*\t\t$@ OK") }},
		{"tried at once, daemon down", "sendmail-proof-report-fresh-down", mta.Hole, nil,
			func(s string) string { return strings.ReplaceAll(s, "RREPORT $*\t\t$#error", "RREPORT $*\t\t$@ OK") }},
		{"waits", "sendmail-proof-report-fresh", mta.OK, nil, nil},
		{"never read", "sendmail-proof-report-read", mta.Broken, nil,
			func(s string) string {
				return strings.ReplaceAll(s, "(tls_read {TlsonlyRead}", "(tls_read {TlsonlyOther}")
			}},
		{"a rule of the site's own before ours", "sendmail-proof-report-read", mta.OK, nil,
			func(s string) string {
				return strings.ReplaceAll(s, "SParseLocal=98\n", "SParseLocal=98\nR$*\t$@ $1\n")
			}},
		{"rules that end before ours", "sendmail-sender-rules", mta.Warning, nil,
			func(s string) string { return strings.Replace(s, "\nSsender=1\n", "\nSsender=1\nR$*\t$@ $1\n", 1) }},
		{"rules that don't", "sendmail-sender-rules", "", nil,
			func(s string) string { return strings.Replace(s, "\nSsender=1\n", "\nSsender=1\nRx\ty\n", 1) }},
	} {
		s := settings()
		s.Protected = []Question{{addr.MustAddress("alice@clinic.example"), addr.MustAddress("bob@none.example")}}
		if c.change != nil {
			c.change(&s)
		}
		text := string(good)
		if c.edit != nil {
			if text = c.edit(text); text == string(good) {
				t.Errorf("%s: nothing to change in sendmail.cf", c.name)
			}
		}
		found, err := l.installation(text).Doctor(l.ctx, s)
		if f := finding(found, c.code); err != nil || f.Severity != c.level {
			t.Errorf("%s: %v, %q instead of %q: %s", c.name, err, f.Severity, c.level, f.Text)
		}
	}
	found, err := l.installation(string(good)).Doctor(l.ctx, settings())
	if f := finding(found, "sendmail-queue-runs"); err != nil || f.Severity != "" {
		t.Errorf("with queue runs: %v, %s", err, f.Text)
	}
	if err := os.WriteFile(filepath.Join(l.Dir, "sendmail.pid"), []byte("1\n/usr/sbin/sendmail -bd\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	found, err = l.installation(string(good)).Doctor(l.ctx, settings())
	if f := finding(found, "sendmail-queue-runs"); err != nil || f.Severity != mta.Warning {
		t.Errorf("without: %v, %s", err, f.Text)
	}
}

// Senders that become protected ones, or others, are judged so at acceptance
// only where the daemon can know.
func TestDoctorSenders(t *testing.T) {
	startMap(t, netstring("OK DEFER"))
	table := func(mode os.FileMode, makemap bool, text string) func(t *testing.T, l *lab, path string) {
		return func(t *testing.T, l *lab, path string) {
			t.Helper()
			if err := os.WriteFile(path, []byte(text), mode); err != nil {
				t.Fatal(err)
			}
			if !makemap {
				return
			}
			cmd := l.Command(l.ctx, "makemap", "-C", l.Cf, "hash", path)
			cmd.Stdin = strings.NewReader(text)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("makemap: %v: %s", err, out)
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
	}
	const turns = "doc@inside.example doctor@clinic.example\n"
	masquerade := []string{"MASQUERADE_AS(`clinic.example')dnl", "MASQUERADE_DOMAIN(`inside.example')dnl"}
	for _, c := range []struct {
		name     string
		mc       []string
		kind     string // of the genericstable
		make     func(t *testing.T, l *lab, path string)
		followed bool
		code     string
		level    mta.Severity
	}{
		{"masqueraded", masquerade, "", nil, false, "sendmail-masquerade", mta.Hole},
		{"masqueraded, and read", masquerade, "", nil, true, "sendmail-masquerade", mta.OK},
		{"as nobody protected", []string{"MASQUERADE_AS(`other.example')dnl"}, "", nil, false, "sendmail-masquerade", mta.OK},
		{"a table", nil, "hash", table(0o644, false, turns), false, "sendmail-generics", mta.Hole},
		{"a table, read", nil, "hash", table(0o644, false, turns), true, "sendmail-generics", mta.OK},
		{"a table that the daemon can't read", nil, "hash", table(0o600, false, turns), true, "sendmail-generics", mta.Hole},
		{"a table without its text", nil, "hash", table(0o644, true, turns), true, "sendmail-generics", mta.Hole},
		{"the other way round", nil, "hash", table(0o644, true, "doctor@clinic.example x@other.example\n"), true, "sendmail-generics", mta.Hole},
		{"a table that turns nobody", nil, "hash", table(0o644, true, "a@inside.example b@other.example\n"), false, "sendmail-generics", mta.OK},
		{"a table that can only be asked", nil, "ldap", nil, true, "sendmail-generics-unread", mta.Warning},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, err := rig.TempDir()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			path := filepath.Join(dir, "genericstable")
			config := bound()
			config.Mc = append(c.mc, "FEATURE(`masquerade_envelope')dnl")
			if c.kind != "" {
				kind := c.kind
				if kind == "ldap" {
					kind = "null" // which this program has; what doctor goes by is the name
				}
				config.Mc = append(config.Mc, "GENERICS_DOMAIN(`inside.example')dnl", "GENERICS_DOMAIN(`clinic.example')dnl",
					"FEATURE(`genericstable', `"+kind+" -o "+path+"')dnl")
			}
			l := newLab(t, config)
			if c.make != nil {
				c.make(t, l, path)
			}
			s := settings()
			s.Followed = c.followed
			s.Protects = func(a addr.Address) bool { return a.Domain == addr.MustDomain("clinic.example") }
			found, err := l.installation("").Doctor(l.ctx, s)
			if f := finding(found, c.code); err != nil || f.Severity != c.level {
				t.Errorf("%v, %q instead of %q: %s\n%s", err, f.Severity, c.level, f.Text, list(found))
			}
			l.stop()
		})
	}
}
