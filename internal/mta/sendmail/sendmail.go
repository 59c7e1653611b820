// Package sendmail binds a Sendmail to the daemon at delivery: it writes the m4 lines that do it (Snippet), puts them into
// sendmail.mc where Debian's layout is found (Apply), and looks whether a Sendmail is really bound (Doctor).
//
// What binds is one ruleset, tls_rcpt, which Sendmail runs before every RCPT it sends, in queue runs and on cached
// connections too. It judges by {verify} and {tls_version} of the connection, and by two things that reach it:
//
//   - the tag: an envelope id (RFC 3461, section 4.4) that begins with TLSONLY., which the milter sets for a message one of
//     whose recipients needs TLS. Such a message waits without the daemon; where all need TLS it waits for TLS, whatever the
//     daemon says.
//   - the question: the daemon is asked, by socket map, with sender, recipient and next hop, and what the host showed: the
//     fingerprint of its certificate. PASS is the only answer that lets mail go, but for one kind: mail without a tag, to
//     which nothing was promised, goes over TLS when nobody answers.
//
// What Sendmail writes itself would be lost by a refusal in the process that
// writes it: the reason for the report is taken for that of the refusal. So it
// is left in the queue there, by two rules for two cases. Where the process has
// used the mailer before, ruleset 1 has a lookup that fails for now, and nothing
// is tried; else the session is new, and tls_server ends it. What is read from
// the queue has passed ruleset 0 there, and is known by its queue id.
//
// It doesn't decide who needs TLS, nor which host is the right one; that is rules and internal/socketmap. So Sendmail needs
// no authorities' certificates of its own, and gets MTA-STS and DANE, which Debian's lacks. The caller holds the endpoints
// of the daemon in Sendmail's spelling (Endpoint), and restarts Sendmail after Apply.
//
// SECURITY: Sendmail takes a ruleset that breaks off for consent, so the rules let only one word pass. The fingerprint is that
// of the connection at hand, on one that is used again too; with a session that shows no certificate another's may be left over,
// which {verify} tells. Recipients keep the domain they were accepted for: Sendmail by itself replaces it by what a CNAME says, and
// where it finds no such domain by the same name below the host's own.
//
// BUGS: mail that leaves by other ways than SMTP and LMTP (UUCP, programs) meets no tls_rcpt. Where the socket map's file is
// gone, or the daemon hangs, Sendmail defers all mail it asks about, whatever the rules make of that. The milter is the last of
// the filters, so that none takes the tag away; it gives the sender back as those before it left it.
package sendmail

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/instance"
	"tlsonly/internal/policy"
)

// tail returns the last line but for sendmail -bt's prompt: why it ended.
func tail(out []byte) []byte {
	out = bytes.TrimRight(out, "> \n")
	return out[bytes.LastIndexByte(out, '\n')+1:]
}

// Settings are what the lines depend on.
type Settings struct {
	Milter        string         // where the milter listens, from Endpoint
	Socketmap     string         // where the socket map listens, from Endpoint
	Deadline      time.Duration  // by which the daemon answers, either of the two
	MinVersion    policy.Version // TLS below it is none; the rules know 1.0 to 1.3
	RedactBounces bool           // bounces carry headers only

	// Daemon is what only Doctor looks at: who is to answer; zero is any daemon of
	// this kind.
	Daemon instance.Identity
	// Protected is what only Doctor looks at: mail that must not leave in the
	// clear, to be asked of the daemon.
	Protected []Question
	// So are these: FreeBounces is [binding] bounces = "others", Followed says
	// that the daemon reads this sendmail.cf, and Protects whether an enforcing
	// rule names a sender; nil: none does.
	FreeBounces, Followed bool
	Protects              func(addr.Address) bool
}

// Question is a sender and a recipient.
type Question struct{ From, To addr.Address }

// Installation is a Sendmail on this host. Its zero value is the one of the Debian package.
type Installation struct {
	Root    string   // the directory that stands for "/", for tests
	Program string   // sendmail; default Root/usr/sbin/sendmail
	Cf      string   // its configuration; default Root/etc/mail/sendmail.cf
	Env     []string // of the programs run; nil: this process's
}

func (in Installation) program() string {
	return cmp.Or(in.Program, filepath.Join("/", in.Root, "usr/sbin/sendmail"))
}

func (in Installation) cf() string {
	return cmp.Or(in.Cf, filepath.Join("/", in.Root, "etc/mail/sendmail.cf"))
}

// run runs a program to its end and returns what it printed; the error has what it complained of.
func (in Installation) run(ctx context.Context, stdin, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...) // #nosec G204 -- sendmail or m4, no shell; what strangers write is input
	cmd.Env = in.Env
	cmd.WaitDelay = time.Second
	cmd.Stdin = strings.NewReader(stdin)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("%s: %w: %s%s", filepath.Base(name), err, bytes.TrimSpace(complaint.Bytes()), tail(out))
	}
	return out, nil
}

// Endpoint writes where the daemon listens (network and address as net.Listen has them) the way Sendmail writes it in
// S= and in a socket map: inet:PORT@HOST, inet6:PORT@HOST, or unix:PATH. A wildcard becomes the loopback address.
func Endpoint(network, address string) (string, error) {
	switch network {
	case "unix":
		if !strings.HasPrefix(address, "/") || strings.Trim(address, plainPath) != "" {
			return "", fmt.Errorf("socket %q: want an absolute path of letters, digits and ._-/", address)
		}
		return "unix:" + address, nil
	case "tcp":
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return "", fmt.Errorf("endpoint %q: %w", address, err)
		}
		if host == "localhost" {
			host = "127.0.0.1"
		}
		ip, err := netip.ParseAddr(host)
		if err != nil || ip.Zone() != "" || port == "" || strings.Trim(port, "0123456789") != "" {
			return "", fmt.Errorf("endpoint %q: want an address and the number of a port", address)
		}
		// Brackets around an address, of either family, end in "Invalid argument" (8.17.1).
		switch ip = ip.Unmap(); {
		case ip == netip.IPv4Unspecified():
			return "inet:" + port + "@127.0.0.1", nil
		case ip.Is4():
			return "inet:" + port + "@" + ip.String(), nil
		case ip == netip.IPv6Unspecified():
			return "inet6:" + port + "@::1", nil
		}
		return "inet6:" + port + "@" + ip.String(), nil
	}
	return "", fmt.Errorf("network %q: want tcp or unix", network)
}

// plainPath: anything else could mean something to m4 or to Sendmail's lists.
const plainPath = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/"

func (s Settings) check() error {
	if s.Milter == "" || s.Socketmap == "" {
		return errors.New("the daemon's endpoints are needed")
	}
	if s.Deadline <= 0 {
		return errors.New("the daemon's deadline is needed")
	}
	return nil
}

// The first and the last line of what is ours in sendmail.mc.
const (
	beginMark = "dnl tlsonly: begin"
	endMark   = "dnl tlsonly: end"
)

// margin is how much longer Sendmail waits than the daemon takes: for the store, and for a busy machine.
const margin = 15 * time.Second

// replyTimeout is the milter's R=, the wait for any one reply.
func (s Settings) replyTimeout() time.Duration { return max(time.Minute, s.Deadline+margin) }

// Snippet returns the lines for the end of sendmail.mc, after the last MAILER().
func Snippet(s Settings) string {
	reply := s.replyTimeout()
	whole := max(5*time.Minute, 2*reply) // for the end of the message
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("%s, written by: tlsonly setup sendmail", beginMark)
	line("dnl These lines belong at the end of sendmail.mc, after the last MAILER() and the other filters. F=T: without an answer")
	line("dnl mail waits.")
	line("INPUT_MAIL_FILTER(`tlsonly', `S=%s, F=T, T=C:10s;S:10s;R:%ds;E:%ds')dnl", s.Milter, seconds(reply), seconds(whole))
	if s.RedactBounces {
		line("ifelse(index(defn(`confPRIVACY_FLAGS'), `nobodyreturn'), `-1',")
		line("`define(`confPRIVACY_FLAGS', ifdef(`confPRIVACY_FLAGS', `defn(`confPRIVACY_FLAGS')', `authwarnings')`,nobodyreturn')')dnl")
	}
	line("dnl The daemon knows certificates by this fingerprint. And a recipient keeps the domain it was accepted for, whatever")
	line("dnl CNAME or longer name there is of it (a name without a dot still gets the own domain): who answers for DNS would choose")
	line("dnl who has to prove himself.")
	line("ifdef(`confCERT_FINGERPRINT_ALGORITHM', `', `define(`confCERT_FINGERPRINT_ALGORITHM', `%s')')dnl", fingerprint)
	line("ifdef(`confDONT_EXPAND_CNAMES', `', `define(`confDONT_EXPAND_CNAMES', `True')')dnl")
	// RFC 5321, section 2.3.5: domains in mail are fully qualified.
	line("ifelse(index(defn(`confBIND_OPTS'), `-DNSRCH'), `-1',")
	line("`define(`confBIND_OPTS', ifdef(`confBIND_OPTS', `defn(`confBIND_OPTS') ')`-DNSRCH')')dnl")
	line("LOCAL_CONFIG")
	b.WriteString(s.config())
	line("LOCAL_RULE_0")
	b.WriteString(readRules)
	line("LOCAL_RULE_1")
	b.WriteString(writtenRules)
	line("LOCAL_RULE_3")
	b.WriteString(readAtOnceRules)
	line("LOCAL_TLS_SERVER")
	b.WriteString(serverRules)
	line("LOCAL_TLS_RCPT")
	b.WriteString(rcptRules)
	line("LOCAL_RULESETS")
	b.WriteString(answerRules)
	line("%s", endMark)
	return b.String()
}

// fingerprint is how certificates are told apart (policy.Certificate.Fingerprint).
const fingerprint = "sha256"

func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

// config is what goes below LOCAL_CONFIG.
func (s Settings) config() string {
	old := []string{"SSLv3"}
	for _, v := range []policy.Version{policy.TLS10, policy.TLS11, policy.TLS12} {
		if v < s.MinVersion {
			old = append(old, strings.TrimSuffix("TLSv"+v.String(), ".0")) // OpenSSL's names: TLSv1, TLSv1.1
		}
	}
	return strings.NewReplacer(
		"OLD", strings.Join(old, " "),
		"SECONDS", fmt.Sprint(seconds(s.Deadline+margin)),
		"ENDPOINT", s.Socketmap,
	).Replace(configLines)
}
