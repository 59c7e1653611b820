package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/inbound"
	"tlsonly/internal/policy"
)

// admission is the answer of inbound --json.
type admission struct {
	Client     string         `json:"client,omitempty"`
	Here       bool           `json:"here"`
	From       addr.Address   `json:"from"`
	User       string         `json:"user,omitempty"`
	To         addr.Address   `json:"to"`
	TLS        bool           `json:"tls"`
	Version    policy.Version `json:"version,omitzero"`
	Bits       int            `json:"bits,omitempty"`
	Verified   bool           `json:"verified"`
	Cert       string         `json:"cert,omitempty"`
	Rule       string         `json:"rule,omitempty"`
	RuleReason string         `json:"rule_reason,omitempty"`
	Level      inbound.Level  `json:"level,omitempty"`
	Mode       policy.Mode    `json:"mode,omitempty"`
	Verdict    policy.Verdict `json:"verdict"`
	Would      policy.Verdict `json:"would,omitempty"`
	Reason     inbound.Reason `json:"reason,omitempty"`
	Reply      string         `json:"reply,omitempty"`
}

func (p *program) inbound(_ context.Context, args []string) int {
	fs := flag.NewFlagSet("inbound", flag.ContinueOnError)
	file := configFlag(fs)
	client := fs.String("client", "", "the client as the MTA logs it, `NAME[ADDRESS]` or an address; without it: this host")
	from := fs.String("from", "", "envelope sender `ADDRESS`, \"<>\" for the null sender")
	to := fs.String("to", "", "recipient `ADDRESS`")
	user := fs.String("user", "", "SASL `LOGIN` of the client")
	version := fs.String("tls", "", "TLS `VERSION` of the session, 1.0 to 1.3; without it: in the clear")
	bits := fs.Int("bits", 256, "`NUMBER` of bits of the cipher")
	verify := fs.String("verify", "NO", "what the MTA found about the client's certificate: `WORD` OK, FAIL or NO")
	cert := fs.String("cert", "", "common `NAME` of the client's certificate")
	asJSON := fs.Bool("json", false, "answer in JSON")
	rest, code, ok := p.parse(fs, args)
	if !ok {
		return code
	}
	if len(rest) > 0 || *from == "" || *to == "" {
		return p.fail("inbound needs --from A and --to B, and takes no arguments")
	}
	a := inbound.Arrival{Login: *user}
	var err error
	if a.Name, a.Addr, err = parseClient(*client); err != nil {
		return p.fail("--client: %v", err)
	}
	sender, recipient, code, ok := p.envelope(*from, *to)
	if !ok {
		return code
	}
	if *version != "" {
		if a.Version, err = policy.ParseVersion(*version); err != nil {
			return p.fail("--tls: %v", err)
		}
		a.TLS, a.Bits = true, *bits
	}
	switch strings.ToUpper(*verify) {
	case "OK":
		a.Verified, a.Certificate = a.TLS, *cert
	case "FAIL", "NO":
	default:
		return p.fail("--verify %q: want OK, FAIL or NO", *verify)
	}
	c, ok := p.load(*file, false)
	if !ok {
		return exitUsage
	}

	e := admission{
		Client: *client, Here: a.Here(), From: sender, User: *user, To: recipient,
		TLS: a.TLS, Version: a.Version, Bits: a.Bits, Verified: a.Verified, Cert: a.Certificate,
		Verdict: policy.Accept,
	}
	if r := c.Inbound.Candidates(a, sender, time.Now()).Match(recipient); r != nil {
		j := r.Judge(a)
		e.Rule, e.RuleReason, e.Level, e.Mode = r.Name, r.Why, r.Level, r.Mode
		e.Verdict, e.Reason = j.Verdict, j.Reason
		if j.Would != j.Verdict {
			e.Would = j.Would
		}
		if reply := r.Reply(j, recipient, c.Milter.Help); reply.Code != 0 {
			e.Reply = reply.String()
		}
	}
	if *asJSON {
		_ = p.answer(e)
	} else {
		e.print(p.stdout)
	}
	if e.Verdict != policy.Accept {
		return exitNo
	}
	return exitOK
}

// parseClient takes "name[address]", "[address]", "address" and, for mail handed in on this host, "".
func parseClient(s string) (addr.Domain, netip.Addr, error) {
	if s == "" {
		return addr.Domain{}, netip.Addr{}, nil
	}
	name, ip, inBrackets := strings.Cut(s, "[")
	if inBrackets {
		var closed bool
		if ip, closed = strings.CutSuffix(ip, "]"); !closed {
			return addr.Domain{}, netip.Addr{}, fmt.Errorf("%q: want NAME[ADDRESS]", s)
		}
	} else {
		name, ip = "", s
	}
	address, err := netip.ParseAddr(strings.TrimPrefix(ip, "IPv6:"))
	if err != nil || address.Zone() != "" {
		return addr.Domain{}, netip.Addr{}, fmt.Errorf("%q: want NAME[ADDRESS]", s)
	}
	if name == "" || name == "unknown" {
		return addr.Domain{}, address.Unmap(), nil
	}
	d, err := addr.ParseDomain(name)
	return d, address.Unmap(), err
}

func (e admission) print(w io.Writer) {
	line := func(key, format string, args ...any) { fmt.Fprintf(w, "%-12s %s\n", key, fmt.Sprintf(format, args...)) }
	switch {
	case e.Client == "":
		line("client", "none: handed in on this host")
	case e.Here:
		line("client", "%s: this host", e.Client)
	default:
		line("client", "%s", e.Client)
	}
	line("from", "%s", e.From)
	if e.User != "" {
		line("user", "%s", e.User)
	}
	line("to", "%s", e.To)
	switch {
	case !e.TLS:
		line("session", "in the clear")
	case e.Verified:
		line("session", "TLS %s, %d bits, certificate verified, common name %q", e.Version, e.Bits, e.Cert)
	default:
		line("session", "TLS %s, %d bits", e.Version, e.Bits)
	}
	if e.Rule == "" {
		line("rule", "none: nothing is asked")
		line("verdict", "%s", e.Verdict)
		return
	}
	line("rule", "%s (tls = %q, mode = %q)", e.Rule, e.Level, e.Mode)
	if e.RuleReason != "" {
		line("because", "%s", e.RuleReason)
	}
	verdict := string(e.Verdict)
	if e.Would != "" {
		verdict += fmt.Sprintf(" (only observed: the rule would %s)", e.Would)
	}
	line("verdict", "%s", verdict)
	if e.Reason != "" {
		line("reason", "%s", e.Reason)
	}
	if e.Reply != "" {
		line("reply", "%s", e.Reply)
	}
}
