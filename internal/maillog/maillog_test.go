package maillog

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// brief is a delivery in one line: "ID to outcome security version trust".
func brief(d *Delivery) string {
	s := fmt.Sprintf("%s %s %s", d.QueueID, d.To, d.Outcome)
	if d.Security != "" {
		s += " " + string(d.Security)
	}
	if d.TLS != nil {
		s = strings.TrimSpace(strings.TrimSpace(s+" "+d.TLS.Version.String()) + " " + string(d.TLS.Trust))
	}
	return s
}

// read gives the deliveries of the senders at clinic.example, or logged in as alice.
func read(t *testing.T, c Config, sources ...Source) ([]*Delivery, *Reader, []Stats) {
	t.Helper()
	var got []*Delivery
	c.Wanted = func(from []byte, user string) bool {
		return strings.HasSuffix(string(from), "@clinic.example") || user == "alice" || len(from) == 0
	}
	c.Emit = func(d *Delivery) error { got = append(got, d); return nil }
	if c.Zone == nil {
		c.Zone = time.UTC
	}
	r := New(c)
	var all []Stats
	for _, s := range sources {
		stats, err := r.Read(context.Background(), s)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, stats)
	}
	return got, r, all
}

var modTime = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// log makes a log of lines "HH:MM:SS tag[pid] text".
func log(lines string) Source {
	var b strings.Builder
	for line := range strings.Lines(lines) {
		at, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		tag, text, _ := strings.Cut(rest, " ")
		if text != "" {
			fmt.Fprintf(&b, "Nov 23 %s mail %s: %s\n", at, tag, text)
		}
	}
	return Source{Name: "log", Lines: strings.NewReader(b.String()), ModTime: modTime}
}

const (
	tls13   = "TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits) key-exchange X25519 server-signature RSA-PSS (2048 bits) server-digest SHA256"
	toA     = "relay=mx.a.example[192.0.2.1]:25, delay=0.5, delays=0.1/0/0.2/0.2"
	sent    = "dsn=2.0.0, status=sent (250 2.0.0 Ok)"
	seesTLS = "17:00:00 postfix/smtp[99] Trusted TLS connection established to mx.z.example[192.0.2.9]:25: " + tls13 + "\n"
)

func TestPostfix(t *testing.T) {
	begin := func(id string) string {
		return "17:00:00 postfix/qmgr[9] " + id + ": from=<d@clinic.example>, size=1, nrcpt=1 (queue active)\n"
	}
	session := func(pid, relay string) string {
		return "17:00:01 postfix/smtp[" + pid + "] Verified TLS connection established to " + relay + ": " + tls13 + "\n"
	}
	deliver := func(pid, id, to string) string {
		return "17:00:02 postfix/smtp[" + pid + "] " + id + ": to=<" + to + ">, " + toA + ", " + sent + "\n"
	}
	const a = "mx.a.example[192.0.2.1]:25"
	for _, c := range []struct {
		name, log string
		want      []string
	}{
		{"a session serves all recipients of one delivery", begin("AAAAA1") + session("1", a) + deliver("1", "AAAAA1", "u@a.example") + deliver("1", "AAAAA1", "v@a.example"),
			[]string{"AAAAA1 u@a.example sent tls 1.3 verified", "AAAAA1 v@a.example sent tls 1.3 verified"}},
		{"and not the next message", begin("AAAAA1") + begin("AAAAA2") + session("1", a) + deliver("1", "AAAAA1", "u@a.example") + deliver("1", "AAAAA2", "u@a.example"),
			[]string{"AAAAA1 u@a.example sent tls 1.3 verified", "AAAAA2 u@a.example sent clear"}},
		{"nor when the first wasn't protected", strings.ReplaceAll(begin("AAAAA1"), "clinic", "other") + begin("AAAAA2") + session("1", a) + deliver("1", "AAAAA1", "u@a.example") + deliver("1", "AAAAA2", "u@a.example"),
			[]string{"AAAAA2 u@a.example sent clear"}},
		{"nor another process", begin("AAAAA1") + session("1", a) + deliver("2", "AAAAA1", "u@a.example"), []string{"AAAAA1 u@a.example sent clear"}},
		{"nor another host", begin("AAAAA1") + session("1", "mx.b.example[192.0.2.2]:25") + deliver("1", "AAAAA1", "u@a.example"), []string{"AAAAA1 u@a.example sent clear"}},
		{"nor a later try of the same message", begin("AAAAA1") + session("1", a) + strings.Replace(deliver("1", "AAAAA1", "u@a.example"), "dsn=2.0.0, status=sent (250 2.0.0 Ok)", "dsn=4.2.0, status=deferred (host said: 451 later (in reply to RCPT TO command))", 1) +
			begin("AAAAA1") + deliver("1", "AAAAA1", "u@a.example"),
			[]string{"AAAAA1 u@a.example deferred", "AAAAA1 u@a.example sent clear"}},
		{"nor the fallback after a lost connection", begin("AAAAA1") + session("1", a) + "17:00:01 postfix/smtp[1] AAAAA1: lost connection with mx.a.example[192.0.2.1] while performing the EHLO handshake\n" + deliver("1", "AAAAA1", "u@a.example"),
			[]string{"AAAAA1 u@a.example sent clear"}},
		{"nor the fallback after a failed handshake", begin("AAAAA1") + session("1", a) + "17:00:01 postfix/smtp[1] SSL_connect error to mx.a.example[192.0.2.1]:25: -1\n" + deliver("1", "AAAAA1", "u@a.example"),
			[]string{"AAAAA1 u@a.example sent clear"}},
		{"nor a second connection for more recipients", begin("AAAAA1") + session("1", a) + deliver("1", "AAAAA1", "u@a.example") + strings.Replace(deliver("1", "AAAAA1", "v@a.example"), "delays=0.1/0/0.2/0.2", "delays=0.1/0.7/0.2/0.2", 1),
			[]string{"AAAAA1 u@a.example sent tls 1.3 verified", "AAAAA1 v@a.example sent clear"}},
		{"a reused connection says so", begin("AAAAA1") + begin("AAAAA2") + session("1", a) + deliver("1", "AAAAA1", "u@a.example") + strings.Replace(session("2", a), "established", "reused", 1) + strings.Replace(deliver("2", "AAAAA2", "u@a.example"), "delay=", "conn_use=2, delay=", 1),
			[]string{"AAAAA1 u@a.example sent tls 1.3 verified", "AAAAA2 u@a.example sent tls 1.3 verified"}},
		{"a transport with its own log name", begin("4XyZab1234z9k") + strings.ReplaceAll(session("1", a)+deliver("1", "4XyZab1234z9k", "u@a.example"), "postfix/smtp", "postfix/tlsonly1/smtp"),
			[]string{"4XyZab1234z9k u@a.example sent tls 1.3 verified"}},
		{"an encrypted copy in the clear", begin("AAAAA1") + strings.ReplaceAll(deliver("1", "AAAAA1", "u@a.example"), "postfix/smtp", "postfix/tlsonly_open/smtp"),
			[]string{"AAAAA1 u@a.example sent content"}},
		{"and over TLS", begin("AAAAA1") + strings.ReplaceAll(session("1", a)+deliver("1", "AAAAA1", "u@a.example"), "postfix/smtp", "postfix/tlsonly_open/smtp"),
			[]string{"AAAAA1 u@a.example sent content"}},
		{"to the gateway", begin("AAAAA1") + strings.ReplaceAll(session("1", "127.0.0.1[127.0.0.1]:8692")+deliver("1", "AAAAA1", "u@a.example"), a, "127.0.0.1[127.0.0.1]:8692"),
			[]string{"AAAAA1 u@a.example here"}},
		{"another instance", strings.ReplaceAll(begin("AAAAA1")+session("1", a)+deliver("1", "AAAAA1", "u@a.example"), "postfix/", "postfix-out/"), []string{"AAAAA1 u@a.example sent tls 1.3 verified"}},
		{"old versions and anonymous", begin("AAAAA1") + "17:00:01 postfix/smtp[1] Anonymous TLS connection established to " + a + ": TLSv1 with cipher AECDH-AES256-SHA (256/256 bits)\n" + deliver("1", "AAAAA1", "u@a.example"),
			[]string{"AAAAA1 u@a.example sent tls 1.0 anonymous"}},
		{"3.11 says none", begin("AAAAA1") + strings.Replace(deliver("1", "AAAAA1", "u@a.example"), "dsn=", "tls=none, dsn=", 1), []string{"AAAAA1 u@a.example sent clear"}},
		{"3.11 says none, though the process had a session", begin("AAAAA1") + session("1", a) + strings.Replace(deliver("1", "AAAAA1", "u@a.example"), "dsn=", "tls=may:none, dsn=", 1), []string{"AAAAA1 u@a.example sent clear"}},
		{"3.11 says encrypt", begin("AAAAA1") + strings.Replace(deliver("1", "AAAAA1", "u@a.example"), "dsn=", "tls=encrypt, dsn=", 1), []string{"AAAAA1 u@a.example sent tls"}},
		{"3.11 says dane, lowered to may", begin("AAAAA1") + strings.Replace(deliver("1", "AAAAA1", "u@a.example"), "dsn=", "tls=dane:may/requiretls, dsn=", 1), []string{"AAAAA1 u@a.example sent clear"}},
		{"3.11 in doubt", begin("AAAAA1") + strings.Replace(deliver("1", "AAAAA1", "u@a.example"), "dsn=", "tls=encrypt?, dsn=", 1), []string{"AAAAA1 u@a.example sent clear"}},
		{"text that left before it was refused", begin("AAAAA1") + "17:00:02 postfix/smtp[1] AAAAA1: to=<u@a.example>, " + toA + ", dsn=5.7.1, status=bounced (host mx.a.example[192.0.2.1] said: 550 spam (in reply to end of DATA command))\n",
			[]string{"AAAAA1 u@a.example bounced clear"}},
		{"refused before", begin("AAAAA1") + "17:00:02 postfix/smtp[1] AAAAA1: to=<u@a.example>, " + toA + ", dsn=5.1.1, status=bounced (host mx.a.example[192.0.2.1] said: 550 no (in reply to RCPT TO command))\n",
			[]string{"AAAAA1 u@a.example bounced"}},
		{"held to TLS", begin("AAAAA1") + "17:00:02 postfix/smtp[1] AAAAA1: to=<u@a.example>, " + toA + ", dsn=4.7.4, status=deferred (TLS is required, but was not offered by host mx.a.example[192.0.2.1])\n",
			[]string{"AAAAA1 u@a.example deferred"}},
		{"no host", begin("AAAAA1") + "17:00:02 postfix/error[1] AAAAA1: to=<u@a.example>, relay=none, delay=1, delays=1/0/0/0, dsn=5.1.2, status=bounced (mail for a.example loops)\n", []string{"AAAAA1 u@a.example bounced"}},
		{"local", begin("AAAAA1") + "17:00:02 postfix/local[1] AAAAA1: to=<root@mail.clinic.example>, orig_to=<root>, relay=local, delay=0, delays=0/0/0/0, dsn=2.0.0, status=sent (forwarded as BBBBB1)\n", []string{"AAAAA1 root@mail.clinic.example here"}},
		{"LMTP on a socket", begin("AAAAA1") + "17:00:02 postfix/lmtp[1] AAAAA1: to=<u@b.example>, relay=mail.clinic.example[private/dovecot-lmtp], delay=0, delays=0/0/0/0, dsn=2.0.0, status=sent (250 2.0.0 saved)\n", []string{"AAAAA1 u@b.example here"}},
		{"LMTP to another host", begin("AAAAA1") + "17:00:02 postfix/lmtp[1] AAAAA1: to=<u@b.example>, relay=store.b.example[192.0.2.7]:24, delay=0, delays=0/0/0/0, dsn=2.0.0, status=sent (250 2.0.0 saved)\n", []string{"AAAAA1 u@b.example sent clear"}},
		{"content filter here", begin("AAAAA1") + "17:00:02 postfix/smtp[1] AAAAA1: to=<u@b.example>, relay=127.0.0.1[127.0.0.1]:10024, delay=0, delays=0/0/0/0, dsn=2.0.0, status=sent (250 2.0.0 Ok)\n", []string{"AAAAA1 u@b.example here"}},
		{"by IPv6", begin("AAAAA1") + session("1", "mx.a.example[2001:db8::1]:25") + strings.Replace(deliver("1", "AAAAA1", "u@a.example"), "192.0.2.1", "2001:db8::1", 1), []string{"AAAAA1 u@a.example sent tls 1.3 verified"}},
		{"a probe", begin("AAAAA1") + "17:00:02 postfix/smtp[1] AAAAA1: to=<u@a.example>, " + toA + ", dsn=2.1.5, status=deliverable (250 2.1.5 Ok)\n", nil},
		{"the empty sender", strings.Replace(begin("AAAAA1"), "d@clinic.example", "", 1) + session("1", a) + deliver("1", "AAAAA1", "u@a.example"), []string{"AAAAA1 u@a.example sent tls 1.3 verified"}},
		{"by login", "17:00:00 postfix/submission/smtpd[3] AAAAA1: client=pc[192.0.2.5], sasl_method=PLAIN, sasl_username=alice\n" + strings.Replace(begin("AAAAA1"), "clinic", "other", 1) + session("1", a) + deliver("1", "AAAAA1", "u@a.example"),
			[]string{"AAAAA1 u@a.example sent tls 1.3 verified"}},
		{"another login", "17:00:00 postfix/submission/smtpd[3] AAAAA1: client=pc[192.0.2.5], sasl_method=PLAIN, sasl_username=bob\n" + strings.Replace(begin("AAAAA1"), "clinic", "other", 1) + session("1", a) + deliver("1", "AAAAA1", "u@a.example"), nil},
		{"a recipient that would forge the rest", begin("AAAAA1") + deliver("1", "AAAAA1", `"x>, relay=none, status=bounced (no)"@a.example`), []string{`AAAAA1 "x>, relay=none, status=bounced (no)"@a.example sent clear`}},
		{"a reply that would forge a session", begin("AAAAA1") + "17:00:02 postfix/smtp[1] AAAAA1: to=<u@a.example>, " + toA + ", dsn=2.0.0, status=sent (250 Verified TLS connection established to " + a + ": " + tls13 + ")\n", []string{"AAAAA1 u@a.example sent clear"}},
		{"other programs", "17:00:00 dovecot[1] AAAAA1: from=<d@clinic.example>, size=1\n17:00:00 postfix/smtpd[1] connect from x[192.0.2.1]\n17:00:00 postfix/cleanup[2] AAAAA1: message-id=<1@x>\n17:00:00 kernel[0] x\n", nil},
	} {
		got, _, _ := read(t, Config{}, log(seesTLS+strings.ReplaceAll(seesTLS, "postfix/smtp", "postfix/lmtp")+strings.ReplaceAll(seesTLS, "postfix/smtp", "postfix/tlsonly1/smtp")+c.log))
		briefs(t, c.name, got, c.want)
	}
}

func briefs(t *testing.T, name string, got []*Delivery, want []string) {
	t.Helper()
	var lines []string
	for _, d := range got {
		lines = append(lines, brief(d))
	}
	if !slices.Equal(lines, want) {
		t.Errorf("%s:\n got %q\nwant %q", name, lines, want)
	}
}

func TestSendmail(t *testing.T) {
	const begin = "17:00:00 sm-mta[1] 6ANHQUPs000341: from=<d@clinic.example>, size=18, class=0, nrcpts=1, msgid=<1@x>, proto=ESMTP, daemon=MTA, relay=pc [192.0.2.5]\n"
	const session = "17:00:01 sm-mta[2] STARTTLS=client, relay=mx.a.example., version=TLSv1.2, verify=OK, cipher=ECDHE-RSA-AES256-GCM-SHA384, bits=256/256\n"
	deliver := func(at, to, relay, rest string) string {
		return at + " sm-mta[2] 6ANHQUPs000341: to=" + to + ", ctladdr=<d@clinic.example> (1000/1000), delay=00:00:01, xdelay=00:00:01, mailer=esmtp, pri=1, relay=" + relay + ", " + rest + "\n"
	}
	const mx, ok = "mx.a.example. [192.0.2.1]", "dsn=2.0.0, stat=Sent (Ok, queued as 1)"
	for _, c := range []struct {
		name, log string
		want      []string
	}{
		{"a session and two recipients", begin + session + deliver("17:00:02", "<u@a.example>,<v@a.example>", mx, ok), []string{"6ANHQUPs000341 u@a.example sent tls 1.2 trusted", "6ANHQUPs000341 v@a.example sent tls 1.2 trusted"}},
		{"a cached connection", begin + session + deliver("17:04:00", "<u@a.example>", mx, ok) + deliver("17:13:00", "<v@a.example>", mx, ok), []string{"6ANHQUPs000341 u@a.example sent tls 1.2 trusted", "6ANHQUPs000341 v@a.example sent tls 1.2 trusted"}},
		{"no session after all", begin + session + strings.Replace(strings.Replace(session, "verify=OK", "verify=SOFTWARE", 1), "mx.a", "mx.b", 1) + deliver("17:00:02", "<u@b.example>", "mx.b.example. [192.0.2.2]", ok), []string{"6ANHQUPs000341 u@b.example sent clear"}},
		{"no certificate", begin + strings.Replace(session, "verify=OK", "verify=NO", 1) + deliver("17:00:02", "<u@a.example>", mx, ok), []string{"6ANHQUPs000341 u@a.example sent tls 1.2 anonymous"}},
		{"by DANE", begin + strings.Replace(session, "verify=OK", "verify=TRUSTED", 1) + deliver("17:00:02", "<u@a.example>", mx, ok), []string{"6ANHQUPs000341 u@a.example sent tls 1.2 verified"}},
		{"not trusted", begin + strings.Replace(session, "verify=OK", "verify=FAIL", 1) + deliver("17:00:02", "<u@a.example>", mx, ok), []string{"6ANHQUPs000341 u@a.example sent tls 1.2 untrusted"}},
		{"too old to be cached", begin + session + deliver("17:12:00", "<u@a.example>", mx, ok), []string{"6ANHQUPs000341 u@a.example sent clear"}},
		{"another host", begin + session + deliver("17:00:02", "<u@b.example>", "mx.b.example. [192.0.2.2]", ok), []string{"6ANHQUPs000341 u@b.example sent clear"}},
		{"held to TLS", begin + session + deliver("17:00:02", "<u@b.example>", "mx.b.example. [192.0.2.2]", "dsn=4.7.10, reply=403 4.7.0 TLS required, stat=Deferred: 403 4.7.0 TLS required"), []string{"6ANHQUPs000341 u@b.example deferred"}},
		{"unknown", begin + session + deliver("17:00:02", "<u@b.example>", "b.example", "dsn=5.1.2, stat=Host unknown (Name server: b.example: host not found)"), []string{"6ANHQUPs000341 u@b.example bounced"}},
		{"local", begin + session + "17:00:02 sm-mta[2] 6ANHQUPs000341: to=<root@mail.clinic.example>, delay=00:00:00, mailer=local, pri=1, dsn=2.0.0, stat=Sent\n", []string{"6ANHQUPs000341 root@mail.clinic.example here"}},
		{"a pipe with commas", begin + session + `17:00:02 sm-mta[2] 6ANHQUPs000341: to="|/usr/bin/vacation a, b", ctladdr=<d@clinic.example> (1/1), mailer=prog, pri=1, dsn=2.0.0, stat=Sent` + "\n", []string{`6ANHQUPs000341 "|/usr/bin/vacation a, b" here`}},
		{"the submission queue's own hop", strings.ReplaceAll(begin, "sm-mta", "sendmail") + session + strings.ReplaceAll(deliver("17:00:02", "<u@a.example>", "[127.0.0.1] [127.0.0.1]", ok), "sm-mta", "sendmail"), []string{"6ANHQUPs000341 u@a.example here"}},
		{"by login", "17:00:00 sm-mta[1] AUTH=server, relay=pc [192.0.2.5], authid=alice, mech=PLAIN, bits=0\n" + strings.ReplaceAll(begin, "d@clinic", "x@other") + session + deliver("17:00:02", "<u@a.example>", mx, ok), []string{"6ANHQUPs000341 u@a.example sent tls 1.2 trusted"}},
		{"a login from elsewhere", "17:00:00 sm-mta[1] AUTH=server, relay=pc2 [192.0.2.6], authid=alice, mech=PLAIN, bits=0\n" + strings.ReplaceAll(begin, "d@clinic", "x@other") + session + deliver("17:00:02", "<u@a.example>", mx, ok), nil},
		{"a line in parts", begin + session + "17:00:02 sm-mta[2] 6ANHQUPs000341[1]: to=<u@a.example>, delay=00:00:01, mailer=esmtp, ...\n" +
			"17:00:02 sm-mta[3] 6ANHQUPs000349[1]: to=<x@b.example>, ...\n17:00:02 sm-mta[2] 6ANHQUPs000341[2]:  relay=" + mx + ", dsn=2.0.0, ...\n17:00:02 sm-mta[2] 6ANHQUPs000341[3]:  stat=Sent (x ... y)\n",
			[]string{"6ANHQUPs000341 u@a.example sent tls 1.2 trusted"}},
		{"a bounce", begin + session + "17:00:01 sm-mta[2] 6ANHQUPs000341: 6ANHQUPs000342: DSN: User unknown\n" + strings.ReplaceAll(deliver("17:00:02", "<u@a.example>", mx, ok), "000341", "000342"), []string{"6ANHQUPs000342 u@a.example sent tls 1.2 trusted"}},
	} {
		got, _, _ := read(t, Config{}, log(c.log))
		briefs(t, c.name, got, c.want)
	}
}

// Without a line of TLS from the same program nothing is known. With one before
// it, and the MTA not reloaded since, the delivery was in the clear; by one of our
// transports it wasn't, whatever the log says. So no setting of the log makes TLS
// a violation: set late, taken back, or set for some programs only.
func TestWitness(t *testing.T) {
	const begin = "16:00:00 postfix/qmgr[9] AAAAA1: from=<d@clinic.example>, size=1, nrcpt=1 (queue active)\n"
	const deliver = "16:00:02 postfix/smtp[1] AAAAA1: to=<u@a.example>, " + toA + ", " + sent + "\n"
	const again = "17:30:00 postfix/smtp[1] AAAAA1: to=<v@a.example>, " + toA + ", " + sent + "\n"
	const reload = "17:20:00 postfix/master[2] reload -- version 3.7.11, configuration /etc/postfix\n"
	early := strings.ReplaceAll(seesTLS, "17:", "15:")
	ours := func(lines string) string { return strings.ReplaceAll(lines, "postfix/smtp", "postfix/tlsonly12/smtp") }
	for _, c := range []struct {
		name, log string
		logged    bool
		want      []string
	}{
		{"never", begin + deliver, false, []string{"AAAAA1 u@a.example sent unknown"}},
		{"said to", begin + deliver, true, []string{"AAAAA1 u@a.example sent clear"}},
		{"before", early + begin + deliver, false, []string{"AAAAA1 u@a.example sent clear"}},
		{"soon after", begin + deliver + strings.ReplaceAll(seesTLS, "17:00:00", "16:00:03"), false, []string{"AAAAA1 u@a.example sent unknown"}},
		{"after, and then", begin + deliver + seesTLS + again, false, []string{"AAAAA1 u@a.example sent unknown", "AAAAA1 v@a.example sent clear"}},
		{"taken back by a reload", begin + seesTLS + reload + again, false, []string{"AAAAA1 v@a.example sent unknown"}},
		{"taken back by a start", begin + seesTLS + strings.Replace(reload, "reload", "daemon started", 1) + again, false, []string{"AAAAA1 v@a.example sent unknown"}},
		{"another instance's reload", begin + seesTLS + strings.Replace(reload, "postfix/", "postfix-out/", 1) + again, false, []string{"AAAAA1 v@a.example sent clear"}},
		{"kept over a reload", begin + seesTLS + reload + strings.ReplaceAll(seesTLS, "17:00:00", "17:21:00") + again, false, []string{"AAAAA1 v@a.example sent clear"}},
		{"another program", early + begin + strings.ReplaceAll(deliver, "postfix/smtp", "postfix/relay/smtp"), false, []string{"AAAAA1 u@a.example sent unknown"}},
		{"our transport, never", begin + ours(deliver), false, []string{"AAAAA1 u@a.example sent by-transport"}},
		{"a twin of the site's transport", begin + strings.ReplaceAll(deliver, "postfix/smtp", "postfix/tlsonly1-slow/smtp"), false, []string{"AAAAA1 u@a.example sent by-transport"}},
		{"our strict transport", begin + strings.ReplaceAll(deliver, "postfix/smtp", "postfix/tlsonly/smtp"), false, []string{"AAAAA1 u@a.example sent by-transport"}},
		{"our transport, set late", begin + ours(deliver+seesTLS+again), false, []string{"AAAAA1 u@a.example sent by-transport", "AAAAA1 v@a.example sent by-transport"}},
		{"our transport, said to", begin + ours(deliver), true, []string{"AAAAA1 u@a.example sent clear"}},
		{"our transport, and 3.11 says none", begin + ours(strings.Replace(deliver, "dsn=", "tls=none, dsn=", 1)), false, []string{"AAAAA1 u@a.example sent clear"}},
		{"a name that is like ours", early + begin + strings.ReplaceAll(deliver+"", "postfix/smtp", "postfix/tlsonlyx/smtp"), false, []string{"AAAAA1 u@a.example sent unknown"}},
	} {
		got, _, _ := read(t, Config{TLSLogged: c.logged}, log(c.log))
		briefs(t, c.name, got, c.want)
	}
}

// What is remembered is bounded: a message that never ends is forgotten, and its delivery counts as one without a sender.
func TestForgotten(t *testing.T) {
	var b strings.Builder
	for i := range 2*maxMessages + 1 {
		fmt.Fprintf(&b, "Nov 23 17:00:00 mail postfix/qmgr[9]: A%06d: from=<d@clinic.example>, size=1, nrcpt=1 (queue active)\n", i)
	}
	for _, id := range []string{"A000000", fmt.Sprintf("A%06d", 2*maxMessages)} {
		fmt.Fprintf(&b, "Nov 23 17:00:01 mail postfix/smtp[1]: %s: to=<u@a.example>, %s, %s\n", id, toA, sent)
	}
	got, r, _ := read(t, Config{TLSLogged: true}, Source{Name: "log", Lines: strings.NewReader(b.String()), ModTime: modTime})
	if n := len(r.messages.young) + len(r.messages.old); n > 2*maxMessages {
		t.Errorf("%d messages are remembered", n)
	}
	if len(got) != 1 || r.Senderless() != 1 {
		t.Errorf("%d deliveries, %d without a sender", len(got), r.Senderless())
	}
}
