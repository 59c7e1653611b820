package milter

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tlsonly/internal/inbound"
	"tlsonly/internal/policy"
)

// Each decision is told once: of a recipient that is refused at once, of those accepted at the end of the message, and of
// those of a message that doesn't come to its end; also when nothing is logged.
func TestObserve(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	messages := 0
	b := start(t, func(c *Config) {
		c.Log = slog.New(slog.DiscardHandler)
		c.OnMessage = func() {
			mu.Lock()
			defer mu.Unlock()
			messages++
		}
		c.Observe = func(d *Decision, took time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, fmt.Sprintf("%s %s %s %s", d.Rule.Name, d.Recipient, d.Verdict, d.Reason))
			if took <= 0 {
				t.Error("it took no time")
			}
		}
	})
	c := b.dial(t)
	talk(t, b, c, "> O 6 0 0x1fffff", "< O 0x6 0x0 0x3d3", "> M <alice@clinic.example>", "< c",
		"> R <bob@plain.example>", "< y 550 5.7.10 TLS required: plain.example does not offer STARTTLS (mail host mx.plain.example)",
		"> R <bob@good.example>", "< c",
		"> A", "> M <alice@unprotected.example>", "< a", "> Q", "< close")
	mu.Lock()
	defer mu.Unlock()
	want := []string{"clinic bob@plain.example reject no-starttls", "clinic bob@good.example accept "}
	if !slices.Equal(seen, want) {
		t.Errorf("%q, want %q", seen, want)
	}
	if messages != 2 {
		t.Errorf("told of %d messages, want 2: that of nobody whom a rule concerns, too", messages)
	}
}

// So is each of an [[inbound]] rule.
func TestObserveInbound(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	b := start(t, func(c *Config) {
		withInbound(c)
		c.Log = slog.New(slog.DiscardHandler)
		c.ObserveInbound = func(rule *inbound.Rule, would policy.Verdict, reason inbound.Reason) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, fmt.Sprintf("%s %s %s", rule.Name, would, reason))
		}
	})
	c := b.dial(t)
	talk(t, b, c, "> O 6 0x1ff 0x1fffff", `< O 0x6 0x171 0x3d3 0x2 "i {auth_authen} {mail_mailer} {mail_addr} j v f {daemon_name} {client_addr} {client_name} {tls_version} {cipher} {cipher_bits} {cert_subject} {cert_issuer} {cn_subject} {verify}" 0x3 "i {rcpt_mailer} {rcpt_host} {rcpt_addr}" 0x5 "i f" 0x6 "i"`,
		"> DM i 8I1 v 8.17.1.9 {mail_mailer} esmtp {client_addr} 192.0.2.1", "> M <x@insurer.example>", "< c",
		"> R <bob@good.example>", "< y 550 5.7.10 TLS required: STARTTLS must come first for mail to bob@good.example",
		"> A", "> Q", "< close")
	mu.Lock()
	defer mu.Unlock()
	if want := []string{"gateway reject no-tls"}; !slices.Equal(seen, want) {
		t.Errorf("%q, want %q", seen, want)
	}
}

// A recipient that rules only observe is answered before its destination is
// known: one that says nothing keeps nobody waiting, and neither does a message
// that is handed in. What would have been done is told when it is known, with the
// queue ID that the message had at its end.
func TestObserveDoesNotWait(t *testing.T) {
	var seen []Decision
	told := make(chan struct{}, 10)
	b := start(t, func(c *Config) {
		c.Decider.Deadline = 300 * time.Millisecond
		c.Observe = func(d *Decision, _ time.Duration) {
			seen = append(seen, *d)
			told <- struct{}{}
		}
	})
	c := b.dial(t)
	talk(t, b, c, "> O 6 0 0x1fffff", "< O 0x6 0x0 0x3d3", "> M <alice@observe.example>", "< c", "> DR {rcpt_mailer} smtp",
		"> R <bob@hang.example>", "< c", "> DE i ABC", "> E", "< a", "> Q", "< close")
	if n := len(told); n > 0 {
		t.Error("the message waited for its destination")
	}
	<-told
	if d := seen[0]; d.Verdict != policy.Accept || d.Would != policy.Defer || d.Reason != policy.Timeout || d.Sender.String() != "alice@observe.example" {
		t.Errorf("%+v", d)
	}
	// The line is written after that.
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		log := b.log.String()
		if strings.Contains(log, "qid=ABC") && strings.Contains(log, "would=defer") {
			break
		}
		if time.Now().After(end) {
			t.Fatal(log)
		}
	}
}
