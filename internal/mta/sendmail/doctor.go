package sendmail

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

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
	found := slices.Concat(c.filter(s), c.binding(s), c.certificates(), c.bounces(s))
	running, err := in.running(c)
	if err != nil {
		return found, err
	}
	found = append(found, running)
	if !c.bound() {
		return found, nil // the questions would be put to nobody
	}
	proofs, err := in.prove(ctx, c.text, s.proofs())
	return append(found, proofs...), err
}

// filter looks whether all mail that comes by SMTP meets the milter, and waits when it is away.
func (c conf) filter(s Settings) []mta.Finding {
	hole := func(format string, args ...any) mta.Finding {
		return mta.Finding{Level: mta.Hole, Check: "filter", Text: fmt.Sprintf(format, args...), Remedy: runSetup}
	}
	f, there := c.filters["tlsonly"]
	switch {
	case !there:
		return []mta.Finding{hole("sendmail.cf has no filter tlsonly")}
	case !slices.Contains(names(c.option["inputmailfilters"]), "tlsonly"):
		return []mta.Finding{hole("InputMailFilters is %q: the filter is not asked", c.option["inputmailfilters"])}
	}
	var found []mta.Finding
	switch f["F"] {
	case "T", "4":
	case "R":
		found = append(found, mta.Finding{Level: mta.Warning, Check: "filter", Remedy: runSetup,
			Text: "F=R: mail bounces while the daemon restarts"})
	default:
		found = append(found, hole("F=%s: mail passes unseen while the daemon is away", f["F"]))
	}
	if f["S"] != s.Milter {
		found = append(found, hole("the filter is at %s, the daemon at %s", f["S"], s.Milter))
	}
	reply, end := wait(f["T"], "R", 10*time.Second), wait(f["T"], "E", 5*time.Minute)
	if reply <= s.Deadline || end <= s.Deadline {
		found = append(found, mta.Finding{Level: mta.Warning, Check: "filter", Remedy: runSetup,
			Text: fmt.Sprintf("T=%s: Sendmail waits no longer than the daemon may take (%s), and defers then", f["T"], s.Deadline)})
	}
	for _, d := range c.daemons {
		equates := parseEquates(d)
		if list, own := equates["I"]; own && !slices.Contains(names(list), "tlsonly") {
			found = append(found, mta.Finding{Level: mta.Hole, Check: "filter",
				Text:   fmt.Sprintf("DaemonPortOptions %q: its I= keeps the filter out", d),
				Remedy: "add tlsonly to that I=, or take the I= away"})
		}
	}
	if len(found) == 0 {
		found = append(found, mta.Finding{Level: mta.OK, Check: "filter",
			Text: "all SMTP daemons ask " + f["S"] + ", and mail waits without it"})
	}
	return found
}

// bound reports whether there is something to prove.
func (c conf) bound() bool {
	return c.maps["tls_rcpt"] != "" && c.sets["TlsonlyRcpt"] && c.sets["Local_tls_rcpt"] && c.sets["tls_rcpt"]
}

// binding looks for the socket map and the rulesets.
func (c conf) binding(s Settings) []mta.Finding {
	hole := func(check, format string, args ...any) mta.Finding {
		return mta.Finding{Level: mta.Hole, Check: check, Text: fmt.Sprintf(format, args...), Remedy: runSetup}
	}
	var found []mta.Finding
	want := parseConf(s.config()).maps["tls_rcpt"]
	switch m := c.maps["tls_rcpt"]; {
	case m == "":
		found = append(found, hole("map", "sendmail.cf has no map tls_rcpt"))
	case !strings.HasPrefix(m, "socket ") || !strings.HasSuffix(m, " "+s.Socketmap):
		found = append(found, hole("map", "the map tls_rcpt is %q, the daemon is at %s", m, s.Socketmap))
	case m != want:
		found = append(found, mta.Finding{Level: mta.Warning, Check: "map", Remedy: runSetup,
			Text: fmt.Sprintf("the map tls_rcpt is %q, not %q", m, want)})
	default:
		found = append(found, mta.Finding{Level: mta.OK, Check: "map", Text: "each recipient is asked of " + s.Socketmap})
	}
	switch {
	case !c.sets["TlsonlyRcpt"] || !c.sets["Local_tls_rcpt"]:
		found = append(found, hole("ruleset", "sendmail.cf has no rulesets TlsonlyRcpt and Local_tls_rcpt"))
	case !c.sets["tls_rcpt"]:
		// m4 writes it when LOCAL_TLS_RCPT is used, and else nobody calls Local_tls_rcpt.
		found = append(found, hole("ruleset", "sendmail.cf has no ruleset tls_rcpt: nothing calls Local_tls_rcpt"))
	case !strings.Contains(c.text, rcptRules) || !strings.Contains(c.text, answerRules):
		found = append(found, mta.Finding{Level: mta.Warning, Check: "ruleset", Remedy: runSetup,
			Text: "the rules are not those that this version writes"})
	default:
		found = append(found, mta.Finding{Level: mta.OK, Check: "ruleset", Text: "tls_rcpt holds each recipient of each delivery"})
	}
	return found
}

// certificates looks whether the daemon can know a host by its certificate, and a recipient by its domain.
func (c conf) certificates() []mta.Finding {
	const (
		unknown = ": the daemon knows no host again, and mail that needs one to prove itself waits"
		another = ": who answers for DNS can give a recipient another domain, whose host is the right one then"
	)
	var found []mta.Finding
	add := func(level mta.Level, check, text, remedy string) {
		found = append(found, mta.Finding{Level: level, Check: check, Text: text, Remedy: remedy})
	}
	switch algorithm := c.option["certfingerprintalgorithm"]; {
	case strings.EqualFold(algorithm, fingerprint):
		add(mta.OK, "certificates", "the daemon is told which certificate a host shows", "")
	case algorithm == "":
		add(mta.Warning, "certificates", "CertFingerprintAlgorithm is not set"+unknown, runSetup)
	default:
		add(mta.Warning, "certificates", fmt.Sprintf("CertFingerprintAlgorithm is %q, not %s%s", algorithm, fingerprint, unknown),
			"take confCERT_FINGERPRINT_ALGORITHM out of sendmail.mc; "+runSetup)
	}
	switch value := c.option["dontexpandcnames"]; {
	case value != "" && strings.ContainsAny(value[:1], "tTyY"):
		add(mta.OK, "domains", "recipients keep their domain, whatever CNAME it has", "")
	case value == "":
		add(mta.Hole, "domains", "DontExpandCnames is not set"+another, runSetup)
	default:
		add(mta.Hole, "domains", fmt.Sprintf("DontExpandCnames is %q%s", value, another), "take confDONT_EXPAND_CNAMES out of sendmail.mc; "+runSetup)
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
		add(mta.Hole, "domains", fmt.Sprintf("ResolverOptions %q lacks -DNSRCH%s", c.option["resolveroptions"], another),
			"take DNSRCH out of confBIND_OPTS in sendmail.mc; "+runSetup)
	} else {
		add(mta.OK, "domains", "domains of recipients are looked up as they stand", "")
	}
	return found
}

// bounces looks whether a bounce carries the message's text.
func (c conf) bounces(s Settings) []mta.Finding {
	flags := strings.ToLower(c.option["privacyoptions"])
	switch {
	case !s.RedactBounces:
		return nil
	case slices.Contains(names(flags), "nobodyreturn"):
		return []mta.Finding{{Level: mta.OK, Check: "bounces", Text: "bounces carry headers only"}}
	}
	return []mta.Finding{{Level: mta.Warning, Check: "bounces",
		Text:   "PrivacyOptions lacks nobodyreturn: bounces of what the milter has not seen, or of an owner-alias, carry its text",
		Remedy: runSetup}}
}

// running looks whether the daemon that runs has this configuration: it reads it only when it starts. The time of its
// process id file is that of its start.
func (in Installation) running(c conf) (mta.Finding, error) {
	pid := c.option["pidfile"]
	if pid == "" {
		pid = "/var/run/sendmail.pid"
	}
	started, err := os.Stat(filepath.Join("/", in.Root, pid))
	if errors.Is(err, fs.ErrNotExist) {
		return mta.Finding{Level: mta.Warning, Check: "running", Text: "no Sendmail runs: there is no " + pid,
			Remedy: "start Sendmail"}, nil
	}
	if err != nil {
		return mta.Finding{}, err
	}
	written, err := os.Stat(in.cf())
	if err != nil {
		return mta.Finding{}, err
	}
	if written.ModTime().After(started.ModTime()) {
		return mta.Finding{Level: mta.Hole, Check: "running", Text: "the Sendmail that runs started before sendmail.cf was written",
			Remedy: "restart Sendmail"}, nil
	}
	return mta.Finding{Level: mta.OK, Check: "running", Text: "the Sendmail that runs has this sendmail.cf"}, nil
}
