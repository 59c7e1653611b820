package postfix

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/testnet"
	"tlsonly/internal/testnet/rig"
)

// What setup writes lets the policies dane-only and secure be met, in our transports and in the site's own, also from the
// chroot; without it such mail waits.
func TestVerifies(t *testing.T) {
	ctx := patient(t)
	world, err := testnet.StartWorld("127.0.0.1:53", 25, []testnet.Site{
		{Domain: "dane.example", Hosts: []testnet.Host{{}}}, {Domain: "secure.example", Hosts: []testnet.Host{{}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer world.Close()
	name, data := world.Hosts("dane.example")[0].TLSA()
	if err := world.AddRecords(strings.TrimSuffix(name, ".") + ". 60 IN TLSA " + data + "\n"); err != nil {
		t.Fatal(err)
	}
	world.DNS.SetSecure("example")
	smap := startAnswers(t, "tcp", "127.0.0.1:0", map[string]string{"sender1 alice@sender.test": "OK tlsonly1:"})
	for _, m := range []string{"forced1", "policy"} {
		smap.say(m+" dane.example", "OK dane-only")
		smap.say(m+" secure.example", "OK secure match=mx1.secure.example servername=hostname")
	}
	s := Settings{
		Milter: "inet:" + startMilter(t, "tcp", "127.0.0.1:0"), Socketmap: "inet:" + smap.listener.Addr().String(), DANE: true,
		Classes: []Class{{Number: 1}}, Protected: []addr.Address{addr.MustAddress("alice@sender.test")},
	}
	p := startPostfix(t, ctx, rig.PostfixConfig{Main: map[string]string{"smtp_tls_security_level": "may", "smtp_tls_loglevel": "1"}})
	i := Instance{Dir: p.Etc}
	if _, err := p.Run(ctx, "", "postconf", "-F", "smtp/unix/chroot=y"); err != nil {
		t.Fatal(err)
	}
	s.CAFile = filepath.Join(p.Etc, "ca.pem") // nothing like it in the chroot
	if err := os.WriteFile(s.CAFile, world.CA.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	backdate(t, p)
	apply(t, ctx, i, s, time.Now())
	settle(t, ctx, p)
	if err := waitSocket(ctx, filepath.Join(p.Dir, "queue", "private", "tlsonly1")); err != nil {
		t.Fatal(err)
	}
	if found, err := Doctor(ctx, s, i); err != nil || len(bad(found)) > 0 {
		t.Errorf("%q, %v", bad(found), err)
	}
	logged := func(from, to, want string) {
		t.Helper()
		send(t, p, from, to)
		if line, err := p.WaitLog(ctx, "to=<"+to+">"); err != nil || !strings.Contains(line, want) {
			t.Errorf("%s to %s: %q, %v; log:\n%s", from, to, line, err, p.Log())
		}
	}
	for _, from := range []string{"alice", "bob"} {
		logged(from+"@sender.test", from+"1@dane.example", "status=sent")
		logged(from+"@sender.test", from+"1@secure.example", "status=sent")
	}
	if n := len(p.LogLines("Verified TLS connection established")); n != 4 {
		t.Errorf("%d verified connections, want 4; log:\n%s", n, p.Log())
	}
	// Without what this is about.
	for _, args := range [][]string{
		{"-P", "-X", "tlsonly1/unix/smtp_tls_CAfile", "tlsonly1/unix/smtp_dns_support_level"}, {"-X", "smtp_tls_CAfile", "smtp_dns_support_level"},
	} {
		if _, err := p.Run(ctx, "", "postconf", args...); err != nil {
			t.Fatal(err)
		}
	}
	settle(t, ctx, p)
	for _, from := range []string{"alice", "bob"} {
		logged(from+"@sender.test", from+"2@dane.example", "status=deferred")
		logged(from+"@sender.test", from+"2@secure.example", "status=deferred")
	}
}
