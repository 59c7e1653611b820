package milter

import (
	"errors"
	"fmt"
	"strings"

	"tlsonly/internal/addr"
)

// Route is where the MTA would send a recipient's mail, as far as it says so: its {rcpt_mailer} and {rcpt_host}.
// Both are empty when it doesn't, and in the command explain.
type Route struct {
	Mailer string // delivery agent (Sendmail) or transport (Postfix)
	Host   string // next hop, "here" where Mailer is local; the status code and text where Mailer is error
}

// hops returns where the mail of a recipient is sent next; none means that it is delivered here.
//
// What the MTA says counts before what the configuration says, for the MTA is what sends. Only for a transport of
// the site's own making, which may well be a pipe to a mailbox, is a domain that is listed as local taken as such.
func (d *Decider) hops(to addr.Address, route Route) ([]addr.Destination, error) {
	if deliversHere(route.Mailer) {
		return nil, nil
	}
	local := d.Local != nil && !to.Domain.IsZero() && d.Local(to.Domain)
	switch {
	case route.Host == "":
	case local && !speaksSMTP(route.Mailer) && !ourTransport(route.Mailer), strings.HasPrefix(route.Host, "unix:"): // LMTP over a local socket
		return nil, nil
	default:
		return parseHops(route.Host)
	}
	if local || to.Domain.IsZero() && route.Mailer == "" {
		return nil, nil
	}
	if to.Domain.IsZero() {
		return nil, fmt.Errorf("mailer %q has no next hop for a bare name", route.Mailer)
	}
	if d.Relay != nil {
		if hop, ok := d.Relay(to.Domain); ok {
			return []addr.Destination{hop}, nil
		}
	}
	return []addr.Destination{addr.DomainDestination(to.Domain)}, nil
}

// deliversHere reports whether a mailer keeps the mail on this host, or never delivers it: Postfix's local(8),
// virtual(8), lmtp(8), error(8), retry and discard(8), the pipes of its sample master.cf, and Sendmail's local, prog,
// file, include and discard mailers. Postfix names error for every valid address of a virtual alias domain, too.
func deliversHere(mailer string) bool {
	switch strings.ToLower(mailer) {
	case "local", "virtual", "lmtp", "error", "retry", "discard", // Postfix and Sendmail
		"prog", "*file*", "*include*", // Sendmail
		"procmail", "maildrop", "dovecot", "cyrus", "cyrusv2", "cyrusv2d", "mailman", "scalemail-backend", "usenet":
		return true
	}
	return false
}

// speaksSMTP reports whether a mailer is known to send by SMTP: those of Postfix and Sendmail as they come.
func speaksSMTP(mailer string) bool {
	switch strings.ToLower(mailer) {
	case "smtp", "relay", "esmtp", "smtp8", "dsmtp":
		return true
	}
	return false
}

// parseHops parses {rcpt_host}. Postfix has lists since 3.5 ("[a], [b]"), Sendmail has them with colons ("a.:b."),
// and any of the hosts may get the mail.
func parseHops(host string) ([]addr.Destination, error) {
	var hops []addr.Destination
	for _, part := range splitOutside(host, ", \t") {
		hop, err := addr.ParseDestination(part)
		if err == nil {
			hops = append(hops, hop)
			continue
		}
		parts := splitOutside(part, ":")
		for _, p := range parts {
			// "inet:mailstore:24" is a next hop, too, and no list: a host of a list is a full name or in brackets.
			hop, e := addr.ParseDestination(p)
			if e != nil || len(parts) < 2 || !strings.ContainsAny(p, ".[") {
				return nil, fmt.Errorf("next hop: %w", err)
			}
			hops = append(hops, hop)
		}
	}
	if len(hops) == 0 {
		return nil, errors.New("next hop: no host in it")
	}
	return hops, nil
}

// splitOutside splits s at the characters of sep that stand outside brackets, and leaves out empty parts.
func splitOutside(s, sep string) []string {
	depth := 0
	return strings.FieldsFunc(s, func(r rune) bool {
		switch r {
		case '[':
			depth++
		case ']':
			depth--
		}
		return depth <= 0 && strings.ContainsRune(sep, r)
	})
}
