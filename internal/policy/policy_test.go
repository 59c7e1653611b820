package policy

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"tlsonly/internal/addr"
)

func TestLevels(t *testing.T) {
	for i, l := range Levels() {
		if got, err := ParseLevel(string(l)); got != l || err != nil || l.Rank() != i {
			t.Errorf("%s: %s, %v, rank %d", l, got, err, l.Rank())
		}
		if l.Enforces() != (i >= 2) {
			t.Errorf("%s enforces: %v", l, l.Enforces())
		}
	}
	for _, s := range []string{"", "Encrypt", "verify", " encrypt"} {
		if l, err := ParseLevel(s); err == nil || Level(s).Enforces() {
			t.Errorf("%q is level %q", s, l)
		}
	}
}

func TestVersions(t *testing.T) {
	for s, want := range map[string]Version{"1.0": TLS10, "1.1": TLS11, "1.2": TLS12, "1.3": TLS13} {
		if v, err := ParseVersion(s); v != want || err != nil || v.String() != s {
			t.Errorf("%s: %s, %v", s, v, err)
		}
	}
	for _, s := range []string{"", "1.4", "TLSv1.2", "SSL 3.0", "1.20"} {
		if v, err := ParseVersion(s); err == nil {
			t.Errorf("%q is %s", s, v)
		}
	}
	for _, v := range []Version{0, SSL30, TLS10, TLS13} {
		text, err := json.Marshal(v)
		var again Version
		if err != nil || json.Unmarshal(text, &again) != nil || again != v {
			t.Errorf("%s: as JSON %s, read again %s", v, text, again)
		}
	}
	if got := Version(0x7f1c).String(); got != "0x7f1c" {
		t.Errorf("a draft's version: %s", got)
	}
}

func TestVerdicts(t *testing.T) {
	order := []Verdict{Accept, Fallback, Hold, Defer, Reject}
	if !slices.IsSortedFunc(order, func(a, b Verdict) int { return a.Rank() - b.Rank() }) || Accept.Rank() != 0 {
		t.Error("verdicts are not ordered by strictness")
	}
	for a, want := range map[Action]Verdict{ActionReject: Reject, ActionDefer: Defer, ActionHold: Hold, ActionTag: Accept,
		ActionAccept: Accept, ActionFallback: Fallback, "": Defer, "new": Defer} {
		if got := a.Verdict(); got != want {
			t.Errorf("action %q: %s, want %s", a, got, want)
		}
	}
}

func TestReplies(t *testing.T) {
	d := addr.MustDestination("far.example")
	for _, c := range []struct {
		verdict Verdict
		reason  Reason
		want    string
	}{
		{Reject, NoSTARTTLS, "550 5.7.10 TLS required: far.example does not offer STARTTLS"},
		{Reject, Handshake, "550 5.7.10 TLS required: far.example cannot complete a TLS handshake"},
		{Reject, WeakTLS, "550 5.7.10 TLS required: far.example offers only TLS below this site's minimum"},
		{Reject, NotAuthenticated, "550 5.7.10 TLS required: far.example cannot be authenticated"},
		{Reject, DaneMismatch, "550 5.7.10 TLS required: far.example does not match its DANE records"},
		{Reject, MTASTSMismatch, "550 5.7.10 TLS required: far.example does not match its MTA-STS policy"},
		{Reject, NullMX, "556 5.1.10 far.example does not accept mail"},
		{Reject, NoSuchDomain, "550 5.1.2 far.example does not exist"},
		{Defer, LostTLS, "451 4.7.10 TLS required: far.example offered TLS before and does not now"},
		{Defer, DNSFailure, "451 4.7.5 TLS capability of far.example is not known yet, try again"},
		{Defer, Unreachable, "451 4.7.5 TLS capability of far.example is not known yet, try again"},
		{Defer, Timeout, "451 4.7.5 TLS capability of far.example is not known yet, try again"},
		{Defer, NoSTARTTLS, "451 4.7.10 TLS required: far.example does not offer STARTTLS"},
		{Reject, Timeout, "550 5.7.5 TLS capability of far.example is not known"},
	} {
		r := ReplyFor(c.verdict, c.reason, d, "")
		if r.String() != c.want || r.Temporary() != (c.verdict == Defer) {
			t.Errorf("%s, %s: %q, want %q", c.verdict, c.reason, r, c.want)
		}
	}
	for _, v := range []Verdict{Accept, Hold, Fallback} {
		if r := ReplyFor(v, NoSTARTTLS, d, "x"); r != (Reply{}) {
			t.Errorf("%s has a reply: %s", v, r)
		}
	}
	if got := ReplyFor(Reject, NullMX, d, "https://help.example/").Text; got != "far.example does not accept mail; see https://help.example/" {
		t.Errorf("with help: %s", got)
	}
}

// A reply names the mail host that it is about.
func TestReplyNaming(t *testing.T) {
	d, mx := addr.MustDestination("far.example"), addr.MustDomain("mx1.far.example")
	reply := ReplyFor(Reject, NoSTARTTLS, d, "")
	for _, c := range []struct {
		reply Reply
		host  addr.Domain
		want  string
	}{
		{reply, mx, "550 5.7.10 TLS required: far.example does not offer STARTTLS (mail host mx1.far.example); see h"},
		{reply, d.Host(), "550 5.7.10 TLS required: far.example does not offer STARTTLS; see h"},
		{reply, addr.Domain{}, "550 5.7.10 TLS required: far.example does not offer STARTTLS; see h"},
	} {
		if got := c.reply.Naming(c.host, d).WithHelp("h").String(); got != c.want {
			t.Errorf("%s: %s", c.host, got)
		}
	}
	if got := (Reply{}).Naming(mx, d); got != (Reply{}) {
		t.Errorf("no reply became %s", got)
	}
	long := addr.MustDomain(strings.Repeat(strings.Repeat("a", 61)+".", 4) + "exam")
	full := ReplyFor(Reject, NoSTARTTLS, addr.DomainDestination(long), "")
	if n := len(full.Naming(addr.MustDomain("mx."+strings.Repeat(strings.Repeat("a", 59)+".", 4)+"exam"), d).String()); n > 510 {
		t.Errorf("%d octets", n)
	}
}

// TestReplyLength: RFC 5321, section 4.5.3.1.5: a reply line has at most 512 octets.
func TestReplyLength(t *testing.T) {
	label := strings.Repeat("a", 61) + "."
	d := addr.MustDestination("[" + label + label + label + label + "exam]:65535")
	help := "https://help.example/" + strings.Repeat("x", 179)
	for _, r := range Reasons() {
		for _, v := range []Verdict{Reject, Defer} {
			if n := len(ReplyFor(v, r, d, help).String() + "\r\n"); n > 512 {
				t.Errorf("%s, %s: %d octets", v, r, n)
			}
		}
	}
}

func TestReasons(t *testing.T) {
	for _, r := range Reasons() {
		if r.Unknown() && r.Permanent() {
			t.Errorf("%s is unknown and permanent", r)
		}
		// Nothing makes a failure good, in either order.
		if Worse("", r) != r || Worse(r, "") != r || Worse(r, r) != r {
			t.Errorf("%s and nothing wrong: %q, %q", r, Worse("", r), Worse(r, ""))
		}
		for _, s := range Reasons() {
			if s.Unknown() && !r.Unknown() && (Worse(r, s) != s || Worse(s, r) != s) {
				t.Errorf("%s hides that %s", r, s)
			}
		}
	}
	if Worse(Handshake, NoSTARTTLS) != Handshake || Worse(NoSTARTTLS, WeakTLS) != WeakTLS {
		t.Error("what came closest to success is not told")
	}
	if Worse("", "new") != "new" {
		t.Error("an unlisted reason is taken for none")
	}
}
