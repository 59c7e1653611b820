package starttls

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"tlsonly/internal/policy"
	"tlsonly/internal/profile"
)

// replay is a dialer to a host that says lines[0], then the next line for each command it gets, and hangs up after
// the last one. "" says nothing.
func replay(lines ...string) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			r := bufio.NewReader(theirs)
			for i, line := range lines {
				if i > 0 {
					if _, err := r.ReadString('\n'); err != nil {
						return
					}
				}
				if line == "" {
					continue
				}
				if _, err := io.WriteString(theirs, line); err != nil {
					return
				}
			}
		}()
		return ours, nil
	}
}

func TestProbeReplies(t *testing.T) {
	const banner, offer = "220 x\r\n", "250-x\r\n250-starttls\r\n250 HELP\r\n"
	for _, c := range []struct {
		name    string
		lines   []string
		outcome policy.Outcome
		stage   policy.Stage
		detail  string
	}{
		{"closed at once", nil, policy.SawUnreachable, policy.StageBanner, "connection closed"},
		{"closed within a reply", []string{banner, "250-x\r\n250-STAR"}, policy.SawUnreachable, policy.StageEHLO, "unexpected EOF"},
		{"closed at STARTTLS", []string{banner, offer, ""}, policy.SawUnreachable, policy.StageSTARTTLS, "connection closed"},
		{"two replies to EHLO", []string{banner, offer + "454 no\r\n", ""}, policy.SawRefused, policy.StageSTARTTLS, "454 no"},
		{"two codes", []string{banner, "250-x\r\n220 STARTTLS\r\n", "454 no\r\n"}, policy.SawRefused, policy.StageSTARTTLS, "454 no"},
		{"STARTTLS as the host's name", []string{banner, "250 STARTTLS\r\n"}, policy.SawNoSTARTTLS, policy.StageEHLO, "250 STARTTLS"},
		{"STARTTLS in another keyword", []string{banner, "250-x\r\n250 XSTARTTLS\r\n"}, policy.SawNoSTARTTLS, policy.StageEHLO, ""},
		{"mangled but offered", []string{banner, "250-x\r\n250-XXXXXXXA\r\n250 STARTTLS\r\n", "454 no\r\n"}, policy.SawRefused, policy.StageSTARTTLS, "454 no"},
		{"HELO unknown too", []string{banner, "500 what\r\n", "500 what\r\n"}, policy.SawUnreachable, policy.StageEHLO, "500 what"},
		{"HELO not now", []string{banner, "502 what\r\n", "450 later\r\n"}, policy.SawUnreachable, policy.StageEHLO, "450 later"},
		{"250 to STARTTLS", []string{banner, offer, "250 ok\r\n"}, policy.SawRefused, policy.StageSTARTTLS, "250 ok"},
		{"550 to STARTTLS", []string{banner, offer, "550 5.7.1 not you\r\n"}, policy.SawRefused, policy.StageSTARTTLS, "550 5.7.1"},
		{"garbage to STARTTLS", []string{banner, offer, "\x15\x03\x01\x00\x02\x02\x28\n"}, policy.SawUnreachable, policy.StageSTARTTLS, "not an SMTP reply"},
		{"half a command after 220", []string{banner, offer, "220 go\r\nMA"}, policy.SawBroken, policy.StageHandshake, ""},
	} {
		p := Prober{HELO: "probe.test", Timeout: patience, Dial: replay(c.lines...)}
		o := p.Probe(t.Context(), Target{Address: netip.MustParseAddrPort("127.0.0.1:25")})
		if o.Outcome != c.outcome || o.Stage != c.stage || !strings.Contains(o.Detail, c.detail) {
			t.Errorf("%s: %s at %s: %q, want %s at %s: %q", c.name, o.Outcome, o.Stage, o.Detail, c.outcome, c.stage, c.detail)
		}
	}
}

// TestProbePrintable: what a host says is cut and made printable before it is reported.
func TestProbePrintable(t *testing.T) {
	nasty := "\x1b[2J\tä\x00" + strings.Repeat("y", 300)
	var ehlo strings.Builder
	for i := range 200 {
		fmt.Fprintf(&ehlo, "250-X%d%s\r\n", i, nasty)
	}
	mta := func() profile.MTA { return profile.MTA{Dialect: profile.Sendmail} } // which reads that much
	p := Prober{Timeout: patience, MTA: mta, Dial: replay("220 "+nasty+"\r\n", ehlo.String()+"250 STARTTLS\r\n", "454 "+nasty+"\r\n")}
	o := p.Probe(t.Context(), Target{Address: netip.MustParseAddrPort("127.0.0.1:25")})
	if o.Outcome != policy.SawRefused || len(o.Extensions) != maxExtensions || !strings.HasPrefix(o.Banner, "?[2J??") {
		t.Fatalf("%s, banner %q, %d extensions", o.Outcome, o.Banner, len(o.Extensions))
	}
	for _, s := range append(o.Extensions, o.Banner, o.Detail) {
		if len(s) > maxText || clean(s) != s {
			t.Errorf("%d octets: %q", len(s), s)
		}
	}
}
