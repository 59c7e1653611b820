package sendmail

import (
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"net/smtp"
	"strings"
	"sync"
	"testing"
	"time"

	"tlsonly/internal/testnet"
	"tlsonly/internal/testnet/rig"
)

// written is a certificate's fingerprint as Sendmail writes it.
func written(der []byte) string {
	sum := sha256.Sum256(der)
	return strings.ReplaceAll(fmt.Sprintf("% X", sum), " ", ":")
}

// shown returns the fingerprint of what a host shows.
func shown(t *testing.T, h *testnet.SMTP) string {
	t.Helper()
	c, err := smtp.Dial(h.Address().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.StartTLS(&tls.Config{InsecureSkipVerify: true}); err != nil {
		t.Fatal(err)
	}
	state, _ := c.TLSConnectionState()
	return written(state.PeerCertificates[0].Raw)
}

// turning is a mail host that shows another certificate each time.
type turning struct {
	mu     sync.Mutex
	certs  []tls.Certificate
	shown  int
	latest string
}

func (h *turning) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := &h.certs[h.shown%len(h.certs)]
	h.shown++
	h.latest = written(c.Certificate[0])
	return c, nil
}

func (h *turning) last() (fingerprint string, times int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.latest, h.shown
}

// The fingerprint that is asked about is that of the host the session is with, whatever hosts the same process was at before,
// on connections that are used again and on new ones to a host that has changed its certificate meanwhile.
func TestFingerprint(t *testing.T) {
	m := startMap(t, netstring("OK PASS"))
	for _, c := range []struct {
		name   string
		mc     []string
		reuses bool
	}{
		{"at once", nil, false},
		{"queue run, connections kept", []string{"define(`confDELIVERY_MODE', `queueonly')dnl", "define(`confMCI_CACHE_SIZE', `4')dnl"}, true},
		{"queue run, one connection kept", []string{"define(`confDELIVERY_MODE', `queueonly')dnl", "define(`confMCI_CACHE_SIZE', `1')dnl"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			snippet := strings.Replace(Snippet(settings()), "INPUT_MAIL_FILTER", "dnl INPUT_MAIL_FILTER", 1)
			l := newLab(t, rig.SendmailConfig{Mc: c.mc, Rules: strings.Split(snippet, "\n")})
			host := &turning{}
			for range 2 {
				cert, err := l.world.CA.Issue(testnet.CertSpec{Names: []string{"mx.turning.example"}})
				if err != nil {
					t.Fatal(err)
				}
				host.certs = append(host.certs, cert)
			}
			server, err := testnet.StartSMTP(testnet.SMTPConfig{Listen: "127.0.3.1:25", TLS: &tls.Config{GetCertificate: host.certificate}})
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			if err := l.world.AddRecords("turning.example. 60 IN MX 10 mx.turning.example.\nmx.turning.example. 60 IN A 127.0.3.1\n"); err != nil {
				t.Fatal(err)
			}
			want := map[string]string{
				"mx1.good.example": "FAIL><" + shown(t, l.world.Hosts("good.example")[0]),
				"mx1.self.example": "FAIL><" + shown(t, l.world.Hosts("self.example")[0]),
				"mx1.none.example": "NONE><",
			}
			questions, wrong := map[string]int{}, []string(nil)
			var mu sync.Mutex
			m.mu.Lock()
			m.hears = func(q string) {
				mu.Lock()
				defer mu.Unlock()
				// verify><fingerprint, server_name
				fields := strings.SplitN(strings.TrimPrefix(q, "tls_rcpt v3<"), "><", 4)
				questions[fields[2]]++
				expected, ok := want[fields[2]]
				if fields[2] == "mx.turning.example" {
					fingerprint, _ := host.last()
					expected, ok = "FAIL><"+fingerprint, true
				}
				if !ok || fields[0]+"><"+fields[1] != expected {
					wrong = append(wrong, q+" want "+expected)
				}
			}
			m.mu.Unlock()
			const messages = 3
			for i := range messages {
				l.send("eve@good.example", "a@turning.example", "a@good.example", "a@none.example", "a@self.example")
				if c.mc == nil { // one process a message, one after the other
					for _, to := range []string{"turning", "good", "none", "self"} {
						if err := l.wait(to, i+1); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
			if c.mc != nil {
				if err := l.QueueRun(l.ctx); err != nil {
					t.Fatal(err)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			for _, server := range []string{"mx.turning.example", "mx1.good.example", "mx1.self.example", "mx1.none.example"} {
				if questions[server] != messages {
					t.Errorf("%s: %d questions", server, questions[server])
				}
			}
			_, times := host.last()
			if len(wrong) > 0 || (times < messages) != c.reuses {
				t.Errorf("%d connections; wrong:\n%s", times, strings.Join(wrong, "\n"))
			}
		})
	}
}

// wait waits until Sendmail has sent n messages to a@DOMAIN.example.
func (l *lab) wait(domain string, n int) error {
	for {
		sent := 0
		for _, line := range l.LogLines("stat=Sent") {
			if strings.Contains(line, "a@"+domain+".example") {
				sent++
			}
		}
		if sent >= n {
			return nil
		}
		select {
		case <-l.ctx.Done():
			return fmt.Errorf("%s: %d of %d sent: %w", domain, sent, n, l.ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}
