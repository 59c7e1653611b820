package policy

import (
	"fmt"
	"slices"
	"strings"

	"tlsonly/internal/addr"
)

// Reason says why a recipient got its verdict. The list is closed; "" is "nothing was wrong".
type Reason string

// The reasons.
const (
	NoSTARTTLS       Reason = "no-starttls"
	Handshake        Reason = "handshake"
	WeakTLS          Reason = "weak-tls"
	NotAuthenticated Reason = "not-authenticated"
	DaneMismatch     Reason = "dane-mismatch"
	MTASTSMismatch   Reason = "mta-sts-mismatch"
	NullMX           Reason = "null-mx"
	NoSuchDomain     Reason = "no-such-domain"
	NoMailHost       Reason = "no-mail-host" // there are names of mail hosts, none with an address
	Loop             Reason = "loop"         // the mail host is this MTA
	NotTried         Reason = "not-tried"    // of a host: the MTA doesn't get that far
	LostTLS          Reason = "lost-tls"
	DNSFailure       Reason = "dns-failure"
	Unreachable      Reason = "unreachable"
	Timeout          Reason = "timeout"
	Unreadable       Reason = "unreadable" // where the mail is sent on to
	NoRoute          Reason = "no-route"   // the next hop is none that can be probed
	StoreFailed      Reason = "store"      // a promise couldn't be stored
	NotBound         Reason = "not-bound"  // the MTA wouldn't enforce TLS on this mail
	Internal         Reason = "internal"   // a fault in here: a panic, an edit that failed
	TLSRequiredNo    Reason = "tls-required-no"
	BadAddress       Reason = "bad-address"
	Forward          Reason = "forward"
)

// Reasons lists all reasons of a reply, in the order of the manual; NotTried is of
// hosts only.
func Reasons() []Reason {
	return []Reason{NoSTARTTLS, Handshake, WeakTLS, NotAuthenticated, DaneMismatch, MTASTSMismatch, NullMX,
		NoSuchDomain, NoMailHost, Loop, LostTLS, DNSFailure, Unreachable, Timeout, Unreadable, NoRoute, StoreFailed, NotBound, Internal,
		TLSRequiredNo, BadAddress, Forward}
}

// Unknown reports whether r says that the capability isn't known, so that on_unknown decides.
func (r Reason) Unknown() bool {
	return slices.Contains([]Reason{DNSFailure, Unreachable, Timeout, Unreadable, NoRoute}, r)
}

// Ours reports whether r is a fault on this side, of the daemon or of its MTA:
// no destination can mend it, and the recipient is deferred whatever a rule says.
func (r Reason) Ours() bool { return r == StoreFailed || r == NotBound || r == Internal }

// Permanent reports whether r refuses the recipient whatever a rule says: nobody could deliver there.
func (r Reason) Permanent() bool {
	return slices.Contains([]Reason{NullMX, NoSuchDomain, NoMailHost, Loop}, r)
}

// Reply is an SMTP reply of one line. The zero Reply is none.
type Reply struct {
	Code     int    // 550
	Enhanced string // "5.7.10"
	Text     string
}

// String returns the line as it goes out.
func (r Reply) String() string { return fmt.Sprintf("%d %s %s", r.Code, r.Enhanced, r.Text) }

// Temporary reports whether the client is asked to come back.
func (r Reply) Temporary() bool { return r.Code/100 == 4 }

// ReplyFor gives the reply for a recipient that is rejected or deferred: the only texts a stranger sees. help is a
// URL that is added, or "". Accept and Hold have no reply.
func ReplyFor(v Verdict, r Reason, d addr.Destination, help string) Reply {
	if v != Reject && v != Defer {
		return Reply{}
	}
	var reply Reply
	switch r {
	case NullMX: // RFC 7505, section 4.2
		reply = Reply{556, "5.1.10", fmt.Sprintf("%s does not accept mail", d)}
	case NoSuchDomain:
		reply = Reply{550, "5.1.2", fmt.Sprintf("%s does not exist", d)}
	case NoMailHost: // RFC 3463, section 3.5
		reply = Reply{550, "5.4.4", fmt.Sprintf("%s has no mail host with an address", d)}
	case Loop:
		reply = Reply{550, "5.4.6", fmt.Sprintf("mail for %s loops back to this mail system", d)}
	case Unreadable:
		reply = Reply{550, "5.7.5", fmt.Sprintf("where mail for %s is forwarded to can't be read here", d)}
	case NoRoute:
		reply = Reply{550, "5.4.4", fmt.Sprintf("where mail for %s is sent next isn't known here", d)}
	case StoreFailed:
		reply = Reply{550, "5.3.0", "what TLS this mail needs can't be recorded here"}
		if v == Defer {
			reply.Text += " now, try again"
		}
	case NotBound:
		reply = Reply{550, "5.3.0", "the TLS that this mail needs can't be enforced here"}
		if v == Defer {
			reply.Text += " yet, try again"
		}
	case Internal:
		reply = Reply{550, "5.3.0", "internal error"}
		if v == Defer {
			reply.Text += ", try again"
		}
	case TLSRequiredNo: // RFC 8689, section 4.2
		reply = Reply{550, "5.7.10", "TLS required: this site does not honor TLS-Required: no"}
	case BadAddress:
		reply = Reply{501, "5.1.3", "Bad recipient address syntax"}
	case DNSFailure, Unreachable, Timeout:
		reply = Reply{550, "5.7.5", fmt.Sprintf("TLS capability of %s is not known", d)}
		if v == Defer {
			reply.Text += " yet, try again"
		}
	default:
		reply = Reply{550, "5.7.10", fmt.Sprintf("TLS required: %s %s", d, blame(r))}
	}
	if v == Defer {
		reply.Code = 451
		reply.Enhanced = "4" + strings.TrimPrefix(reply.Enhanced, "5")
	}
	return reply.WithHelp(help)
}

// ForwardReply gives the reply for a recipient whose forward is why it is rejected or deferred. It names the recipient, never
// the address that the mail would be sent on to: that is nobody's business but the recipient's.
func ForwardReply(v Verdict, cause Reason, to addr.Address, help string) Reply {
	reply := ReplyFor(v, cause, addr.Destination{}, "")
	if reply == (Reply{}) {
		return reply
	}
	switch {
	case cause == Unreadable:
		reply.Text = fmt.Sprintf("where mail for %s is forwarded to can't be read here", to)
		return reply.WithHelp(help)
	case cause == NoRoute:
		reply.Text = fmt.Sprintf("where mail for %s is sent next isn't known here", to)
		return reply.WithHelp(help)
	case cause.Ours():
		return reply.WithHelp(help)
	}
	reply.Text = "TLS required: " + to.String() + " " + blame(cause)
	if cause.Unknown() {
		reply.Text = fmt.Sprintf("TLS capability of %s is not known", to)
		if v == Defer {
			reply.Text += " yet, try again"
		}
	}
	reply.Text += " (forwarded)"
	return reply.WithHelp(help)
}

// Naming adds the mail host that the reply is about, where that isn't the destination
// itself and there is room for it.
func (r Reply) Naming(host addr.Domain, d addr.Destination) Reply {
	name := fmt.Sprintf(" (mail host %s)", host)
	if !host.IsZero() && host != d.Host() && r != (Reply{}) && len(r.String())+len(name) <= maxReply {
		r.Text += name
	}
	return r
}

// Unprotected says, too, that nothing else protects the mail either, or that this
// isn't known yet.
func (r Reply) Unprotected() Reply {
	if r == (Reply{}) {
		return r
	}
	words := ", and no other way to protect it is known"
	if r.Temporary() {
		words += " yet, try again"
	}
	if len(r.String())+len(words) <= maxReply {
		r.Text += words
	}
	return r
}

// WithHelp adds a URL where there is one and room for it.
func (r Reply) WithHelp(help string) Reply {
	if help != "" && len(r.String())+len("; see ")+len(help) <= maxReply {
		r.Text += "; see " + help
	}
	return r
}

// maxReply is the most a reply line may have before its CRLF: RFC 5321, section 4.5.3.1.5.
const maxReply = 510

func blame(r Reason) string {
	switch r {
	case NoSTARTTLS:
		return "does not offer STARTTLS"
	case Handshake:
		return "cannot complete a TLS handshake"
	case WeakTLS:
		return "offers only TLS below this site's minimum"
	case NotAuthenticated:
		return "cannot be authenticated"
	case DaneMismatch:
		return "does not match its DANE records"
	case MTASTSMismatch:
		return "does not match its MTA-STS policy"
	case LostTLS:
		return "offered TLS before and does not now"
	}
	return "does not meet this site's requirements"
}

// Worse returns the reason that says more of two hosts of one destination: what came closest to success, for that
// is what the other side's administrator has to mend. A reason that is Unknown always wins, for the other host may yet offer TLS.
func Worse(a, b Reason) Reason {
	order := []Reason{NoSTARTTLS, LostTLS, Handshake, WeakTLS, NotAuthenticated, MTASTSMismatch, DaneMismatch,
		DNSFailure, Unreachable, Timeout, Unreadable, NoRoute}
	// A reason that isn't in the list still says more than "", which would mean that all is well.
	if a == "" || b != "" && slices.Index(order, b) > slices.Index(order, a) {
		return b
	}
	return a
}
