package rig_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"flag"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"tlsonly/internal/testnet/rig"
)

// sessionDir is where the recorded sessions are, the same for every package's tests.
const sessionDir = "../../../testdata/milter"

var record = flag.Bool("record", false, "record testdata/milter/*.session anew from the real MTAs")

// What the recorder's milter asks for, in the words of libmilter's mfdef.h.
const (
	actions = 0x1 | 0x10 | 0x20 | 0x40 | 0x100 // ADDHDRS CHGHDRS QUARANTINE CHGFROM SETSYMLIST
	// NOCONNECT NOHELO NOBODY NOEOH NR_HDR NOUNKNOWN NODATA: what a milter needs that judges envelopes and header names.
	lean = 0x1 | 0x2 | 0x10 | 0x40 | 0x80 | 0x100 | 0x200
	full = 0x800 // RCPT_REJ and every event, each answered
)

// negotiation is the milter's answer to O: the protocol and the macros it wants at MAIL, RCPT and end of message.
func negotiation(protocol uint32) rig.Packet {
	d := binary.BigEndian.AppendUint32(nil, 6)
	d = binary.BigEndian.AppendUint32(d, actions)
	d = binary.BigEndian.AppendUint32(d, protocol)
	for _, m := range []struct {
		stage uint32
		names string
	}{
		{2, "i {auth_authen} {auth_type} {mail_addr} {mail_host} {mail_mailer} {client_addr} {client_name} {tls_version} {cipher} {cipher_bits} {daemon_name} {daemon_port} {dsn_envid} {dsn_ret} j v"},
		{3, "i {rcpt_addr} {rcpt_host} {rcpt_mailer}"},
		{5, "i {auth_authen}"},
	} {
		d = binary.BigEndian.AppendUint32(d, m.stage)
		d = append(d, m.names+"\x00"...)
	}
	return rig.Packet{From: rig.FromMilter, Kind: 'O', Data: d}
}

// answer is a milter that lets everything pass but recipients whose name begins with "reject".
func answer(c net.Conn, protocol uint32) {
	defer c.Close()
	for {
		p, err := rig.ReadPacket(c, rig.FromMTA)
		if err != nil {
			return
		}
		reply := rig.Packet{From: rig.FromMilter, Kind: 'c'}
		switch {
		case p.Kind == 'O':
			reply = negotiation(protocol)
		case strings.IndexByte("DAK", p.Kind) >= 0, p.Kind == 'L' && protocol&0x80 != 0:
			continue
		case p.Kind == 'Q':
			return
		case p.Kind == 'R' && strings.HasPrefix(strings.ToLower(string(p.Data)), "<reject"):
			reply.Kind, reply.Data = 'y', []byte("550 5.7.10 TLS required: tls-none.test does not offer STARTTLS\x00")
		}
		if reply.Write(c) != nil {
			return
		}
	}
}

// startMilter runs answer on a socket, behind a tap, and returns the tap and its socket's path.
func startMilter(t *testing.T, protocol uint32) (*rig.Tap, string) {
	t.Helper()
	dir, err := rig.TempDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	real := filepath.Join(dir, "milter.sock")
	l, err := net.Listen("unix", real)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { answer(c, protocol) })
		}
	})
	path := filepath.Join(dir, "tap.sock")
	tap, err := rig.NewTap("unix:"+path, "unix:"+real)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		tap.Close()
		l.Close()
		serving.Wait()
	})
	return tap, path
}

// certificate writes a key and a certificate for the MTA into a directory and returns the files.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	dir, err := rig.TempDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mta.test"}, DNSNames: []string{"mta.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// message is what the recorded clients send; every header that an MTA would add is there.
const message = "From: Alice <alice@sender.test>\r\nTo: Bob\r\n\t<bob@tls-good.test>\r\nSubject: a test\r\n" +
	"Date: Mon, 02 Jan 2006 15:04:05 +0000\r\nMessage-ID: <1@sender.test>\r\n\r\nHello.\r\n.."

// A scene is a conversation of a client with an MTA; it ends with the connection.
type scene struct {
	name, about string
	talk        func(c *client)
}

func mail(c *client, from string, to ...string) {
	c.say("MAIL FROM:"+from, "250")
	for _, r := range to {
		c.say("RCPT TO:"+r, "250")
	}
	c.say("DATA", "354")
	c.say(message+"\r\n.", "250")
}

// scenes are played to both MTAs.
func scenes() []scene {
	ehlo := func(c *client) { c.say("EHLO client.test", "250") }
	quit := func(c *client) { c.say("QUIT", "221") }
	return []scene{
		{"simple", "one message to one recipient", func(c *client) {
			ehlo(c)
			mail(c, "<alice@sender.test> SIZE=220 BODY=8BITMIME", "<bob@tls-good.test>")
			quit(c)
		}},
		{"two-messages", "two messages on one connection, the second to two recipients", func(c *client) {
			ehlo(c)
			mail(c, "<alice@sender.test>", "<bob@tls-good.test>")
			mail(c, "<carol@sender.test>", "<dave@tls-self.test>", "<erin@tls-none.test>")
			quit(c)
		}},
		{"rset", "RSET after RCPT, then a message", func(c *client) {
			ehlo(c)
			c.say("MAIL FROM:<alice@sender.test>", "250")
			c.say("RCPT TO:<bob@tls-good.test>", "250")
			c.say("RSET", "250")
			mail(c, "<carol@sender.test>", "<dave@tls-good.test>")
			quit(c)
		}},
		{"second-ehlo", "a second EHLO after RCPT, then a message", func(c *client) {
			ehlo(c)
			c.say("MAIL FROM:<alice@sender.test>", "250")
			c.say("RCPT TO:<bob@tls-good.test>", "250")
			ehlo(c)
			mail(c, "<carol@sender.test>", "<dave@tls-good.test>")
			quit(c)
		}},
		{"drop", "the client closes after RCPT", func(c *client) {
			ehlo(c)
			c.say("MAIL FROM:<alice@sender.test>", "250")
			c.say("RCPT TO:<bob@tls-good.test>", "250")
			c.conn.Close()
		}},
		{"reject", "a recipient refused among two accepted", func(c *client) {
			ehlo(c)
			c.say("MAIL FROM:<alice@sender.test>", "250")
			c.say("RCPT TO:<bob@tls-good.test>", "250")
			c.say("RCPT TO:<reject@tls-none.test>", "550")
			c.say("RCPT TO:<carol@tls-good.test>", "250")
			c.say("DATA", "354")
			c.say(message+"\r\n.", "250")
			quit(c)
		}},
		{"reject-all", "the only recipient refused, then RSET and another message", func(c *client) {
			ehlo(c)
			c.say("MAIL FROM:<alice@sender.test>", "250")
			c.say("RCPT TO:<reject@tls-none.test>", "550")
			c.say("RSET", "250")
			mail(c, "<alice@sender.test>", "<bob@tls-good.test>")
			quit(c)
		}},
		{"null-sender", "a bounce from elsewhere", func(c *client) {
			ehlo(c)
			mail(c, "<>", "<bob@tls-good.test>")
			quit(c)
		}},
		{"addresses", "quoted, upper-case, detail and source-routed addresses, and one of this host", func(c *client) {
			ehlo(c)
			mail(c, `<"Alice B"@Sender.TEST>`, "<Bob+Detail@TLS-Good.TEST>", `<"carol d"@tls-good.test>`,
				"<@relay.test:dave@tls-good.test>", "<Root@MTA.Test>")
			quit(c)
		}},
		{"arguments", "ESMTP arguments to MAIL and RCPT", func(c *client) {
			ehlo(c)
			mail(c, "<alice@sender.test> RET=HDRS ENVID=abc+2B1 BODY=8BITMIME",
				"<bob@tls-good.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;robert@tls-good.test", "<carol@tls-good.test> NOTIFY=NEVER")
			quit(c)
		}},
		{"starttls", "a message in a session encrypted by STARTTLS", func(c *client) {
			ehlo(c)
			c.startTLS()
			ehlo(c)
			mail(c, "<alice@sender.test>", "<bob@tls-good.test>")
			quit(c)
		}},
	}
}

// play lets a client play the scene to the MTA and returns the milter session of it.
func play(t *testing.T, s scene, mta string, tap *rig.Tap) rig.Session {
	t.Helper()
	before := len(tap.Sessions())
	s.talk(dial(t, mta))
	return lastSession(t, tap, before)
}

func lastSession(t *testing.T, tap *rig.Tap, before int) rig.Session {
	t.Helper()
	if err := tap.Wait(patient(t), before+1); err != nil {
		t.Fatal(err)
	}
	all := tap.Sessions()
	if len(all) != before+1 {
		t.Fatalf("%d milter connections, want one", len(all)-before)
	}
	return all[before]
}

func save(t *testing.T, mta, version, about string, s rig.Session) {
	t.Helper()
	name := filepath.Join(sessionDir, mta+".session")
	text := "# " + version + ": " + about + "\n" + s.String()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestRecordPostfix(t *testing.T) {
	if !*record {
		t.Skip("records only with -record")
	}
	needIsolation(t)
	ctx := patient(t)
	startDNS(t)
	tap, path := startMilter(t, lean)
	fullTap, fullPath := startMilter(t, full)
	cert, key := certificate(t)
	p, err := rig.StartPostfix(ctx, rig.PostfixConfig{
		Main: map[string]string{
			"smtpd_milters":               "unix:" + path,
			"non_smtpd_milters":           "unix:" + path,
			"smtpd_tls_security_level":    "may",
			"smtpd_tls_chain_files":       key + ", " + cert,
			"smtpd_discard_ehlo_keywords": "chunking",
			"defer_transports":            "smtp",
		},
		Logins: map[string]string{"alice": "secret"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	version, err := p.Run(ctx, "", "postconf", "-h", "mail_version")
	if err != nil {
		t.Fatal(err)
	}
	version = "Postfix " + strings.TrimSpace(version)
	all := append(scenes(), scene{"login", "a message of a client that logged in", func(c *client) {
		c.say("EHLO client.test", "250")
		c.say("AUTH PLAIN AGFsaWNlAHNlY3JldA==", "235")
		mail(c, "<alice@sender.test>", "<bob@tls-good.test>")
		c.say("QUIT", "221")
	}})
	for _, s := range all {
		save(t, "postfix-"+s.name, version, s.about, play(t, s, p.Addr, tap))
	}
	before := len(tap.Sessions())
	if _, err := p.Run(ctx, strings.ReplaceAll(message, "\r\n", "\n")+"\n", "sendmail", "-i", "-f", "alice@sender.test", "bob@tls-good.test", "reject@tls-none.test"); err != nil {
		t.Fatal(err)
	}
	save(t, "postfix-pickup", version, "a message submitted with sendmail(1), to two recipients", lastSession(t, tap, before))
	if err := p.Set(ctx, map[string]string{"smtpd_milters": "unix:" + fullPath}); err != nil {
		t.Fatal(err)
	}
	s := all[0]
	save(t, "postfix-full", version, s.about+", every event asked for", play(t, s, p.Addr, fullTap))
}

func TestRecordSendmail(t *testing.T) {
	if !*record {
		t.Skip("records only with -record")
	}
	needIsolation(t)
	startDNS(t)
	cert, key := certificate(t)
	for _, run := range []struct {
		protocol uint32
		scenes   []scene
	}{
		{lean, scenes()},
		{full, []scene{{"full", scenes()[0].about + ", every event asked for", scenes()[0].talk}}},
	} {
		tap, path := startMilter(t, run.protocol)
		s, err := rig.StartSendmail(patient(t), rig.SendmailConfig{
			Milter: "unix:" + path,
			Mc: []string{
				"define(`confSERVER_CERT', `" + cert + "')dnl", "define(`confSERVER_KEY', `" + key + "')dnl",
				"define(`confCACERT', `" + cert + "')dnl", "define(`confCACERT_PATH', `" + filepath.Dir(cert) + "')dnl",
				"define(`confDELIVERY_MODE', `queueonly')dnl", "LOCAL_DOMAIN(`mta.test')dnl",
			},
			Rules: []string{"MAILER(`local')dnl"},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Stop()
		for _, sc := range run.scenes {
			save(t, "sendmail-"+sc.name, "Sendmail 8.17.1", sc.about, play(t, sc, s.Addr, tap))
		}
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
	}
}
