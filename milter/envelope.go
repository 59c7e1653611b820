package milter

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"

	gomilter "github.com/d--j/go-milter"

	"tlsonly/internal/contract"
	"tlsonly/internal/policy"
)

// What is asked of the MTA at the end of a protected message, so that it stays bound when we are no longer asked: one
// change of the envelope sender to the same sender, for the sake of its ESMTP arguments.
//
// Postfix takes RET=HDRS from it, and its bounces carry headers only. Sendmail keeps ENVID= in the queue file, through
// splits, owner-aliases and restarts, and shows it to the rules that internal/mta/sendmail writes: with it a message waits for
// our word, and, where all recipients need TLS, for TLS. But an argument resets all others, so the client's are given again,
// and it stops at the first it doesn't know, so ENVID comes first.
//
// BUGS: BY= (RFC 2852) can't be given again in Sendmail: its time has begun to run.

// Attest is what the configuration says of such transports.
type Attest = contract.Attest

// The words of Attest.
const (
	AttestOff     = contract.AttestOff
	AttestWarn    = contract.AttestWarn
	AttestEnforce = contract.AttestEnforce
)

// mta is the kind of MTA behind a session, as far as it matters here.
type mta int

const (
	unknownMTA mta = iota
	postfixMTA
	sendmailMTA
)

// mtaOf reads the macro v. Sendmail's is a bare version ("8.17.1.9", "8.15.2/8.15.2/Debian-3"), Postfix's is
// "$mail_name $mail_version", the name being a site's to choose.
func mtaOf(v string) mta {
	name, version, two := strings.Cut(strings.TrimSpace(v), " ")
	switch {
	case !two && startsWithDigit(name):
		return sendmailMTA
	case two && !startsWithDigit(name) && startsWithDigit(version[strings.LastIndex(version, " ")+1:]):
		return postfixMTA
	}
	return unknownMTA
}

func startsWithDigit(s string) bool { return s != "" && '0' <= s[0] && s[0] <= '9' }

// envelope is what the client gave with MAIL and the MTA must be given again.
type envelope struct {
	mta  mta
	path string // as it came, without angle brackets
	args string // separated by blanks
	said string // the macro f at MAIL
}

func newEnvelope(path, args string, m gomilter.Modifier) envelope {
	return envelope{mta: mtaOf(m.Get(gomilter.MacroMTAVersion)), path: path, args: args, said: m.Get(macroSender)}
}

// macroSender is Sendmail's macro for the sender as it is in the queue.
const macroSender = "f"

// currentSender returns the sender to give back: what another milter has made
// of it since MAIL, where Sendmail says so, else what the client gave.
func (e envelope) currentSender(m gomilter.Modifier) string {
	if now := m.Get(macroSender); e.mta == sendmailMTA && now != e.said {
		return strings.TrimSuffix(strings.TrimPrefix(now, "<"), ">")
	}
	return e.path
}

// reissueSender asks the MTA for what binds it, when anything does.
func (s *session) reissueSender(msg *message, m gomilter.Modifier) error {
	if m.Actions()&gomilter.OptChangeFrom == 0 || s.keepsSender(msg) {
		return nil
	}
	some, level := false, contract.TagName
	if msg.free {
		level = contract.TagAsk
	}
	for _, r := range msg.recipients {
		switch {
		case !r.Rule.Enforcing() || len(r.Rule.Forwarder) > 0:
			// What a stranger sends isn't ours to change; what is sent on is held at delivery.
			level = contract.TagAsk
		case r.Rule.Level == policy.LevelEncrypt && level == contract.TagName:
			some, level = true, contract.TagEncrypt // it binds all recipients; what some ask besides is asked for at delivery
		default:
			some = true
		}
	}
	if !some {
		return nil
	}
	c := &s.server.c
	if !c.TagEnvelope {
		level = ""
	}
	args := msg.envelope.reissued(c.RedactBounces, level)
	if args == "" {
		return nil
	}
	if err := m.ChangeFrom(msg.envelope.currentSender(m), args); err != nil {
		return fmt.Errorf("change sender: %w", err)
	}
	return nil
}

// reissued returns the ESMTP arguments that bind the MTA, "" where nothing is
// to be changed. tag is the level of the tag, "" for none.
func (e envelope) reissued(redact bool, tag contract.Tag) string {
	given := map[string]string{}
	for _, arg := range strings.Fields(e.args) {
		keyword, value, _ := strings.Cut(arg, "=")
		given[strings.ToUpper(keyword)] = value
	}
	// RFC 3461, section 4.3: the sender wants no more than the headers back.
	redact = redact && !strings.EqualFold(given["RET"], "HDRS")
	switch e.mta {
	case postfixMTA:
		if redact {
			return "RET=HDRS" // Postfix keeps what isn't named
		}
	case sendmailMTA:
		id, had := given["ENVID"]
		if tag != "" {
			id, had = tagged(tag, id), true
		}
		if !redact && id == given["ENVID"] {
			return ""
		}
		var args []string
		if had {
			args = append(args, "ENVID="+id)
		}
		// Without a value for AUTH, Sendmail says "AUTH=" to the next host, which is no syntax. RFC 4954, section 5:
		// <> is what is said of a client whose word isn't taken further.
		args = append(args, "AUTH=<>")
		for _, keyword := range []string{"BODY", "RET", "SMTPUTF8"} {
			value, ok := given[keyword]
			switch {
			case keyword == "RET" && redact:
				args = append(args, "RET=HDRS")
			case ok && value == "":
				args = append(args, keyword)
			case ok:
				args = append(args, keyword+"="+value)
			}
		}
		return strings.Join(args, " ")
	}
	return ""
}

const maxEnvID = 100 // RFC 3461, section 4.4

// tagged returns an envelope id that says what the message is held to: TLSONLY.LEVEL.ORIGINAL.
//
// An id that has such a level comes from a client that may, or from a host like ours before us. It keeps the level,
// for it can only ask for more, and gets no second one. What is left of the original is written so that Sendmail's
// rules read it as one plain word: with quotes or brackets in it they would fail, and the message wait for nothing.
// An original that makes the id too long is left out.
func tagged(level contract.Tag, original string) string {
	if had, rest, ok := contract.CutTag(original); ok {
		level, original = stricterTag(level, had), rest
	}
	id := level.EnvelopeID()
	if plain := plainXtext(original); len(id)+len(plain) <= maxEnvID {
		id += plain
	}
	return id
}

// stricterTag returns the level that asks for more.
func stricterTag(a, b contract.Tag) contract.Tag {
	order := contract.Tags()
	return order[max(slices.Index(order, a), slices.Index(order, b))]
}

// plainXtext writes an xtext so that it means the same and has only letters, digits, "-", "_" and "." as themselves.
// RFC 3461, section 4: "+" and two hexadecimal digits may stand for any octet.
func plainXtext(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
			b.WriteByte(c)
		case c == '+' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]):
			b.WriteString(s[i : i+3])
			i += 2
		default:
			fmt.Fprintf(&b, "+%02X", c)
		}
	}
	return b.String()
}

// isHex: xtext has capitals only.
func isHex(c byte) bool { return '0' <= c && c <= '9' || 'A' <= c && c <= 'F' }

// attest looks whether Postfix would hand an accepted recipient's mail to a transport that enforces TLS. Only smtpd
// tells the transport, and Sendmail has none: its rules hold every mailer.
func (s *session) attest(msg *message, d *Decision, route Route) {
	c := &s.server.c
	if c.Attest != AttestWarn && c.Attest != AttestEnforce || msg.envelope.mta != postfixMTA || route.Mailer == "" ||
		!d.Verdict.Accepted() || len(d.Destinations) == 0 || d.Rule == nil || !d.Rule.Enforcing() ||
		ourTransport(route.Mailer) || c.Enforcing != nil && c.Enforcing(route.Mailer) {
		return
	}
	s.server.unattested.Add(1)
	s.server.unattestedAt.Store(c.Now().Unix())
	cause := fmt.Sprintf("recipient's transport %s is not bound to TLS", route.Mailer)
	if c.Attest == AttestEnforce {
		c.Decider.deferFor(d, policy.NotBound, d.Destinations[0], cause)
		return
	}
	if !msg.warned {
		msg.warned = true
		c.Log.LogAttrs(s.ctx, slog.LevelWarn, "not bound", slog.String("qid", msg.queueID), slog.String("from", msg.from.String()),
			slog.String("rcpt", d.Recipient.String()), slog.String("rule", d.Rule.Name), slog.String("err", cause))
	}
}

// ourTransport knows the names setup gives to the forced transports.
func ourTransport(name string) bool { return contract.IsTransport(name) }
