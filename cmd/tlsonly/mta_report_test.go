package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// reports runs report on Postfix's log, with the rules of the case for the senders of
// a domain. The hosts of the world are on this machine, and in the log aren't.
func (w *wire) reports(domain string, args ...string) (string, int) {
	w.t.Helper()
	text, err := os.ReadFile(w.daemon.file)
	if err != nil {
		w.t.Fatal(err)
	}
	config := strings.Replace(string(text), `"@clinic.example"`, `"@`+domain+`"`, 1)
	log, err := os.ReadFile(filepath.Join(w.postfix.Dir, "log"))
	if err != nil {
		w.t.Fatal(err)
	}
	elsewhere := strings.ReplaceAll(string(log), "[127.0.1.", "[192.0.2.")
	args = append(args, "-c", write(w.dir, domain+".toml", config), write(w.dir, "mail.log", elsewhere))
	cmd := exec.CommandContext(patient(w.t), "/proc/self/exe")
	cmd.Args = append([]string{"tlsonly", "report"}, args...)
	w.postfix.Within(cmd)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// Postfix logs no TLS. What left by our transport did so over TLS, because the line
// names it; what left by another one, or by ours under a name that isn't, isn't
// known. With TLS in the log it is told.
func TestMTAReportByTransport(t *testing.T) {
	isolated(t)
	w := newWire(t, wireCase{setup: true}, true)
	says := func(domain string, status int, words ...string) {
		t.Helper()
		out, got := w.reports(domain)
		if got != status {
			t.Errorf("%s: status %d, not %d\n%s", domain, got, status, out)
		}
		for _, word := range words {
			if !strings.Contains(out, word) {
				t.Errorf("%s: no %q\n%s", domain, word, out)
			}
		}
		if status == exitUnknown && strings.Contains(out, "no violation") {
			t.Errorf("%s:\n%s", domain, out)
		}
	}
	set := func(setting string) {
		t.Helper()
		w.run("postconf", "-P", "tlsonly1/unix/"+setting)
		w.reload()
	}

	set("smtp_tls_loglevel=0")
	w.lands(doctor, "a@good.example", "good.example")
	w.by("tlsonly1", "a@good.example")
	says("clinic.example", exitOK, "by transport       "+doctor+" -> a@good.example", "over TLS: 0, in the clear: 0, by transport: 1, encrypted messages: 0, unknown: 0", "no violation")
	if out, _ := w.reports("clinic.example", "--json"); !strings.Contains(out, `"by_transport": 1`) || !strings.Contains(out, `"not_understood": 0`) {
		t.Error(out)
	}
	if out, _ := w.reports("clinic.example", "--html", "-"); !strings.Contains(out, "<b>1</b>delivered by transport") {
		t.Error(out)
	}

	w.lands(outsider, "b@good.example", "good.example")
	w.by("smtp", "b@good.example")
	says("other.example", exitUnknown, "TLS unknown", "by transport: 0, encrypted messages: 0, unknown: 1", "not known: whether one delivery used TLS")

	set("syslog_name=postfix/out")
	w.lands(doctor, "c@good.example", "good.example")
	w.by("out", "c@good.example")
	says("clinic.example", exitUnknown, "by transport: 1, encrypted messages: 0, unknown: 1")

	set("syslog_name=postfix/tlsonly1")
	set("smtp_tls_loglevel=1")
	w.lands(doctor, "d@good.example", "good.example")
	w.by("tlsonly1", "d@good.example")
	says("clinic.example", exitUnknown, "over TLS: 1, in the clear: 0, by transport: 1, encrypted messages: 0, unknown: 1")
}
