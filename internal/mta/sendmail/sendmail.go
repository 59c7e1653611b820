// Package sendmail binds a Sendmail to the daemon at delivery: it writes the m4 lines that do it (Snippet), puts them into
// sendmail.mc where Debian's layout is found (Apply), and looks whether a Sendmail is really bound (Doctor).
//
// What binds is one ruleset, tls_rcpt, which Sendmail runs before every RCPT it sends, in queue runs and on cached
// connections too. It judges by {verify} and {tls_version} of the connection, and by two things that reach it:
//
//   - the tag: an envelope id (RFC 3461, section 4.4) that begins with TLSONLY., which the milter sets for a message all of whose
//     recipients need TLS. It binds without the daemon.
//   - the question: for mail without a tag that would go out in the clear the daemon is asked, by socket map, with sender
//     and recipient. PASS is the only answer that lets it go.
//
// It doesn't decide who needs TLS; that is rules and internal/socketmap. The caller holds the endpoints of the daemon in
// Sendmail's spelling (Endpoint), and restarts Sendmail after Apply.
//
// SECURITY: Sendmail takes a ruleset that breaks off for consent, so the rules let only one word pass.
//
// BUGS: mail that leaves by other ways than SMTP and LMTP (UUCP, programs) meets no tls_rcpt. The milter is the last of the
// filters, so that none takes the tag away; it gives the sender back as the client gave it, whatever one before it made of it.
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

	// Held is what only Doctor looks at: mail that must not leave in the clear, to be asked of the daemon.
	Held []Question
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
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = in.Env
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
	line("LOCAL_CONFIG")
	b.WriteString(s.config())
	line("LOCAL_TLS_RCPT")
	b.WriteString(rcptRules)
	line("LOCAL_RULESETS")
	b.WriteString(answerRules)
	line("%s", endMark)
	return b.String()
}

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

// No line of these may hold a word of m4's (it reads comments too) nor a back quote.
const configLines = `# What {verify} says of a session that is encrypted; {cipher_bits} may still be that of the session the mail came by.
C{TlsonlyEncrypted}OK TRUSTED FAIL NO NOT
C{TlsonlyVerified}OK TRUSTED
C{TlsonlyOld}OLD
# -f: the key as it is, for folding cuts it at 256 octets. -T: what marks a failure that may pass.
Ktls_rcpt socket -f -dSECONDS -T<TMPF> ENDPOINT
`

const rcptRules = `# Rules that break off (an address too long to rewrite, a map that is gone) are taken for consent. So the work is done
# in TlsonlyRcpt, and only its word PASS is consent.
R$*			$: $>TlsonlyRcpt <?> $1
RPASS			$@ OK
RNOTLS $*		$#error $@ 4.7.10 $: "451 4.7.10 TLS required: no TLS at " $&{server_name} ", verify=" $1
RNOTVERIFIED $*		$#error $@ 4.7.10 $: "451 4.7.10 TLS required: " $&{server_name} " is not authenticated, verify=" $1
RDEFER			$#error $@ 4.7.10 $: "451 4.7.10 TLS required: no TLS at " $&{server_name}
RREJECT			$#error $@ 5.0.0 $: "550 5.7.10 TLS required: no TLS at " $&{server_name}
R$*			$#error $@ 4.7.5 $: "451 4.7.5 TLS required or not: tlsonly does not answer"
`

const answerRules = `STlsonlyRcpt
R<?> $*			$: $&{verify} $| $&{tls_version} $| $&{dsn_envid} $| $1
# A version too old is no TLS: it takes the place of the word for encrypted.
R$={TlsonlyEncrypted} $| $={TlsonlyOld} $| $* $| $*	$: $2 $| $3 $| $4
R$* $| $* $| $* $| $*	$: $1 $| $3 $| $4
# The tag. A level that is not known here asks for what can be seen of the most.
R$={TlsonlyEncrypted} $| TLSONLY . encrypt . $* $| $*	$@ PASS
R$={TlsonlyVerified} $| TLSONLY . $* $| $*	$@ PASS
R$* $| TLSONLY . encrypt . $* $| $*	$@ NOTLS $1
R$={TlsonlyEncrypted} $| TLSONLY . $* $| $*	$@ NOTVERIFIED $1
R$* $| TLSONLY . $* $| $*	$@ NOTLS $1
# No tag, but TLS.
R$={TlsonlyEncrypted} $| $* $| $*	$@ PASS
# The question. The message id has no place in it: it is the client's to choose.
R$* $| $* $| $*		$: $(tls_rcpt v1<$1><$&{server_name}><$&{server_addr}><$&i><><$&f><$3> $: NOTFOUND $)
RPASS			$@ PASS
RDEFER			$@ DEFER
RREJECT			$@ REJECT
R$*			$@ NOANSWER
`
