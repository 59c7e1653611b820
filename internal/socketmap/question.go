package socketmap

import (
	"strings"

	"tlsonly/internal/addr"
)

// question is what Sendmail tells of a recipient.
type question struct {
	from    sender // as it is in the queue
	written sender // as the host is told; zero where Sendmail doesn't say
	to      addr.Address
	toKnown bool        // as sender.known
	own     addr.Domain // which Sendmail adds to a bare name; zero where it doesn't say
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

// readQuestion takes the fields of Sendmail's macros, each in angle brackets:
//
//	v3<{verify}><{cert_fp}><{server_name}><h><tag><f><g><j><n><recipient>
//	v2<{verify}><{cert_fp}><{server_name}><h><tag><f><recipient>
//
// The tag is the level of the message's. Version 2 is that of rules which an
// earlier setup wrote, and is judged by the sender in the queue alone.
//
// SECURITY: sender and recipient are the client's to choose. No field may hold a bracket; any more than there are, wherever
// they are from, are a doubt.
func readQuestion(key string) (question, bool) {
	n := 7
	rest, ok := strings.CutPrefix(key, "v2")
	if !ok {
		n = 10
		if rest, ok = strings.CutPrefix(key, "v3"); !ok {
			return question{}, false
		}
	}
	fields := make([]string, n)
	for i := range fields {
		inner, after, closed := strings.Cut(rest, ">")
		if !closed || !strings.HasPrefix(inner, "<") || strings.Contains(inner[1:], "<") {
			return question{}, false
		}
		fields[i], rest = inner[1:], after
	}
	if rest != "" {
		return question{}, false
	}
	q := question{authenticate: fields[4] == "name"}
	switch fields[0] {
	case "OK", "TRUSTED", "FAIL":
		q.encrypted = true
		q.fingerprint = strings.ToLower(strings.ReplaceAll(fields[1], ":", ""))
	case "NO", "NOT":
		q.encrypted = true // and no certificate: what else the macro may hold isn't this host's
	}
	if name, err := addr.ParseDomain(fields[2]); err == nil && name.IsLiteral() {
		q.server = addr.DomainDestination(name)
	} else if err == nil {
		q.server = addr.MustDestination("[" + name.String() + "]")
	}
	q.from = readSender(fields[5])
	recipient := withoutBrackets(fields[n-1])
	known := q.from.known
	if n == 10 {
		q.own, _ = addr.ParseDomain(fields[7]) // else it is not known
		q.report = isReport(fields[5], fields[8], q.own)
		if fields[6] != "" && !q.report {
			q.written = readSender(fields[6])
			known = known && q.written.known
		}
	}
	q.to, q.toKnown = readPlain(recipient)
	if !q.toKnown {
		q.to = domainOnly(recipient)
	}
	q.via = readVia(fields[3], addr.DomainDestination(q.to.Domain))
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
