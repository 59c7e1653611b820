package postfix

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"tlsonly/internal/contract"
)

// What Postfix needs so that it can hold mail to the levels secure and dane-only: authorities to verify certificates by, and
// DNSSEC's word in answers. Without them such mail waits.

// bundles are where systems keep all authorities in one file: Debian, Red Hat, SUSE, Alpine and the BSDs.
func bundles() []string {
	return []string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
		"/etc/ssl/cert.pem", "/usr/local/share/certs/ca-root-nss.crt"}
}

// systemBundle returns the system's, "" for none. A file, for smtp(8) reads it before it enters its chroot; a directory would
// have to be there a second time (postconf(5), smtp_tls_CApath).
func systemBundle() string {
	for _, path := range bundles() {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path
		}
	}
	return ""
}

// authorities returns the options by which a transport like the service knows authorities, none where it does without.
func (p *planner) authorities(s Service) map[string]string {
	if p.CAFile != "" {
		alone := map[string]string{"smtp_tls_CAfile": p.CAFile}
		if p.facts.option(s, "smtp_tls_CApath") != "" {
			alone["smtp_tls_CApath"] = ""
		}
		if p.facts.option(s, "tls_append_default_CA") == "yes" {
			alone["tls_append_default_CA"] = "no"
		}
		return alone
	}
	file := p.facts.option(s, "smtp_tls_CAfile")
	if _, own := s.Options["smtp_tls_CAfile"]; !own {
		if before, ours := p.facts.setByUs("smtp_tls_CAfile", authorityParameter); ours {
			file = before
		}
	}
	switch dir := p.facts.option(s, "smtp_tls_CApath"); {
	case file != "":
		return map[string]string{"smtp_tls_CAfile": file}
	case dir != "":
		return map[string]string{"smtp_tls_CApath": dir}
	case p.facts.option(s, "tls_append_default_CA") == "yes" || p.facts.Bundle == "":
		return nil
	}
	return map[string]string{"smtp_tls_CAfile": p.facts.Bundle}
}

// withoutDNS reports whether the site has Postfix do without DNS, which isn't ours to change.
func (f Facts) withoutDNS(s Service) bool {
	return f.option(s, "smtp_dns_support_level") == "disabled" || f.option(s, "disable_dns_lookups") == "yes"
}

// verifying plans what the policies in main.cf need, for all other mail.
func (p *planner) verifying() {
	give := func(name, reference, value string, needed bool) {
		before, ours := p.facts.setByUs(name, reference)
		switch {
		case value != "" && needed && (ours || p.facts.Set[name] == ""):
			p.setup.parameter(p.facts, name, value)
		case ours:
			p.setup.parameter(p.facts, name, before)
		}
	}
	smtp := Service{}
	value := p.authorities(smtp)["smtp_tls_CAfile"]
	alone := p.facts.value("smtp_tls_CApath") == "" && p.facts.value("tls_append_default_CA") != "yes"
	give("smtp_tls_CAfile", authorityParameter, value, p.Others != contract.OthersOff && alone)
	give("smtp_dns_support_level", dnsParameter, "dnssec", p.Others != contract.OthersOff && p.DANE && !p.facts.withoutDNS(smtp))
	if level := p.facts.value("smtp_dns_support_level"); p.DANE && level != "" && level != "dnssec" {
		p.setup.note("smtp_dns_support_level = %s is yours and stays, so mail that needs DANE waits", level)
	}
}

// verifies looks whether the service can verify what it may be told to.
func (d *doctor) verifies(name string, s Service) {
	warn := func(code, parameter, remedy, format string, args ...any) {
		d.warn(code, s.placeOf(parameter), remedy, name+": "+format, args...)
	}
	switch {
	case !d.DANE:
	case d.withoutDNS(s):
		warn("verify-dns-off", "smtp_dns_support_level", "postconf -X disable_dns_lookups, postconf -e smtp_dns_support_level=dnssec, if DNS works here",
			"Postfix makes no DNS lookups, so mail that needs DANE waits")
	case d.option(s, "smtp_dns_support_level") != "dnssec":
		warn("verify-dnssec", "smtp_dns_support_level", runSetup, "smtp_dns_support_level isn't dnssec, so mail that needs DANE waits")
	}
	file, dir := d.option(s, "smtp_tls_CAfile"), d.option(s, "smtp_tls_CApath")
	if d.CAFile != "" && (file != d.CAFile || dir != "" || d.option(s, "tls_append_default_CA") == "yes") {
		warn("verify-ca-other", "smtp_tls_CAfile", "postconf -e smtp_tls_CAfile="+d.CAFile+", or "+runSetup,
			"smtp_tls_CAfile isn't only [probe] ca_file, so Postfix trusts other authorities than the daemon")
	}
	if file != "" {
		// tls(3) switches TLS off where it can't be loaded.
		if err := readable(file); err != nil {
			warn("verify-ca-unreadable", "smtp_tls_CAfile", "name a file that exists, and run "+runSetup, "smtp_tls_CAfile: %v: without it there is no TLS, so mail waits", err)
		}
		return
	}
	if d.option(s, "tls_append_default_CA") == "yes" {
		return
	}
	if dir == "" {
		warn("verify-ca-missing", "smtp_tls_CAfile", runSetup, "no smtp_tls_CAfile, so mail that needs a verified certificate waits")
		return
	}
	if d.chrooted(s) {
		dir = filepath.Join(d.value("queue_directory"), dir)
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		warn("verify-ca-chroot", "smtp_tls_CApath", "name a file, smtp_tls_CAfile, which is read before the chroot",
			"smtp_tls_CApath: there is no %s, so mail that needs a verified certificate waits", dir)
	}
}

// readable reports why a file of authorities can't be read. What only root may read can: smtp(8) reads it before it becomes
// another user.
func readable(path string) error {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrPermission) {
		return nil // then it is we who aren't root
	}
	if err == nil && !strings.Contains(string(text), "BEGIN ") {
		err = &fs.PathError{Op: "read", Path: path, Err: errors.New("no certificate in it")}
	}
	return err
}
