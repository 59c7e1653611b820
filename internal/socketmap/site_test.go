package socketmap

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// The site's own ways of senders: only where the map's name says so, for every
// transport of ours, and with an answer that makes mail wait where it isn't known.
func TestSite(t *testing.T) {
	times := 0
	ways := map[string]SiteRoute{
		"doctor@clinic.example": {Twin: "slow"},
		"nurse@clinic.example":  {Twin: "smtps", Hop: "[relay.example]:465"},
		"ward@clinic.example":   {Hop: "[relay.example]"},
		"gone@clinic.example":   {AsItIs: "error:5.7.1 suspended"},
		`"<>"`:                  {Hop: "[smart.example]:25"},
		"odd":                   {Twin: "slow"},
	}
	var log strings.Builder
	c := Config{Transports: 1, Log: slog.New(slog.NewTextHandler(&log, nil)),
		Site: func(_ context.Context, sender string) (SiteRoute, error) {
			times++
			if way, ok := ways[sender]; ok {
				return way, nil
			}
			return SiteRoute{}, errors.New("out of order")
		}}
	s := server(t, c, rule("encrypt", "@clinic.example", ""))
	now := s.c.Now()
	s.c.Now = func() time.Time { return now }
	check(t, s, []asked{
		{"sender1/+site doctor@clinic.example", "OK tlsonly1-slow:"},
		{"sender1/+site nurse@clinic.example", "OK tlsonly1-smtps:[relay.example]:465"},
		{"sender1/+site ward@clinic.example", "OK tlsonly1:[relay.example]"},
		{"sender1/+site gone@clinic.example", "OK error:5.7.1 suspended"},
		{`sender1/+site "<>"`, "OK tlsonly:[smart.example]:25"},
		{"sender1/+site/errors odd", "OK tlsonly-slow:"}, // a bare name, of whom nobody knows the domain
		{"sender0/+site doctor@clinic.example", "OK tlsonly-slow:"},
		{"sender1/errors/+site doctor@clinic.example", "OK tlsonly1-slow:"},
		{"sender1/%2Bsite doctor@clinic.example", "OK tlsonly1:"}, // a sender of that name
		{"sender1/+sites doctor@clinic.example", "OK tlsonly1:"},
		{"sender1 doctor@clinic.example", "OK tlsonly1:"},
	})
	before := times
	check(t, s, []asked{
		{"sender1/+site doctor@clinic.example", "OK tlsonly1-slow:"}, // as a moment ago
		{"sender1/+site bob@example.com", absent},                    // whose way is the site's to say
	})
	if times != before {
		t.Errorf("asked %d times more", times-before)
	}
	check(t, s, []asked{{"sender1/+site lost@clinic.example", "TEMP the site's own table isn't known now"}})
	if !strings.Contains(log.String(), "out of order") {
		t.Errorf("log: %s", log.String())
	}
	ways["doctor@clinic.example"] = SiteRoute{Twin: "fast"}
	now = now.Add(routeServes)
	check(t, s, []asked{{"sender1/+site doctor@clinic.example", "OK tlsonly1-fast:"}})

	// Nobody reads the MTA's settings.
	check(t, server(t, Config{Transports: 1}, rule("encrypt", "@clinic.example", "")), []asked{
		{"sender1/+site doctor@clinic.example", "TEMP the site's own table isn't known now"},
		{"sender1/+site bob@example.com", absent},
	})
}

// No answer is below the level of the site's own client.
func TestFloor(t *testing.T) {
	exempt := rule("may", "@clinic.example", "@none.example")
	s := server(t, Config{}, exempt, rule("encrypt", "@clinic.example", ""))
	plainly := strings.TrimPrefix(plain, "OK encrypt")
	check(t, s, []asked{
		{"forced1 far.example", plain},
		{"forced1/secure far.example", "OK secure" + plainly},
		{"forced/fingerprint far.example", "OK fingerprint" + plainly},
		{"forced1/verify [relay.example]:587", "OK verify" + plainly},
		{"forced1/dane-only none.example", "OK dane-only"},
		{"forced1 none.example", "OK may"},
		{"forced1/secure .far.example", absent},
		{"forced1/secure odd_:x", "OK secure" + plainly},
		{"forced1/encrypt far.example", "TEMP no such map"},
		{"forced1/may far.example", "TEMP no such map"},
		{"forced1/ far.example", "TEMP no such map"},
		{"forcedx/secure far.example", "TEMP no such map"},
	})
	for answer, want := range map[string]string{
		"OK encrypt protocols=>=TLSv1.3": "OK secure protocols=>=TLSv1.3",
		"OK secure match=a.example":      "OK secure match=a.example",
		"OK dane-only":                   "OK dane-only",
		"TEMP encrypt":                   "TEMP encrypt",
		"NOTFOUND ":                      "NOTFOUND ",
	} {
		if got := string(raise([]byte("x"+answer), 1, "secure")); got != "x"+want {
			t.Errorf("%s: %s, want %s", answer, got, want)
		}
	}
}
