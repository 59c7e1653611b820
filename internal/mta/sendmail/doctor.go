package sendmail

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tlsonly/internal/contract"
	"tlsonly/internal/mta"
)

// Doctor looks whether the configuration binds Sendmail to the daemon, and proves the rules by asking them, with the daemon
// as it is and without one. It sends no mail. It must be able to write beside sendmail.cf, where it puts a copy for a moment.
// The error is about what it could not look at.
func (in Installation) Doctor(ctx context.Context, s Settings) ([]mta.Finding, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(in.cf())
	if err != nil {
		return nil, err
	}
	c := parseConf(string(text))
	found := slices.Concat(daemon(ctx, s), c.filter(s), in.submission(ctx), c.checkMaps(s), c.certificates(), c.features(), c.bounces(s))
	running, err := in.running(c)
	if found = append(found, running...); err != nil {
		return found, err
	}
	if c.hasRules() { // else the questions would be put to nobody
		proofs, err := in.prove(ctx, c.text, s.proofs())
		if found = append(found, proofs...); err != nil {
			return found, err
		}
	}
	senders, err := in.doctorSenders(ctx, c, s)
	return append(found, senders...), err
}

// daemon looks whether it is this daemon that answers where Sendmail asks.
func daemon(ctx context.Context, s Settings) []mta.Finding {
	milter, milterIs := mta.Daemon(ctx, s.Daemon, listener("milter", s.Milter))
	smap, smapIs := mta.Daemon(ctx, s.Daemon, listener("socketmap", s.Socketmap))
	return append([]mta.Finding{milter, smap}, mta.OneDaemon(milterIs, smapIs)...)
}

// listener reads an endpoint as Endpoint writes it.
func listener(name, endpoint string) mta.Listener {
	l := mta.Listener{Name: name, Network: "unix", Shown: endpoint}
	scheme, rest, _ := strings.Cut(endpoint, ":")
	if l.Address = rest; scheme != "unix" {
		port, host, _ := strings.Cut(rest, "@")
		l.Network, l.Address = "tcp", net.JoinHostPort(host, port)
	}
	return l
}

// check makes findings of one check; the remedy is the usual one.
type check struct {
	check string
	all   []mta.Finding
}

func (f *check) add(level mta.Severity, code, where, format string, args ...any) {
	finding := mta.Finding{Severity: level, Code: "sendmail-" + code, Where: where, Check: f.check, Text: fmt.Sprintf(format, args...)}
	if level != mta.OK {
		finding.Remedy = runSetup
	}
	f.all = append(f.all, finding)
}

// remedy replaces the last one's.
func (f *check) remedy(text string) { f.all[len(f.all)-1].Remedy = text }

// filter looks whether all mail that comes by SMTP meets the milter, and waits when it is down.
func (c conf) filter(s Settings) []mta.Finding {
	found := check{check: "filter"}
	f, there := c.filters["tlsonly"]
	switch {
	case !there:
		found.add(mta.Hole, "filter-missing", "InputMailFilters", "sendmail.cf has no filter tlsonly")
		return found.all
	case !slices.Contains(names(c.option["inputmailfilters"]), "tlsonly"):
		found.add(mta.Hole, "filter-unasked", "InputMailFilters", "InputMailFilters is %q: the filter is not asked", c.option["inputmailfilters"])
		return found.all
	}
	where := c.where("Xtlsonly")
	switch f["F"] {
	case "T", "4":
	case "R":
		found.add(mta.Warning, "filter-bounces", where, "F=R: mail bounces while the daemon restarts")
	default:
		found.add(mta.Hole, "filter-open", where, "F=%s: mail is accepted without a decision while the daemon is down", f["F"])
	}
	if f["S"] != s.Milter {
		found.add(mta.Hole, "filter-elsewhere", where, "the filter is at %s, the daemon at %s", f["S"], s.Milter)
	}
	reply, end := wait(f["T"], "R", 10*time.Second), wait(f["T"], "E", 5*time.Minute)
	if reply <= s.Deadline || end <= s.Deadline {
		found.add(mta.Warning, "filter-impatient", where,
			"T=%s: Sendmail gives up before the daemon's deadline (%s), and defers the mail", f["T"], s.Deadline)
	}
	for _, d := range c.daemons {
		equates := parseEquates(d)
		if list, own := equates["I"]; own && !slices.Contains(names(list), "tlsonly") {
			found.add(mta.Hole, "daemon-unfiltered", c.where("O DaemonPortOptions="+d), "DaemonPortOptions %q: its I= leaves the filter out", d)
			found.remedy("add tlsonly to that I=, or remove the I=")
		}
	}
	if len(found.all) == 0 {
		found.add(mta.OK, "filter", where, "all SMTP daemons ask %s, and mail waits while it is down", f["S"])
	}
	return found.all
}

// where names the line of sendmail.cf that begins so.
func (c conf) where(prefix string) string {
	number := 0
	for line := range strings.SplitSeq(c.text, "\n") {
		if number++; strings.HasPrefix(line, prefix) {
			return fmt.Sprintf("sendmail.cf:%d", number)
		}
	}
	return "sendmail.cf"
}

// hasRules reports whether there is something to prove.
func (c conf) hasRules() bool {
	return c.maps[string(contract.MapTLSRcpt)] != "" && c.sets["TlsonlyRcpt"] && c.sets["Local_tls_rcpt"] && c.sets["tls_rcpt"]
}

// reports reports whether the rules for what Sendmail writes itself are there.
func (c conf) reports() bool {
	return c.maps[string(contract.MapReport)] != "" && c.sets["Local_tls_server"] && strings.Contains(c.text, readRules) &&
		strings.Contains(c.text, writtenRules) && strings.Contains(c.text, serverRules)
}

// checkMaps looks for the socket maps and the rulesets.
func (c conf) checkMaps(s Settings) []mta.Finding {
	found := check{check: "map"}
	want := parseConf(s.config()).maps[string(contract.MapTLSRcpt)]
	for _, name := range []string{string(contract.MapTLSRcpt), string(contract.MapReport)} {
		code, where := strings.ReplaceAll(name, "tls_", "")+"-map", c.where("K"+name+" ")
		switch m := c.maps[name]; {
		case m == "":
			found.add(mta.Hole, code+"-missing", where, "sendmail.cf has no map %s", name)
		case !strings.HasPrefix(m, "socket ") || !strings.HasSuffix(m, " "+s.Socketmap):
			found.add(mta.Hole, code+"-elsewhere", where, "the map %s is %q, the daemon is at %s", name, m, s.Socketmap)
		case m != want:
			found.add(mta.Warning, code+"-changed", where, "the map %s is %q, not %q", name, m, want)
		case name == string(contract.MapTLSRcpt):
			found.add(mta.OK, code, where, "each recipient is looked up at %s", s.Socketmap)
		}
	}
	found.check = "ruleset"
	const where = "sendmail.cf"
	switch {
	case !c.sets["TlsonlyRcpt"] || !c.sets["Local_tls_rcpt"]:
		found.add(mta.Hole, "rules-missing", where, "sendmail.cf has no rulesets TlsonlyRcpt and Local_tls_rcpt")
	case !c.sets["tls_rcpt"]:
		// m4 writes it when LOCAL_TLS_RCPT is used, and else nobody calls Local_tls_rcpt.
		found.add(mta.Hole, "rules-uncalled", where, "sendmail.cf has no ruleset tls_rcpt: nothing calls Local_tls_rcpt")
	case strings.Contains(c.text, "$("+string(contract.MapTLSRcpt)+" "+contract.FormerQuestion+"<"):
		found.add(mta.Hole, "rules-old", c.where("STlsonlyRcpt"), "the rules are those of an earlier version, so what Sendmail itself writes, "+
			"and what it masquerades as a protected sender, leaves in the clear")
	case !strings.Contains(c.text, rcptRules) || !strings.Contains(c.text, answerRules) || !c.reports():
		found.add(mta.Warning, "rules-changed", where, "the rules are not as this version writes them")
	default:
		found.add(mta.OK, "rules", where, "tls_rcpt holds each recipient of each delivery to TLS")
	}
	if before, _, ours := strings.Cut(c.ruleset("sender"), writtenRules); ours && strings.Contains(before, "$@") {
		found.add(mta.Warning, "sender-rules", c.where("Ssender=1"), "your own rules in ruleset 1 may end before ours; "+
			"what Sendmail itself writes is then sent at once, and lost if it is refused")
		found.remedy("put them after our lines in sendmail.mc")
	}
	return found.all
}

// certificates looks whether the daemon can know a host by its certificate, and a recipient by its domain.
func (c conf) certificates() []mta.Finding {
	const (
		unknown = ", so the daemon recognizes no host, and mail that needs an authenticated host waits"
		another = ", so whoever answers for DNS can give a recipient another domain, and its host then counts as the right one"
	)
	found := check{check: "certificates"}
	const algorithmOption, cnameOption, resolverOption = "CertFingerprintAlgorithm", "DontExpandCnames", "ResolverOptions"
	switch algorithm := c.option["certfingerprintalgorithm"]; {
	case strings.EqualFold(algorithm, fingerprint):
		found.add(mta.OK, "fingerprint", algorithmOption, "Sendmail tells the daemon which certificate a host shows")
	case algorithm == "":
		found.add(mta.Warning, "fingerprint-unset", algorithmOption, "%s is not set%s", algorithmOption, unknown)
	default:
		found.add(mta.Warning, "fingerprint-other", algorithmOption, "%s is %q, not %s%s", algorithmOption, algorithm, fingerprint, unknown)
		found.remedy("remove confCERT_FINGERPRINT_ALGORITHM from sendmail.mc; " + runSetup)
	}
	found.check = "domains"
	switch value := c.option["dontexpandcnames"]; {
	case value != "" && strings.ContainsAny(value[:1], "tTyY"):
		found.add(mta.OK, "cnames", cnameOption, "recipients keep their domain, even if it has a CNAME")
	case value == "":
		found.add(mta.Hole, "cnames-unset", cnameOption, "%s is not set%s", cnameOption, another)
	default:
		found.add(mta.Hole, "cnames-followed", cnameOption, "%s is %q%s", cnameOption, value, another)
		found.remedy("remove confDONT_EXPAND_CNAMES from sendmail.mc; " + runSetup)
	}
	searches := true
	for _, flag := range names(strings.ToUpper(c.option["resolveroptions"])) {
		switch strings.TrimPrefix(flag, "+") {
		case "DNSRCH":
			searches = true
		case "-DNSRCH":
			searches = false
		}
	}
	if searches {
		found.add(mta.Hole, "domains-searched", resolverOption, "%s %q lacks -DNSRCH%s", resolverOption, c.option["resolveroptions"], another)
		found.remedy("remove DNSRCH from confBIND_OPTS in sendmail.mc; " + runSetup)
	} else {
		found.add(mta.OK, "domains", resolverOption, "domains of recipients are looked up as they stand")
	}
	return found.all
}

// bounces looks whether a bounce carries the message's text, and what holds bounces.
func (c conf) bounces(s Settings) []mta.Finding {
	found := check{check: "bounces"}
	if s.RedactBounces {
		if slices.Contains(names(strings.ToLower(c.option["privacyoptions"])), "nobodyreturn") {
			found.add(mta.OK, "bounces", "PrivacyOptions", "bounces carry headers only")
		} else {
			found.add(mta.Warning, "bounces-text", "PrivacyOptions",
				"PrivacyOptions lacks nobodyreturn: bounces of mail that the milter has not seen, or of an owner-alias, carry its text")
		}
	}
	to := c.option["postmastercopy"]
	switch {
	case s.FreeBounces && to != "":
		found.add(mta.Hole, "postmaster-copy", "PostmasterCopy",
			"PostmasterCopy: %s gets a copy of each bounce, which may leave in the clear, as [binding] bounces says", to)
		found.remedy(`set [binding] bounces = "encrypt", or take confCOPY_ERRORS_TO out of sendmail.mc`)
	case s.FreeBounces:
		found.add(mta.Warning, "bounces-free", "binding.bounces", `[binding] bounces = "others": a bounce of a protected message may leave in the clear`)
		found.remedy(`set it to "encrypt"`)
	case to != "":
		found.add(mta.OK, "postmaster-copy", "PostmasterCopy", "copies of bounces for %s leave over TLS or wait", to)
	}
	return found.all
}

// running looks whether the daemon that runs has this configuration: it reads it only when it starts. The time of its
// process id file is that of its start; the second line is its command.
func (in Installation) running(c conf) ([]mta.Finding, error) {
	found := check{check: "running"}
	pid := c.option["pidfile"]
	if pid == "" {
		pid = "/var/run/sendmail.pid"
	}
	path := filepath.Join("/", in.Root, pid)
	started, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		found.add(mta.Down, "down", pid, "Sendmail doesn't run: there is no %s", pid)
		found.remedy("start Sendmail")
		return found.all, nil
	}
	if err != nil {
		return nil, err
	}
	written, err := os.Stat(in.cf())
	if err != nil {
		return nil, err
	}
	if written.ModTime().After(started.ModTime()) {
		found.add(mta.Hole, "not-restarted", "sendmail.cf", "the running Sendmail started before sendmail.cf was written")
		found.remedy("restart Sendmail")
	} else {
		found.add(mta.OK, "running", "sendmail.cf", "the running Sendmail has this sendmail.cf")
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return found.all, err
	}
	_, command, _ := strings.Cut(string(text), "\n")
	if runs := slices.ContainsFunc(strings.Fields(command), func(arg string) bool { return len(arg) > 2 && strings.HasPrefix(arg, "-q") }); !runs {
		found.add(mta.Warning, "queue-runs", pid, "the running Sendmail makes no queue runs; unless another one does, deferred mail "+
			"and what Sendmail itself writes stay in the queue")
		found.remedy("start it with -q10m")
	}
	return found.all, nil
}
