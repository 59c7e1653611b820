package maillog

import (
	"bytes"
	"compress/gzip"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestHeader(t *testing.T) {
	for _, c := range []struct {
		line, stamp, host, tag string
		pid                    uint32
		text                   string
		mta                    mta
	}{
		{"Nov 23 17:00:00 mail postfix/smtp[12]: text: more", "Nov 23 17:00:00", "mail", "postfix/smtp", 12, "text: more", postfix},
		{"Nov  3 17:00:00 mail postfix/smtp[12]: text", "Nov  3 17:00:00", "mail", "postfix/smtp", 12, "text", postfix},
		{"2026-11-23T17:00:00.123456+01:00 mail postfix/qmgr[12]: text", "2026-11-23T17:00:00.123456+01:00", "mail", "postfix/qmgr", 12, "text", postfix},
		{"2026-11-23T17:00:00+0100 mail postfix-out/smtp[12]: text", "2026-11-23T17:00:00+0100", "mail", "postfix-out/smtp", 12, "text", postfix},
		{"2026-11-23 17:00:00 mail postfix/smtp[12]: text", "2026-11-23 17:00:00", "mail", "postfix/smtp", 12, "text", postfix},
		{"<22>Nov 23 17:00:00 mail postfix/tlsonly1/smtp[12]: text", "Nov 23 17:00:00", "mail", "postfix/tlsonly1/smtp", 12, "text", postfix},
		{"<22>1 2026-11-23T17:00:00Z mail postfix/smtp 12 - - text", "2026-11-23T17:00:00Z", "mail", "postfix/smtp", 12, "text", postfix},
		{`<22>1 2026-11-23T17:00:00Z mail sm-mta 12 id [a@1 b="\]"][c@1] text`, "2026-11-23T17:00:00Z", "mail", "sm-mta", 12, "text", sendmail},
		{"<22>1 2026-11-23T17:00:00Z mail sm-mta - - - \ufefftext", "2026-11-23T17:00:00Z", "mail", "sm-mta", 0, "text", sendmail},
		{"Nov 23 17:00:00 sm-mta[12]: text", "Nov 23 17:00:00", "", "sm-mta", 12, "text", sendmail},
		{"Nov 23 17:00:00 mail sendmail[12]: [ID 801593 mail.info] text", "Nov 23 17:00:00", "mail", "sendmail", 12, "text", sendmail},
		{"Nov 23 17:00:00 mail kernel: text", "Nov 23 17:00:00", "mail", "kernel", 0, "text", other},
	} {
		var h header
		if !h.split([]byte(c.line)) {
			t.Errorf("%s: not read", c.line)
			continue
		}
		if string(h.stamp) != c.stamp || string(h.host) != c.host || string(h.tag) != c.tag || h.pid != c.pid || string(h.text) != c.text || h.mta != c.mta {
			t.Errorf("%s: %q %q %q %d %q %d", c.line, h.stamp, h.host, h.tag, h.pid, h.text, h.mta)
		}
		clock := clock{zone: time.UTC, last: modTime}
		if at, ok := clock.time(h.stamp); !clock.see(h.stamp) || !ok || at.Month() != time.November {
			t.Errorf("%s: time %s", c.line, at)
		}
	}
	for _, bad := range []string{"", "x", "-- Boot 1a2b --", "Nov 23 17:00:00", "Nov 23 17:00:00 mail", "Nov 23 17:00:00 mail no colon", "<>x", "<22", "<22>1 2026-11-23T17:00:00Z mail sm-mta 12 - [a", "2026-11-23T17:00:00Z",
		"Nov 23 17:00:00 mail x[1: text]:"} {
		if h := (header{}); h.split([]byte(bad)) && h.mta != other {
			t.Errorf("%q was read", bad)
		}
	}
	for _, bad := range []string{"Nov 32 17:00:00", "Nov 23 25:00:00", "Nop 23 17:00:00", "2026-13-23T17:00:00Z", "2026-11-23T17:00"} {
		if at, ok := (&clock{zone: time.UTC, year: 2026}).time([]byte(bad)); ok {
			t.Errorf("%q is %s", bad, at)
		}
	}
}

// Traditional stamps have no year.
func TestYear(t *testing.T) {
	line := func(stamp string) string { return stamp + " mail postfix/x[1]: y\n" }
	for _, c := range []struct {
		name, log   string
		modTime     string
		year        int
		first, last string
	}{
		{"this year", line("Nov 23 17:00:00"), "2026-11-24", 0, "2026-11-23", "2026-11-23"},
		{"a year's end", line("Dec 31 23:59:59") + line("Jan  1 00:00:00"), "2027-01-02", 0, "2026-12-31", "2027-01-01"},
		{"before the year's end", line("Dec 30 23:59:59"), "2027-01-02", 0, "2026-12-30", "2026-12-30"},
		{"a late line of December", line("Dec 31 23:59:58") + line("Jan  1 00:00:00") + line("Dec 31 23:59:59"), "2027-01-02", 0, "2026-12-31", "2026-12-31"},
		{"a late line of October", line("Oct 31 23:59:58") + line("Nov  1 00:00:00") + line("Oct 31 23:59:59") + line("Nov  2 00:00:00"), "2026-11-02", 0, "2026-10-31", "2026-11-02"},
		{"a quiet summer", line("Mar  1 00:00:00") + line("Nov  1 00:00:00"), "2026-11-02", 0, "2026-03-01", "2026-11-01"},
		{"two years", line("Nov 30 00:00:00") + line("Jan  1 00:00:00") + line("Dec  1 00:00:00") + line("Jan  2 00:00:00"), "2027-12-02", 2025, "2025-11-30", "2026-01-02"},
		{"a clock ahead", line("Nov 24 00:30:00"), "2026-11-23", 0, "2026-11-24", "2026-11-24"},
		{"a year of its own", line("2024-02-29T00:00:00Z"), "2026-11-23", 0, "2024-02-29", "2024-02-29"},
	} {
		at, err := time.Parse(time.DateOnly, c.modTime)
		if err != nil {
			t.Fatal(err)
		}
		_, _, stats := read(t, Config{Year: c.year}, Source{Name: "log", Lines: strings.NewReader(c.log), ModTime: at.Add(12 * time.Hour)})
		if first, last := stats[0].First.Format(time.DateOnly), stats[0].Last.Format(time.DateOnly); first != c.first || last != c.last {
			t.Errorf("%s: %s to %s", c.name, first, last)
		}
	}
}

func TestSinceUntil(t *testing.T) {
	at := func(hour int) time.Time { return time.Date(2026, 11, 23, hour, 0, 2, 0, time.UTC) }
	text := seesTLS + "17:00:00 postfix/qmgr[9] AAAAA1: from=<d@clinic.example>, size=1, nrcpt=1 (queue active)\n"
	for _, hour := range []string{"17", "18", "19"} {
		text += hour + ":00:02 postfix/smtp[1] AAAAA1: to=<u" + hour + "@a.example>, " + toA + ", " + sent + "\n"
	}
	for _, c := range []struct {
		since, until time.Time
		want         int
	}{{time.Time{}, time.Time{}, 3}, {at(18), time.Time{}, 2}, {time.Time{}, at(18), 1}, {at(18), at(19), 1}, {at(20), time.Time{}, 0}} {
		if got, _, _ := read(t, Config{Since: c.since, Until: c.until}, log(text)); len(got) != c.want {
			t.Errorf("%s to %s: %d", c.since, c.until, len(got))
		}
	}
}

// Rotated logs come in any order, packed or not; what one file begins the next one ends.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) string {
		path := filepath.Join(dir, name)
		if strings.HasSuffix(name, ".gz") {
			var b bytes.Buffer
			w := gzip.NewWriter(&b)
			if _, err := w.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			text = b.String()
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, modTime, modTime); err != nil {
			t.Fatal(err)
		}
		return path
	}
	names := []string{
		put("mail.log", "garbage\nNov 23 17:00:02 mail postfix/smtp[1]: AAAAA1: to=<u@a.example>, "+toA+", "+sent+"\n"+
			strings.Repeat("z", 2*lineSize)+"\nNov 23 17:00:03 mail postfix/smtp[1]: AAAAA1: to=<v@a.example>, "+toA+", "+sent+"\n"),
		put("mail.log.2.gz", "Nov 21 17:00:01 mail postfix/qmgr[9]: AAAAA1: from=<d@clinic.example>, size=1, nrcpt=1 (queue active)\n"),
		put("mail.log.1", "Nov 22 17:00:01 mail postfix/smtp[1]: Trusted TLS connection established to mx.a.example[192.0.2.1]:25: "+tls13),
		"-",
	}
	files, err := Order(names, strings.NewReader("Nov 24 00:00:00 mail postfix/qmgr[9]: AAAAA1: removed\n"), time.UTC, 2026)
	if err != nil {
		t.Fatal(err)
	}
	var got []*Delivery
	r := New(Config{Zone: time.UTC, Year: 2026, Wanted: func([]byte, string) bool { return true }, Emit: func(d *Delivery) error { got = append(got, d); return nil }})
	var order []string
	for _, f := range files {
		stats, err := r.ReadFile(context.Background(), f)
		if err != nil {
			t.Fatal(err)
		}
		order = append(order, filepath.Base(stats.Name))
		if stats.Lines == 0 || stats.Bytes == 0 || stats.First.IsZero() || stats.First.After(stats.Last) {
			t.Errorf("%+v", stats)
		}
	}
	if want := []string{"mail.log.2.gz", "mail.log.1", "mail.log", "standard input"}; !slices.Equal(order, want) {
		t.Errorf("read %q", order)
	}
	briefs(t, "deliveries", got, []string{"AAAAA1 u@a.example sent tls 1.3 trusted", "AAAAA1 v@a.example sent tls 1.3 trusted"})
	if len(r.messages.young)+len(r.messages.old) != 0 {
		t.Error("a removed message is remembered")
	}

	for _, bad := range []string{dir, filepath.Join(dir, "missing"), put("x.xz", "\xfd7zXZ\x00"), put("y.zst", "\x28\xb5\x2f\xfd"), put("z", "\x1f\x8bnot gzip")} {
		if _, err := Order([]string{bad}, nil, time.UTC, 0); err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
}

// Real logs: Postfix 3.7 and Sendmail 8.17, smtp_tls_security_level = may, a small internet of good and bad hosts.
func TestRealLogs(t *testing.T) {
	for name, want := range map[string][]string{
		"postfix.log": {
			"71F2D44 root@local.example here",
			"700123F u@none.example sent clear",
			"7131E41 u@implicit.example sent tls 1.2 untrusted",
			"7131E41 u@mixed.example sent clear",
			"7183042 u@garbage.example deferred",
			"7183042 u@refused.example sent clear",
			"6FAD63E a@good.example sent tls 1.3 untrusted",
			"6FAD63E b@good.example sent tls 1.3 untrusted",
			"7131E41 u@self.example sent tls 1.3 untrusted",
			"71CE343 u@good.example sent tls 1.3 untrusted",
			"71F2D44 c@good.example sent tls 1.3 untrusted",
			"7183042 u@refusing.example bounced",
			"85D044C doctor@clinic.example bounced",
		},
		"postfix-reuse.log": { // smtp_tls_connection_reuse = yes
			"780093F n0@none.example sent unknown",
			"773633E n0@good.example sent tls 1.3 untrusted",
			"F2B5942 n1@good.example sent tls 1.3 untrusted",
			"F33C743 n1@none.example sent clear",
			"799E944 n2@good.example sent tls 1.3 untrusted",
			"7A5D045 n2@none.example sent clear",
			"0188446 n3@good.example sent tls 1.3 untrusted",
			"01F0847 n3@none.example sent clear",
			"7CACB48 d@good.example sent tls 1.3 untrusted",
			"7CACB48 e@good.example sent tls 1.3 untrusted",
		},
		"sendmail.log": {
			"6ANHQUMw000344 u@none.example sent clear",
			"6ANHQUPR000348 u@implicit.example sent tls 1.2 untrusted",
			"6ANHQUPs000341 b@good.example sent tls 1.3 untrusted",
			"6ANHQUPs000341 a@good.example sent tls 1.3 untrusted",
			"6ANHQUPR000348 u@mixed.example sent clear",
			"6ANHQUuu000357 c@good.example sent tls 1.3 untrusted",
			"6ANHQUuu000357 root@local.example bounced",
			"6ANHQUqI000354 u@good.example sent tls 1.3 untrusted",
			"6ANHQUuu000359 doctor@clinic.example bounced",
			"6ANHQUuu000359 MAILER-DAEMON bounced",
			"6ANHQUuu000359 postmaster bounced",
			"6ANHQUuv000359 MAILER-DAEMON bounced",
			"6ANHQUPR000348 u@self.example sent tls 1.3 untrusted",
		},
	} {
		text, err := os.ReadFile(filepath.Join("../../testdata/logs", name))
		if err != nil {
			t.Fatal(err)
		}
		got, _, _ := read(t, Config{}, Source{Name: name, Lines: bytes.NewReader(text), ModTime: modTime})
		briefs(t, name, got, want)
	}
}

// Whatever stands in a log: no panic, and each delivery has a state that fits its outcome, and its TLS fits the state.
func FuzzReader(f *testing.F) {
	for _, name := range []string{"postfix.log", "postfix-reuse.log", "sendmail.log"} {
		text, err := os.ReadFile(filepath.Join("../../testdata/logs", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
		for line := range bytes.Lines(text) {
			f.Add(line)
		}
	}
	for _, path := range forms(f) {
		text, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text[:min(len(text), 4000)])
	}
	f.Add([]byte(`<22>1 2026-11-23T17:00:00Z mail postfix/smtp 12 - [a@1 b="\]"] AAAAA1: to=<"a\>b"@x>, orig_to=<b>, relay=x[192.0.2.1]:25, delays=1/2, tls=dane:may/x, dsn=2, status=sent (x)`))
	f.Fuzz(func(t *testing.T, text []byte) {
		lines := int64(bytes.Count(text, []byte("\n")) + 1)
		r := New(Config{Zone: time.UTC, Wanted: func([]byte, string) bool { return true }, Emit: func(d *Delivery) error {
			switch d.Security {
			case Encrypted, Clear, Unknown, ByTransport:
				if d.Outcome == Here {
					t.Fatalf("%+v", d)
				}
			case "":
				if d.Outcome == Sent {
					t.Fatalf("%+v", d)
				}
			default:
				t.Fatalf("%+v", d)
			}
			if (d.TLS != nil) != (d.Security == Encrypted) || d.Time.IsZero() || len(d.Detail) > 2000 {
				t.Fatalf("%+v", d)
			}
			return nil
		}})
		stats, err := r.Read(context.Background(), Source{Name: "fuzz", Lines: bytes.NewReader(text), ModTime: modTime})
		if err != nil || stats.Bytes != int64(len(text)) || stats.Lines > lines || stats.Mail+stats.Missed+stats.Others != stats.Lines {
			t.Fatalf("%+v %v", stats, err)
		}
	})
}
