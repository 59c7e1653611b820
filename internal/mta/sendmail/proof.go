package sendmail

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"tlsonly/internal/contract"
	"tlsonly/internal/mta"
	"tlsonly/internal/policy"
)

// proof is one question to the ruleset tls_rcpt, asked of sendmail -bt as at delivery, and what must come out.
type proof struct {
	code                             string
	verify, version, envid, from, to string
	// report asks tls_server about what Sendmail wrote itself instead: for the
	// process that wrote it, or, where it has been read, for a queue run.
	report reportState
	name   string // which the report is from

	want     []string     // enhanced codes, "" for consent
	text     string       // what is true when one of them comes out
	failed   mta.Severity // when none does, and what is true then
	untrue   string
	remedy   string
	noDaemon bool // asked with a socket map where nobody answers
}

// address is a recipient that no real one is (RFC 2606, section 2).
const address = "postmaster@tlsonly.invalid"

// reportState is where a report is.
type reportState int

const (
	noReport reportState = iota
	freshReport
	readReport
)

const (
	refusal   = "*" // whatever its code: the site's own rules may refuse, too
	codeTLS   = "4.7.10"
	codeRight = "4.7.10 authenticated" // the same, for the host and not for TLS
	codeNever = "5.0.0"                // REJECT; 4.7.5 is what comes when nobody answers, or nothing that is understood
)

// proofRead is the finding about reports that come out of the queue.
const proofRead = "sendmail-proof-report-read"

const runSetup = "run tlsonly setup sendmail --apply, and restart Sendmail"

// proofs are what Doctor asks.
func (s Settings) proofs() []proof {
	const (
		access = "find out what else tls_rcpt requires: TLS_Rcpt: in the access map, or your own rules"
		start  = "start tlsonly, and make its [socketmap] listen the same as in sendmail.cf"
	)
	tag, some, name := contract.TagEncrypt.EnvelopeID(), contract.TagAsk.EnvelopeID(), contract.TagName.EnvelopeID()
	waits, goes := []string{refusal}, []string{""}
	ps := []proof{{
		code: "clear", verify: "NONE", envid: tag, want: waits, text: "a protected message waits if there is no TLS",
		failed: mta.Hole, untrue: "a protected message leaves in the clear", remedy: runSetup,
	}, {
		code: "starttls-fails", verify: "TEMP", envid: tag, want: waits, text: "a protected message waits if STARTTLS fails",
		failed: mta.Hole, untrue: "a protected message leaves in the clear if STARTTLS fails", remedy: runSetup,
	}, {
		code: "clear-down", verify: "NONE", envid: tag, want: waits, noDaemon: true, text: "a protected message waits with the daemon down",
		failed: mta.Hole, untrue: "a protected message leaves in the clear with the daemon down", remedy: runSetup,
	}, {
		code: "unseen-down", verify: "NONE", want: waits, noDaemon: true, text: "mail about which the daemon can't be asked waits",
		failed: mta.Hole, untrue: "mail that the milter has not seen leaves in the clear with the daemon down", remedy: runSetup,
	}, {
		code: "tls-down", verify: "OK", version: "TLSv1.3", envid: tag, want: waits, noDaemon: true, text: "over TLS a protected message waits for the daemon",
		failed: mta.Hole, untrue: "a protected message leaves to any host over TLS with the daemon down", remedy: runSetup,
	}, {
		code: "some-down", verify: "OK", version: "TLSv1.3", envid: some, want: waits, noDaemon: true, text: "so does a message with some protected recipients",
		failed: mta.Hole, untrue: "a message with some protected recipients leaves to any host over TLS with the daemon down", remedy: runSetup,
	}, {
		code: "name", verify: "OK", version: "TLSv1.3", envid: name, want: waits, text: "a message of level secure waits if the host is not the right one",
		failed: mta.Hole, untrue: "a message of level secure leaves to any host over TLS",
		remedy: "restart the daemon, so that it is of this version",
	}, {
		code: "others-down", verify: "FAIL", version: "TLSv1.3", want: goes, noDaemon: true, text: "other mail goes out over TLS with the daemon down",
		failed: mta.Warning, untrue: "all mail waits with the daemon down", remedy: access,
	}, {
		code: "tls", verify: "FAIL", version: "TLSv1.3", envid: tag, want: []string{"", codeRight}, text: "a protected message goes out over TLS",
		failed: mta.Warning, untrue: "a protected message waits although there is TLS", remedy: access + "; " + start,
	}, {
		code: "others", verify: "OK", version: "TLSv1.3", want: []string{"", codeRight}, text: "other mail goes out over TLS",
		failed: mta.Warning, untrue: "mail waits although there is TLS", remedy: access,
	}, {
		code: "answers", verify: "NONE", want: []string{"", codeTLS, codeNever}, text: "the daemon answers",
		failed: mta.Broken, untrue: "the daemon does not answer: protected mail waits, and all mail to hosts without TLS", remedy: start,
	}}
	if s.MinVersion > policy.TLS10 {
		ps = append(ps, proof{
			code: "old-tls", verify: "OK", version: "TLSv1", envid: tag, want: waits, text: "TLS 1.0 counts as none",
			failed: mta.Hole, untrue: "a protected message leaves over TLS 1.0", remedy: runSetup,
		})
	}
	if len(s.Protected) > 0 { // else the daemon may let reports go
		ps = append(ps, proof{
			code: "report-fresh", report: freshReport, want: waits, text: "what Sendmail itself writes waits for a queue run",
			failed: mta.Hole, untrue: "what Sendmail itself writes is sent at once, and lost if it is refused", remedy: runSetup,
		})
	}
	ps = append(ps, proof{
		code: "report-fresh-down", report: freshReport, want: waits, noDaemon: true, text: "it also does so with the daemon down",
		failed: mta.Hole, untrue: "what Sendmail itself writes is sent with the daemon down, and lost", remedy: runSetup,
	}, proof{
		code: "report-read", report: readReport, want: goes, text: "in the queue run it is sent",
		failed: mta.Broken, untrue: "what Sendmail itself writes stays in the queue for ever",
		remedy: "make sure that no LOCAL_RULE_0 of yours ends before ours; " + runSetup,
	})
	for _, q := range s.Protected {
		mail := fmt.Sprintf("mail from %s to %s", q.From, q.To)
		ps = append(ps, proof{
			code: "held", verify: "NONE", from: q.From.String(), to: q.To.String(), want: waits,
			text:   mail + " waits if there is no TLS, even if the milter has not seen it",
			failed: mta.Hole, untrue: mail + " leaves in the clear when the milter has not seen it",
			remedy: "find out whether the daemon has read these rules: tlsonly explain says what they require",
		})
	}
	return ps
}

// prove asks all questions, those for an absent daemon of a copy of the configuration.
func (in Installation) prove(ctx context.Context, text string, ps []proof) ([]mta.Finding, error) {
	away, err := in.copyWithoutDaemon(text)
	if err != nil {
		return nil, err
	}
	defer os.Remove(away)
	for i := range ps {
		ps[i].name = parseConf(text).macro["n"]
	}
	var found []mta.Finding
	for _, where := range []struct {
		cf       string
		noDaemon bool
	}{{in.cf(), false}, {away, true}} {
		var asked []proof
		for _, p := range ps {
			if p.noDaemon == where.noDaemon {
				asked = append(asked, p)
			}
		}
		answers, err := in.testRcpt(ctx, where.cf, asked)
		if err != nil {
			return nil, err
		}
		for i, p := range asked {
			f := mta.Finding{Severity: p.failed, Code: "sendmail-proof-" + p.code, Where: p.ruleset(), Check: "proof",
				Text: p.untrue + " (" + p.ruleset() + ": " + answers[i] + ")", Remedy: p.remedy}
			for _, want := range p.want {
				if got := code(answers[i]); got == want || want == refusal && got != "" {
					f = mta.Finding{Severity: mta.OK, Code: f.Code, Where: f.Where, Check: "proof", Text: p.text}
				}
			}
			found = append(found, f)
		}
	}
	return found, nil
}

// copyWithoutDaemon writes the configuration with its socket map at a socket that nobody listens at. It stands beside the original
// because Sendmail distrusts other directories.
func (in Installation) copyWithoutDaemon(text string) (path string, err error) {
	dir := filepath.Dir(in.cf())
	f, err := os.CreateTemp(dir, contract.Doctor+"-*.cf")
	if err != nil {
		return "", fmt.Errorf("copy of %s: %w", in.cf(), err)
	}
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		if name, _, _ := strings.Cut(line, " "); name == "K"+string(contract.MapTLSRcpt) || name == "K"+string(contract.MapReport) {
			// Port 1 (RFC 1078) is nobody's any more.
			line = name + " socket -f -d1 -T<TMPF> inet:1@127.0.0.1"
		}
		lines = append(lines, line)
	}
	_, err = f.WriteString(strings.Join(lines, "\n"))
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(f.Name())
		return "", fmt.Errorf("copy of %s: %w", in.cf(), err)
	}
	return f.Name(), nil
}

// ruleset is the one that is asked.
func (p proof) ruleset() string {
	if p.report != noReport {
		return "tls_server"
	}
	return "tls_rcpt"
}

// script is what sendmail -bt is told.
func (p proof) script() string {
	var b strings.Builder
	define := func(macro, value string) { b.WriteString(".D" + macro + value + "\n") }
	define("{server_name}", "mx.tlsonly.invalid")
	define("{TlsonlyRead}", "")
	if p.report != noReport {
		define("f", p.name)
		define("i", "tlsonly"+p.code)
		define("h", "mx.tlsonly.invalid")
		define("{addr_type}", "e r")
		if p.report == readReport {
			// The dot at its end keeps the name from being looked up.
			b.WriteString("3,0 " + address + ".\n")
		}
		b.WriteString("tls_server NONE\n")
		return b.String()
	}
	define("{verify}", p.verify)
	define("{tls_version}", p.version)
	define("{dsn_envid}", p.envid)
	define("{cert_fp}", noFingerprint)
	define("h", "")
	define("f", bare(p.from))
	define("g", bare(p.from))
	b.WriteString("tls_rcpt " + cmp.Or(p.to, address) + "\n")
	return b.String()
}

// testRcpt returns what tls_rcpt answers to each, in sendmail -bt's words.
func (in Installation) testRcpt(ctx context.Context, cf string, ps []proof) ([]string, error) {
	var script strings.Builder
	for _, p := range ps {
		script.WriteString(p.script())
	}
	// A ruleset that breaks off makes the exit status, but comes to an answer. A file with faults does, too; the daemon
	// would not start with it.
	out, failed := in.run(ctx, script.String(), in.program(), "-C", cf, "-bt")
	if failed != nil {
		for line := range strings.SplitSeq(string(out)+"\n"+failed.Error(), "\n") {
			if _, fault, found := strings.Cut(line, cf+": line "); found {
				return nil, fmt.Errorf("%s: line %s", cf, fault)
			}
		}
	}
	var answers []string
	for line := range strings.SplitSeq(string(out), "\n") {
		set, answer, ok := strings.Cut(line, "returns: ")
		asked := len(answers) < len(ps) && strings.TrimSpace(strings.TrimLeft(set, "> ")) == ps[len(answers)].ruleset()
		if ok && asked {
			answers = append(answers, strings.TrimSpace(answer))
		}
	}
	if len(answers) != len(ps) {
		return nil, fmt.Errorf("sendmail -bt answered %d of %d questions: %w", len(answers), len(ps), cmp.Or(failed, io.ErrUnexpectedEOF))
	}
	return answers, nil
}

// noFingerprint is that of no certificate.
const noFingerprint = "00:00"

// bare is a sender as $f has it, the empty one as nothing.
func bare(sender string) string {
	if sender == "<>" {
		return ""
	}
	return sender
}

// code returns the enhanced code of a refusal, with what it is about where that matters, "" for consent, and the answer itself where it is another mailer.
func code(answer string) string {
	if !strings.HasPrefix(answer, "$#") {
		return ""
	}
	rest, refused := strings.CutPrefix(answer, "$# error $@ ")
	if !refused {
		return answer
	}
	code, text, _ := strings.Cut(rest, " $:")
	if strings.Contains(text, " is not authenticated") {
		return codeRight
	}
	return strings.ReplaceAll(code, " ", "")
}
