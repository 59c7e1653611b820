package socketmap

import (
	"strings"

	"tlsonly/internal/addr"
	"tlsonly/internal/contract"
)

// question is what Sendmail tells of a recipient.
type question struct {
	from       sender // as it is in the queue
	written    sender // as the host is told; zero where Sendmail doesn't say
	to         addr.Address
	toKnown    bool        // as sender.known
	hostDomain addr.Domain // which Sendmail adds to a bare name; zero where it doesn't say
	// report is what Sendmail wrote itself, and what came with the null sender:
	// bounces, delay warnings, copies of them.
	report bool
	server addr.Destination // the host that the session is with, zero where it has no name or address
	// via is where the site's own tables (mailertable, SMART_HOST) send the recipient's mail, none where its domain says.
	via          []addr.Destination
	encrypted    bool
	authenticate bool   // the message is tagged: it was accepted for hosts that prove who they are
	fingerprint  string // of the host's certificate, SHA-256, lower case without colons; "" where there is none
}

// sender is an address that Sendmail shows. It is known if it can mean one
// address only. Of others the domain is, or nothing: over TLS that is enough to
// answer.
type sender struct {
	addr.Address
	known bool
}

// readSender takes the null sender for known, too.
func readSender(s string) sender {
	if a, ok := readPlain(s); ok {
		return sender{a, true}
	}
	if addr.Wrapped(s) {
		return sender{} // whoever is inside can't be read
	}
	return sender{domainOnly(s), false}
}

// readQuestion reads a key as Sendmail's rules write it. Those of an earlier
// setup are judged by the sender in the queue alone.
func readQuestion(key string) (question, bool) {
	asked, ok := contract.ParseQuestion(key)
	if !ok {
		return question{}, false
	}
	q := question{authenticate: asked.Tag == contract.TagName}
	switch asked.Verify {
	case "OK", "TRUSTED", "FAIL":
		q.encrypted = true
		q.fingerprint = strings.ToLower(strings.ReplaceAll(asked.Fingerprint, ":", ""))
	case "NO", "NOT":
		q.encrypted = true // and no certificate: what else the macro may hold isn't this host's
	}
	if name, err := addr.ParseDomain(asked.Server); err == nil && name.IsLiteral() {
		q.server = addr.DomainDestination(name)
	} else if err == nil {
		q.server = addr.MustDestination("[" + name.String() + "]")
	}
	q.from = readSender(asked.Sender)
	recipient := withoutBrackets(asked.Recipient)
	known := q.from.known
	if !asked.Former {
		q.hostDomain, _ = addr.ParseDomain(asked.Host) // else it is not known
		q.report = isReport(asked.Sender, asked.Reporter, q.hostDomain)
		if asked.Written != "" && !q.report {
			q.written = readSender(asked.Written)
			known = known && q.written.known
		}
	}
	q.to, q.toKnown = readPlain(recipient)
	if !q.toKnown {
		q.to = domainOnly(recipient)
	}
	q.via = readVia(asked.Hop, addr.DomainDestination(q.to.Domain))
	return q, !q.to.Domain.IsZero() && (known && q.toKnown || q.encrypted)
}

// withoutBrackets returns a recipient at a host's name in brackets, as a mail
// hub gets it, at the name alone. A literal address stays.
func withoutBrackets(recipient string) string {
	at := strings.LastIndexByte(recipient, '@') + 1
	inner, ok := strings.CutPrefix(recipient[at:], "[")
	name, closed := strings.CutSuffix(inner, "]")
	if _, err := addr.ParseDomain(recipient[at:]); err == nil || !ok || !closed {
		return recipient
	}
	return recipient[:at] + name
}
