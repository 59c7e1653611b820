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

	"tlsonly/internal/mta"
	"tlsonly/internal/policy"
)

// proof is one question to the ruleset tls_rcpt, asked of sendmail -bt as at delivery, and what must come out.
type proof struct {
	verify, version, envid, from, to string

	want     []string  // enhanced codes, "" for consent
	text     string    // what is true when one of them comes out
	failed   mta.Level // when none does, and what is true then
	untrue   string
	remedy   string
	noDaemon bool // asked with a socket map where nobody answers
}

// address is a recipient that no real one is (RFC 2606, section 2).
const address = "postmaster@tlsonly.invalid"

const (
	refusal   = "*" // whatever its code: the site's own rules may refuse, too
	codeTLS   = "4.7.10"
	codeRight = "4.7.10 authenticated" // the same, for the host and not for TLS
	codeNever = "5.0.0"                // REJECT; 4.7.5 is what comes when nobody answers, or nothing that is understood
)

const runSetup = "run tlsonly setup sendmail --apply, and restart Sendmail"

// proofs are what Doctor asks.
func (s Settings) proofs() []proof {
	const (
		tag    = "TLSONLY.encrypt."
		some   = "TLSONLY.ask."
		name   = "TLSONLY.name."
		access = "see what else tls_rcpt asks: TLS_Rcpt: in the access map, rules of the site's own"
		start  = "start tlsonly, and see that its [socketmap] listen is what sendmail.cf has"
	)
	waits, goes := []string{refusal}, []string{""}
	ps := []proof{{
		verify: "NONE", envid: tag, want: waits, text: "a protected message waits where there is no TLS",
		failed: mta.Hole, untrue: "a protected message leaves in the clear", remedy: runSetup,
	}, {
		verify: "TEMP", envid: tag, want: waits, text: "a protected message waits where STARTTLS fails",
		failed: mta.Hole, untrue: "a protected message leaves in the clear where STARTTLS fails", remedy: runSetup,
	}, {
		verify: "NONE", envid: tag, want: waits, noDaemon: true, text: "a protected message waits with the daemon away",
		failed: mta.Hole, untrue: "a protected message leaves in the clear with the daemon away", remedy: runSetup,
	}, {
		verify: "NONE", want: waits, noDaemon: true, text: "what the daemon is not there to answer for waits",
		failed: mta.Hole, untrue: "mail the milter has not seen leaves in the clear with the daemon away", remedy: runSetup,
	}, {
		verify: "OK", version: "TLSv1.3", envid: tag, want: waits, noDaemon: true, text: "over TLS a protected message waits for the daemon",
		failed: mta.Hole, untrue: "a protected message leaves for any host over TLS with the daemon away", remedy: runSetup,
	}, {
		verify: "OK", version: "TLSv1.3", envid: some, want: waits, noDaemon: true, text: "so does one to some protected recipients",
		failed: mta.Hole, untrue: "a message to some protected recipients leaves for any host over TLS with the daemon away", remedy: runSetup,
	}, {
		verify: "OK", version: "TLSv1.3", envid: name, want: waits, text: "a message of level secure waits where the host is not the right one",
		failed: mta.Hole, untrue: "a message of level secure leaves for any host over TLS",
		remedy: "see that the daemon is of this version: restart it",
	}, {
		verify: "FAIL", version: "TLSv1.3", want: goes, noDaemon: true, text: "other mail goes out over TLS with the daemon away",
		failed: mta.Warning, untrue: "all mail waits with the daemon away", remedy: access,
	}, {
		verify: "FAIL", version: "TLSv1.3", envid: tag, want: []string{"", codeRight}, text: "a protected message goes out over TLS",
		failed: mta.Warning, untrue: "a protected message waits although there is TLS", remedy: access + "; " + start,
	}, {
		verify: "OK", version: "TLSv1.3", want: []string{"", codeRight}, text: "other mail goes out over TLS",
		failed: mta.Warning, untrue: "mail waits although there is TLS", remedy: access,
	}, {
		verify: "NONE", want: []string{"", codeTLS, codeNever}, text: "the daemon answers",
		failed: mta.Warning, untrue: "the daemon does not answer: protected mail waits, and all mail to hosts without TLS", remedy: start,
	}}
	if s.MinVersion > policy.TLS10 {
		ps = append(ps, proof{
			verify: "OK", version: "TLSv1", envid: tag, want: waits, text: "TLS 1.0 counts as none",
			failed: mta.Hole, untrue: "a protected message leaves over TLS 1.0", remedy: runSetup,
		})
	}
	for _, q := range s.Held {
		mail := fmt.Sprintf("mail from %s to %s", q.From, q.To)
		ps = append(ps, proof{
			verify: "NONE", from: q.From.String(), to: q.To.String(), want: waits,
			text:   mail + " waits where there is no TLS, seen by the milter or not",
			failed: mta.Hole, untrue: mail + " leaves in the clear when the milter has not seen it",
			remedy: "see whether the daemon has read these rules: tlsonly explain says what they ask",
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
		answers, err := in.ask(ctx, where.cf, asked)
		if err != nil {
			return nil, err
		}
		for i, p := range asked {
			f := mta.Finding{Level: p.failed, Check: "proof", Text: p.untrue + " (tls_rcpt: " + answers[i] + ")", Remedy: p.remedy}
			for _, want := range p.want {
				if got := code(answers[i]); got == want || want == refusal && got != "" {
					f = mta.Finding{Level: mta.OK, Check: "proof", Text: p.text}
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
	f, err := os.CreateTemp(dir, "tlsonly-doctor-*.cf")
	if err != nil {
		return "", fmt.Errorf("copy of %s: %w", in.cf(), err)
	}
	var lines []string
	for line := range strings.SplitSeq(text, "\n") {
		if strings.HasPrefix(line, "Ktls_rcpt ") {
			// Port 1 (RFC 1078) is nobody's any more.
			line = "Ktls_rcpt socket -f -d1 -T<TMPF> inet:1@127.0.0.1"
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

// ask returns what tls_rcpt answers to each, in sendmail -bt's words.
func (in Installation) ask(ctx context.Context, cf string, ps []proof) ([]string, error) {
	var script strings.Builder
	for _, p := range ps {
		for _, define := range []string{"{verify}" + p.verify, "{tls_version}" + p.version, "{dsn_envid}" + p.envid,
			"{server_name}mx.tlsonly.invalid", "{cert_fp}" + noFingerprint, "h", "f" + bare(p.from), "g" + bare(p.from)} {
			script.WriteString(".D" + define + "\n")
		}
		script.WriteString("tls_rcpt " + cmp.Or(p.to, address) + "\n")
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
		if ok && strings.TrimSpace(strings.TrimLeft(set, "> ")) == "tls_rcpt" {
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
