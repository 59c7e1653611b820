package sendmail

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"tlsonly/internal/mta"
)

// proof is one question to the ruleset tls_rcpt, asked of sendmail -bt as at delivery, and what must come out.
type proof struct {
	verify, version, envid, from, to string

	want     []string // enhanced codes, "" for consent
	text     string   // what is true when it comes out
	failed   mta.Level
	untrue   string // what is true when it doesn't
	remedy   string
	noDaemon bool // asked with a socket map where nobody answers
}

// address is a recipient that no real one is (RFC 2606, section 2).
const address = "postmaster@tlsonly.invalid"

const (
	codeTLS    = "4.7.10"
	codePolicy = "4.7.5" // nobody, or nothing understood, answered the question
	codeNever  = "5.0.0" // REJECT
)

const runSetup = "run tlsonly setup sendmail --apply, and restart Sendmail"

func (s Settings) proofs() []proof {
	const tag = "TLSONLY.encrypt."
	ps := []proof{
		{verify: "NONE", envid: tag, want: []string{codeTLS}, text: "a protected message waits where there is no TLS",
			failed: mta.Hole, untrue: "a protected message leaves in the clear", remedy: runSetup},
		{verify: "TEMP", envid: tag, want: []string{codeTLS}, text: "a protected message waits where STARTTLS fails",
			failed: mta.Hole, untrue: "a protected message leaves in the clear where STARTTLS fails", remedy: runSetup},
		{verify: "FAIL", version: "TLSv1.3", envid: tag, want: []string{""}, text: "a protected message goes out over TLS",
			failed: mta.Warning, untrue: "a protected message waits although there is TLS", remedy: "see what else tls_rcpt asks, in the access map"},
		{verify: "OK", version: "TLSv1.3", want: []string{""}, text: "other mail goes out over TLS",
			failed: mta.Warning, untrue: "mail waits although there is TLS", remedy: "see what else tls_rcpt asks, in the access map"},
		{verify: "NONE", envid: tag, want: []string{codeTLS}, noDaemon: true, text: "a protected message waits with the daemon away",
			failed: mta.Hole, untrue: "a protected message leaves in the clear with the daemon away", remedy: runSetup},
		{verify: "NONE", want: []string{codePolicy}, noDaemon: true, text: "what the daemon is not there to answer for waits",
			failed: mta.Hole, untrue: "mail the milter has not seen leaves in the clear with the daemon away", remedy: runSetup},
		{verify: "NONE", want: []string{"", codeTLS, codeNever}, text: "the daemon answers",
			failed: mta.Warning, untrue: "the daemon does not answer: all mail to hosts without TLS waits", remedy: "start tlsonly, and see that [socketmap] listen is what sendmail.cf has"},
	}
	if strings.Contains(s.config(), "TLSv1\n") || strings.Contains(s.config(), "TLSv1 ") {
		ps = append(ps, proof{verify: "OK", version: "TLSv1", envid: tag, want: []string{codeTLS}, text: "TLS 1.0 counts as none",
			failed: mta.Hole, untrue: "a protected message leaves over TLS 1.0", remedy: runSetup})
	}
	for _, q := range s.Held {
		who := fmt.Sprintf("from %s to %s", q.From, q.To)
		ps = append(ps, proof{verify: "NONE", from: q.From.String(), to: q.To.String(), want: []string{codeTLS, codeNever, codePolicy},
			text: "mail " + who + " waits where there is no TLS, seen by the milter or not", failed: mta.Hole,
			untrue: "mail " + who + " leaves in the clear when the milter has not seen it", remedy: "see tlsonly explain, and whether the daemon has these rules"})
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
				if code(answers[i]) == want {
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
		to := p.to
		if to == "" {
			to = address
		}
		fmt.Fprintf(&script, ".D{verify}%s\n.D{tls_version}%s\n.D{dsn_envid}%s\n.D{server_name}mx.tlsonly.invalid\n.Df%s\ntls_rcpt %s\n",
			p.verify, p.version, p.envid, p.from, to)
	}
	out, err := in.run(ctx, script.String(), in.program(), "-C", cf, "-bt")
	if err != nil {
		return nil, err
	}
	var answers []string
	for line := range strings.SplitSeq(string(out), "\n") {
		set, answer, ok := strings.Cut(line, "returns: ")
		if ok && strings.TrimSpace(strings.TrimLeft(set, "> ")) == "tls_rcpt" {
			answers = append(answers, strings.TrimSpace(answer))
		}
	}
	if len(answers) != len(ps) {
		return nil, fmt.Errorf("%s -bt answered %d of %d questions: %s", in.program(), len(answers), len(ps), out)
	}
	return answers, nil
}

// code returns the enhanced code of a refusal, "" for consent, and the answer itself where it is another mailer.
func code(answer string) string {
	if !strings.HasPrefix(answer, "$#") {
		return ""
	}
	rest, refused := strings.CutPrefix(answer, "$# error $@ ")
	if !refused {
		return answer
	}
	code, _, _ := strings.Cut(rest, " $:")
	return strings.ReplaceAll(code, " ", "")
}
