package maillog

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// forms are the files of testdata/logs/forms.
func forms(t testing.TB) []string {
	t.Helper()
	paths, err := filepath.Glob("../../testdata/logs/forms/*.log")
	if err != nil || len(paths) < 60 {
		t.Fatalf("%d files: %v", len(paths), err)
	}
	return paths
}

// The same lines in every form: the same deliveries, at the same times, and nothing
// that isn't understood. A form without a time of day is told, and so is one that
// isn't read.
func TestForms(t *testing.T) {
	want := []string{
		"700123F u@none.example sent clear", "6FAD63E a@good.example sent tls 1.3 untrusted", "6FAD63E b@good.example sent tls 1.3 untrusted",
		"6ANHQUMw000344 u@none.example sent clear", "6ANHQUPs000341 b@good.example sent tls 1.3 untrusted", "6ANHQUPs000341 a@good.example sent tls 1.3 untrusted",
	}
	// These name no program of Postfix's, so a delivery without a session isn't known.
	unnamed := append([]string{"700123F u@none.example sent unknown"}, want[1:]...)
	timeless := []string{"journal-cat.log", "journal-short-delta.log", "journal-short-monotonic.log"}
	vienna := time.FixedZone("CET", 3600)
	for _, path := range forms(t) {
		name := filepath.Base(path)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		zone := time.UTC
		if strings.Contains(name, "vienna") {
			zone = vienna
		}
		got, r, stats := read(t, Config{Zone: zone}, Source{Name: name, Lines: bytes.NewReader(text), ModTime: modTime})
		s := stats[0]
		if s.Mail+s.Missed+s.Others != s.Lines || s.Lines > int64(bytes.Count(text, []byte("\n"))) || s.Bytes != int64(len(text)) {
			t.Errorf("%s: %+v don't add up", name, s)
		}
		if slices.Contains(timeless, name) || name == "rsyslog-debug.log" {
			if len(got) > 0 || s.Missed < 5 || s.Mail > 0 || !s.Unread() || s.Examples[0].Why != noTime {
				t.Errorf("%s: %d deliveries, %+v", name, len(got), s)
			}
			continue
		}
		if name == "journal-with-unit.log" || name == "rsyslog-protocol23.log" {
			briefs(t, name, got, unnamed)
		} else {
			briefs(t, name, got, want)
		}
		if s.Missed > 0 || s.Mail < 15 || s.Others < 2 || r.Senderless() > 0 || len(s.Forms) != 1 || s.Forms[0] == "" {
			t.Errorf("%s: %+v", name, s)
		}
		for i, d := range got {
			at := time.Date(2026, 11, 23, 17, 26, 14, 0, time.UTC)
			if i >= 3 {
				at = at.Add(16 * time.Second)
			}
			if !d.Time.Truncate(time.Second).Equal(at) {
				t.Errorf("%s: %s at %s", name, d.QueueID, d.Time)
			}
		}
		// In one file with others, of which none changes it.
		mixed := bytes.Join([][]byte{text, []byte("garbage\n{\n\tx\n"), text}, nil)
		again, _, stats := read(t, Config{Zone: zone}, Source{Name: name, Lines: bytes.NewReader(mixed), ModTime: modTime})
		if len(again) != 2*len(got) || stats[0].Missed > 0 {
			t.Errorf("%s: twice with garbage between: %d deliveries, %+v", name, len(again), stats[0])
		}
	}
}

// Each time stamp is an instant; with a zone it is that one whatever the clock's is.
func TestStamps(t *testing.T) {
	vienna, err := time.LoadLocation("Europe/Vienna")
	if err != nil {
		t.Skip(err)
	}
	for _, c := range []struct {
		stamp, rest, utc string
	}{
		{"Nov 23 18:00:00.123456", " mail", "2026-11-23T17:00:00Z"},
		{"Nov  3 18:00:00", " mail", "2026-11-03T17:00:00Z"},
		{"Nov 3 18:00:00", " mail", "2026-11-03T17:00:00Z"},
		{"Nov 23 2026 18:00:00", " mail", "2026-11-23T17:00:00Z"},
		{"2026 Nov 23 18:00:00", " mail", "2026-11-23T17:00:00Z"},
		{"Mon Nov 23 18:00:00 2026", " mail", "2026-11-23T17:00:00Z"},
		{"Mon 2026-11-23 18:00:00 CET", " mail", "2026-11-23T17:00:00Z"},
		{"Mon 2026-11-23 17:00:00.5 UTC", " mail", "2026-11-23T17:00:00Z"},
		{"Mon 2026-11-23 20:00:00 +03", " mail", "2026-11-23T17:00:00Z"},
		{"Mon 2026-11-23 22:30:00 +0530", " mail", "2026-11-23T17:00:00Z"},
		{"Sun 2026-10-25 02:30:00 CEST", " mail", "2026-10-25T00:30:00Z"}, // the hour that comes twice
		{"Sun 2026-10-25 02:30:00 CET", " mail", "2026-10-25T01:30:00Z"},
		{"2026-11-23T18:00:00", " MAIL", "2026-11-23T17:00:00Z"}, // a host, not a zone
		{"2026-11-23 18:00:00,123", " mail", "2026-11-23T17:00:00.123Z"},
		{"2026-11-23 17:00:00.5 +0000", " mail", "2026-11-23T17:00:00.5Z"},
		{"2026/11/23 18:00:00", " mail", "2026-11-23T17:00:00Z"},
		{"2026-11-23T12:00:00.123456789-05:00", "|", "2026-11-23T17:00:00.123456789Z"},
		{"2026-11-23T17:00:00Z", "", "2026-11-23T17:00:00Z"},
		{"1795453200", " mail", "2026-11-23T17:00:00Z"},
		{"1795453200.25", " mail", "2026-11-23T17:00:00.25Z"},
	} {
		line := []byte(c.stamp + c.rest)
		if end := stampEnd(line); end != len(c.stamp) {
			t.Errorf("%s: ends at %d, not %d", line, end, len(c.stamp))
			continue
		}
		stamp := normalize(nil, line)
		clock := clock{zone: vienna, last: modTime}
		if !clock.see(stamp) {
			t.Errorf("%s is %s, and no stamp", c.stamp, stamp)
		}
		if at, ok := clock.time(stamp); !ok || at.UTC().Format(time.RFC3339Nano) != c.utc {
			t.Errorf("%s is %s: %s, not %s", c.stamp, stamp, at.UTC().Format(time.RFC3339Nano), c.utc)
		}
		if at, ok := clock.time(stamp); ok && !clock.latest().Equal(at) {
			t.Errorf("%s: the last line is at %s", c.stamp, clock.latest())
		}
	}
	for _, bad := range []string{"", "x", "4XyZab1234z9k: to=", "1234567890: to=<", "12345678901 mail", "2026-11-23", "Nov 23", "Nov 23 17:00:00x", "Mon Nov", "17:00:00 mail", "2026-11-23T17:00:00+1 mail"} {
		if end := stampEnd([]byte(bad)); end != 0 {
			t.Errorf("%q is a time up to %d", bad, end)
		}
	}
}

// What could be a delivery and wasn't understood is counted, with its place; what
// couldn't isn't.
func TestMissed(t *testing.T) {
	const to = "AAAAA1: to=<u@a.example>, " + toA + ", " + sent
	const early = "Nov 23 17:00:00 mail "
	for _, c := range []struct {
		name, line string
		why        string // "": understood, or no delivery
	}{
		{"a delivery", early + "postfix/smtp[1]: " + to, ""},
		{"cut at its front", "ix/smtp[1]: " + to, noTime},
		{"cut at its end", early + "postfix/smtp[1]: AAAAA1: to=<u@a.example>, relay=mx.a.example[192.0.2.1]:25, delay=0.5, delays=0.1/0/0", noStatus},
		{"cut in the recipient", early + "postfix/smtp[1]: AAAAA1: to=<u@a.exa", noPath},
		{"cut in the status", early + "postfix/smtp[1]: AAAAA1: to=<u@a.example>, " + toA + ", dsn=2.0.0, status=se", noStatus},
		{"Sendmail's, cut", early + "sm-mta[1]: 6ANHQUPs000341: to=<u@a.example>, delay=00:00:00, mailer=esmtp, pri=1, relay=mx.a.example. [192.0.2.1], dsn=2.0", noStatus},
		{"a tag cut to 32 octets, as by rsyslog's forward format", "<22>2026-11-23T17:00:00Z mail postfix/tlsonly1-plesk-192.0.2.1 " + to, noProgram},
		{"no such day", "Nov 32 17:00:00 mail postfix/smtp[1]: " + to, badTime},
		{"no such month", "Nop 23 17:00:00 mail postfix/smtp[1]: " + to, badTime},
		{"no such hour", "2026-11-23T25:00:00Z mail postfix/smtp[1]: " + to, badTime},
		{"another name", early + "mailout[1]: " + to, noProgram},
		{"another program", early + "postfix/newsmtp[1]: " + to, noProgram},
		{"another name of Sendmail", early + "mta[1]: 6ANHQUPs000341: to=u@a.example, delay=00:00:00, mailer=esmtp, pri=1, relay=mx.a.example., dsn=2.0.0, stat=Sent (x)", noProgram},
		{"a strange queue id", early + "postfix/smtp[1]: A-1: to=<u@a.example>, " + toA + ", " + sent, noQueueID},
		{"a strange queue id of Sendmail", early + "sm-mta[1]: x: to=<u@a.example>, mailer=esmtp, relay=a, stat=Sent", noQueueID},
		{"the second part of a line of Sendmail's", early + "sm-mta[1]: 6ANHQUPs000341[2]: relay=a, stat=Sent", noPart},
		{"no time, no name", to, noTime},
		{"any tag", "uptime 12.5 mail postfix/cleanup[1]: AAAAA1: message-id=<1@x>", noTime},
		{"in JSON that is cut", `{"MESSAGE":"` + to + `","SYSLOG_IDENTIFIER":"postfix/smtp","__REAL`, noForm},
		{"in JSON without a time", `{"MESSAGE":"` + to + `","SYSLOG_IDENTIFIER":"postfix/smtp"}`, noTime},
		{"in JSON with another name for it", `{"body":"` + to + `","time":"2026-11-23T17:00:00Z"}`, noForm},
		{"escaped", `{"line":"Nov 23 17:00:00 mail postfix\/smtp[1]: x"}`, noForm},
		{"too long for journalctl", `{"MESSAGE":null,"SYSLOG_IDENTIFIER":"postfix/smtp","__REALTIME_TIMESTAMP":"1795454774123456"}`, noText},
		{"with commas", "2026-11-23T17:00:00Z,mail,postfix/smtp[1]," + to, noTime},
		{"too long", strings.Repeat("x", lineSize) + early + "postfix/smtp[1]: " + to, ""},
		{"too long, and begins so", early + "postfix/smtp[1]: " + to + strings.Repeat("x", lineSize), tooLong},
		{"garbage", "garbage", ""},
		{"an empty line", "", ""},
		{"a boot", "-- Boot 1a2b --", ""},
		{"another's", early + "dovecot[1]: lmtp(u)<1>: msgid=<1@x>: saved mail to INBOX", ""},
		{"a refusal, with what a stranger said", early + "postfix/smtpd[1]: NOQUEUE: reject: RCPT from x[192.0.2.1]: 450 4.1.8 x; from=<a> to=<b> proto=SMTP helo=<relay=status=>", ""},
		{"a reply, with what a stranger said", early + "postfix/smtp[1]: AAAAA1: host mx[192.0.2.1] said: 450 to=<x>, relay=x, status=sent (in reply to RCPT TO command)", ""},
		{"a probe", early + "postfix/smtp[1]: AAAAA1: to=<u@a.example>, " + toA + ", dsn=2.1.5, status=deliverable (250 2.1.5 Ok)", ""},
		{"a start of Sendmail", early + "sm-mta[1]: starting daemon (8.17.1.9): SMTP", ""},
		{"nginx", `192.0.2.1 - - [23/Nov/2026:17:00:00 +0000] "GET /?to=x&status=1 HTTP/1.1" 200`, ""},
	} {
		_, _, stats := read(t, Config{}, Source{Name: "log", Lines: strings.NewReader("first\n" + c.line + "\n"), ModTime: modTime})
		s := stats[0]
		switch {
		case s.Lines != 2 || s.Mail+s.Missed+s.Others != 2:
			t.Errorf("%s: %+v don't add up", c.name, s)
		case c.why == "" && s.Missed > 0:
			t.Errorf("%s: %+v", c.name, s.Examples)
		case c.why != "" && (s.Missed != 1 || s.Examples[0].Why != c.why || s.Examples[0].Line != 2):
			t.Errorf("%s: %d not understood, %+v, want %q", c.name, s.Missed, s.Examples, c.why)
		}
	}
	// Outside of the time that was asked for nothing is missed; nor is it without a time.
	for _, c := range []struct {
		line   string
		missed int64
	}{{early + "postfix/smtp[1]: AAAAA1: to=<u@a.exa", 0}, {"mail postfix/smtp[1]: " + to, 1}} {
		_, _, stats := read(t, Config{Since: modTime}, Source{Name: "log", Lines: strings.NewReader(c.line + "\n"), ModTime: modTime})
		if stats[0].Missed != c.missed {
			t.Errorf("%s: %+v", c.line, stats[0])
		}
	}
}

// A log that doesn't number processes doesn't tell whose session it was.
func TestNoProcess(t *testing.T) {
	text := "Nov 23 17:00:00 mail postfix/qmgr: AAAAA1: from=<d@clinic.example>, size=1, nrcpt=1 (queue active)\n" +
		"Nov 23 17:00:01 mail postfix/smtp: Verified TLS connection established to mx.a.example[192.0.2.1]:25: " + tls13 + "\n" +
		"Nov 23 17:00:02 mail postfix/smtp: AAAAA1: to=<u@a.example>, " + toA + ", " + sent + "\n" +
		"Nov 23 17:00:02 mail postfix/tlsonly1/smtp: AAAAA1: to=<v@a.example>, " + toA + ", " + sent + "\n"
	for _, logged := range []bool{false, true} {
		got, _, _ := read(t, Config{TLSLogged: logged}, Source{Name: "log", Lines: strings.NewReader(text), ModTime: modTime})
		briefs(t, "no process", got, []string{"AAAAA1 u@a.example sent unknown", "AAAAA1 v@a.example sent by-transport"})
	}
}

// Two containers that don't name their host are two machines: their processes have
// the same numbers.
func TestContainers(t *testing.T) {
	line := func(container, text string) string {
		return container + "  | 2026-11-23T17:00:00+00:00 postfix/" + text + "\n"
	}
	var text string
	for _, container := range []string{"out-1", "in-1"} {
		text += line(container, "qmgr[9]: AAAAA1: from=<d@clinic.example>, size=1, nrcpt=1 (queue active)")
	}
	text += line("out-1", "smtp[1]: Verified TLS connection established to mx.a.example[192.0.2.1]:25: "+tls13)
	for _, container := range []string{"in-1", "out-1"} {
		text += line(container, "smtp[1]: AAAAA1: to=<u@a.example>, "+toA+", "+sent)
	}
	for _, prefix := range [][2]string{{"out-1  | ", "in-1  | "}, {"[pod/mail/out] ", "[pod/mail/in] "}} {
		log := strings.NewReplacer("out-1  | ", prefix[0], "in-1  | ", prefix[1]).Replace(text)
		got, _, _ := read(t, Config{TLSLogged: true}, Source{Name: "log", Lines: strings.NewReader(log), ModTime: modTime})
		briefs(t, prefix[0], got, []string{"AAAAA1 u@a.example sent clear", "AAAAA1 u@a.example sent tls 1.3 verified"})
	}
}

// Whatever stands before a delivery, and in whatever it is wrapped: it is understood,
// or told.
func FuzzPrefix(f *testing.F) {
	lines := []string{
		"Nov 23 17:00:00 mail postfix/smtp[1]: AAAAA1: to=<u@a.example>, " + toA + ", " + sent,
		"Nov 23 17:00:00 mail sm-mta[1]: 6ANHQUPs000341: to=<u@a.example>, delay=00:00:00, xdelay=00:00:00, mailer=esmtp, pri=1, relay=mx.a.example. [192.0.2.1], dsn=2.0.0, stat=Sent (x)",
	}
	for _, prefix := range []string{"", "smtp-1  | ", "[pod/x/y] ", "2026-11-23T17:00:00Z stdout F ", "<22>", `{"log":"`, "data: ", "\x1e", "\x1b[36m", "mail.log:", "Mon ", "<22>1 2026-11-23T17:00:00Z h a 1 - - ",
		"Nov 23 17:00:00 h x: ", "__CURSOR=", "- ", "Nov 23 17:00:00 h x[1]: [ID 1 mail.info] "} {
		f.Add(prefix, "")
		f.Add(prefix, `"}`)
	}
	f.Fuzz(func(t *testing.T, prefix, suffix string) {
		if strings.ContainsAny(prefix+suffix, "\n\r") || len(prefix) > 4000 || len(suffix) > 4000 {
			t.Skip("more than one line, or longer than a line is")
		}
		for _, mta := range []string{"postfix", "sm-", "sendmail", "/"} {
			if strings.Contains(prefix, mta) {
				t.Skip("it may name another of their programs")
			}
		}
		for _, line := range lines {
			r := New(Config{Zone: time.UTC, Wanted: func([]byte, string) bool { return true }, Emit: func(*Delivery) error { return nil }})
			stats, err := r.Read(context.Background(), Source{Name: "fuzz", Lines: strings.NewReader(prefix + line + suffix + "\n"), ModTime: modTime})
			if err != nil || stats.Mail+stats.Missed == 0 {
				t.Fatalf("%q: %+v, %v", prefix+line+suffix, stats, err)
			}
			if stats.Mail > 0 && r.Senderless() == 0 {
				t.Fatalf("%q: understood, and no delivery", prefix+line+suffix)
			}
		}
	})
}

// Whatever a stamp is: what normalize makes of it is one that clock reads or refuses,
// and one with a zone is the same instant in each.
func FuzzStamp(f *testing.F) {
	for _, s := range []string{"Nov 23 17:00:00.1 ", "Mon 2026-11-23 17:00:00 CET", "2026-11-23 17:00:00 +01", "1795453200.25", "Mon Nov 23 17:00:00 2026"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		end := stampEnd([]byte(s))
		if end == 0 {
			return
		}
		stamp := normalize(nil, []byte(s))
		if end > len(s) || len(stamp) == 0 && s[0] != '1' && (s[0] < '0' || s[0] > '9') {
			t.Fatalf("%q: %d, %q", s, end, stamp)
		}
		one, other := clock{zone: time.UTC, last: modTime}, clock{zone: time.FixedZone("x", 7200), last: modTime}
		if len(stamp) == 0 || !one.see(stamp) || !other.see(stamp) {
			return
		}
		a, ok := one.time(stamp)
		b, same := other.time(stamp)
		if ok != same || ok && zoned(stamp) && !a.Equal(b) {
			t.Fatalf("%q is %q: %s, %s", s, stamp, a, b)
		}
	})
}

// An entry of the journal may be cut anywhere.
func TestCutEntries(t *testing.T) {
	for _, name := range []string{"journal-export.log", "journal-json-pretty.log", "journal-verbose.log"} {
		text, err := os.ReadFile(filepath.Join("../../testdata/logs/forms", name))
		if err != nil {
			t.Fatal(err)
		}
		text = text[:3500]
		for n := 0; n < len(text); n += 11 {
			_, _, stats := read(t, Config{}, Source{Name: name, Lines: io.LimitReader(bytes.NewReader(text), int64(n)), ModTime: modTime})
			if s := stats[0]; s.Bytes != int64(n) || s.Mail+s.Missed+s.Others != s.Lines {
				t.Fatalf("%s, %d octets: %+v", name, n, s)
			}
		}
	}
}
