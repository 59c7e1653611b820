package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tlsonly/internal/testnet"
)

// The tests named TestMTATwins… see on the wire that a protected sender keeps the
// way that the site gave it: before setup, after it, and when its relay has no
// TLS any more.

// twinned is a case of a site with a way of its own, without a binding yet.
func twinned(t *testing.T, c wireCase) *wire {
	t.Helper()
	isolated(t)
	return newWire(t, c, false)
}

// bind has the daemon read the case's Postfix, and binds that by setup.
func (w *wire) bind(more string) {
	w.t.Helper()
	w.daemon.stop(syscall.SIGTERM)
	w.daemon.write(daemonHead + "[forwarding]\npostfix = \"" + w.postfix.Etc + "\"\n" + more + clinicRule)
	w.daemon.start()
	w.setup()
	w.reload()
	w.bound = true
}

// lands sends a message and returns it as the host of a domain got it.
func (w *wire) lands(from, to, domain string) testnet.Message {
	w.t.Helper()
	w.marker += "x"
	w.message(from, []string{to}, nil)
	return w.got(domain)
}

// got waits for the message at the host of a domain.
func (w *wire) got(domain string) testnet.Message {
	w.t.Helper()
	var found testnet.Message
	waitFor(w.t, "the message at "+domain, func() bool {
		messages := w.world.Messages(domain)
		i := slices.IndexFunc(messages, func(m testnet.Message) bool { return bytes.Contains(m.Data, []byte(w.marker+"\r\n")) })
		if i >= 0 {
			found = messages[i]
		}
		return i >= 0
	})
	return found
}

// by checks by which transport of the log the last mail for a recipient
// left, "smtp-167" for postfix/smtp-167/smtp.
func (w *wire) by(transport, to string) {
	w.t.Helper()
	program := transport + "/smtp["
	if transport == "smtp" {
		program = "smtp["
	}
	waitFor(w.t, to+" by "+transport, func() bool {
		lines := w.postfix.LogLines("to=<" + to + ">")
		return len(lines) > 0 && strings.Contains(lines[len(lines)-1], "postfix/"+program)
	})
}

const outsider = "x@other.example"

// A table of addresses, as Plesk's and Virtualmin's: each sender leaves from an
// address of its own.
func TestMTATwinsSourceAddress(t *testing.T) {
	long(t)
	for _, kind := range []string{"hash", "texthash"} {
		t.Run(kind, func(t *testing.T) {
			w := twinned(t, wireCase{
				master: []string{
					"smtp-167 unix - - n - 3 smtp -o smtp_bind_address=127.0.0.10 -o syslog_name=postfix/smtp-167 -o smtp_helo_name=ip167.test",
					"smtp-168 unix - - n - - smtp -o smtp_bind_address=127.0.0.11 -o syslog_name=postfix/smtp-168",
				},
				main: func(dir string) map[string]string {
					return map[string]string{
						"sender_dependent_default_transport_maps": kind + ":" + write(dir, "sdd", doctor+" smtp-167:\n@other.example smtp-168:\n"),
						"smtp-167_destination_concurrency_limit":  "2",
						"recipient_delimiter":                     "+",
					}
				},
			})
			if kind == "hash" {
				w.run("postmap", "hash:"+w.dir+"/sdd")
			}
			leaves := func(from, address string) testnet.Message {
				t.Helper()
				m := w.lands(from, "u@good.example", "good.example")
				if m.Client.String() != address {
					t.Errorf("%s leaves from %s, want %s", from, m.Client, address)
				}
				return m
			}
			leaves(doctor, "127.0.0.10")
			leaves("doctor+x@Clinic.EXAMPLE", "127.0.0.10")
			leaves("nurse@clinic.example", "127.0.0.1")
			leaves(outsider, "127.0.0.11")
			w.bind("")
			for _, from := range []string{doctor, "Doctor+x@clinic.Example"} {
				if m := leaves(from, "127.0.0.10"); !m.TLS || m.Version < 0x0303 {
					t.Errorf("%s: TLS %t, version %#x", from, m.TLS, m.Version)
				}
				w.by("tlsonly1-smtp-167", "u@good.example")
			}
			leaves("nurse@clinic.example", "127.0.0.1")
			w.by("tlsonly1", "u@good.example")
			leaves(outsider, "127.0.0.11")
			w.by("smtp-168", "u@good.example")
			w.doctorSays(exitOK, "ok", "twin-asked")

			// Without TLS one waits and the other goes.
			w.message(doctor, []string{"v@good.example"}, func() { w.fault("good.example", testnet.NoSTARTTLS) })
			w.waits("v@good.example", noOffer)
			w.lands(outsider, "u@none.example", "none.example") // which nobody has pinned
			c := dial(t, w.address)
			c.expect("MAIL FROM:<"+doctor+">", "250")
			c.expect("RCPT TO:<u@none.example>", "550 5.7.10")
		})
	}
}

// submission is a relay that takes mail after a login only, over TLS from the
// first byte on or after STARTTLS, as the port wants it.
type submission struct {
	mu     sync.Mutex
	offers bool // STARTTLS
	got    []string
}

// startSubmission runs it. Each message that came is "login from sender: text".
func startSubmission(t *testing.T, address string, wrapped bool) *submission {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := &submission{offers: true}
	config := &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}}
	eachConn(t, l, func(c net.Conn) {
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		if wrapped {
			c = tls.Server(c, config)
		}
		s.serve(c, config, wrapped)
	})
	return s
}

func (s *submission) serve(c net.Conn, config *tls.Config, secure bool) {
	in := bufio.NewReader(c)
	say := func(lines ...string) { fmt.Fprint(c, strings.Join(lines, "\r\n")+"\r\n") }
	login, from := "", ""
	say("220 relay.test ESMTP")
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimSpace(line)
		switch verb := strings.ToUpper(line); {
		case strings.HasPrefix(verb, "EHLO"):
			s.mu.Lock()
			offers := s.offers && !secure
			s.mu.Unlock()
			lines := []string{"250-relay.test"}
			if offers {
				lines = append(lines, "250-STARTTLS")
			}
			say(append(lines, "250 AUTH PLAIN")...)
		case verb == "STARTTLS":
			say("220 go on")
			server := tls.Server(c, config)
			c, in, secure = server, bufio.NewReader(server), true
		case strings.HasPrefix(verb, "AUTH PLAIN "):
			text, _ := base64.StdEncoding.DecodeString(line[len("AUTH PLAIN "):])
			login = strings.ReplaceAll(strings.TrimPrefix(string(text), "\x00"), "\x00", ":")
			say("235 welcome")
		case login == "" && strings.HasPrefix(verb, "MAIL"):
			say("530 5.7.0 log in first")
		case strings.HasPrefix(verb, "MAIL"):
			_, rest, _ := strings.Cut(line, "<")
			from, _, _ = strings.Cut(rest, ">")
			say("250 ok")
		case verb == "DATA":
			say("354 go on")
			var text strings.Builder
			for {
				line, err := in.ReadString('\n')
				if err != nil {
					return
				}
				if line == ".\r\n" {
					break
				}
				text.WriteString(line)
			}
			s.mu.Lock()
			s.got = append(s.got, fmt.Sprintf("%s, TLS %t, %s: %s", login, secure, from, text.String()))
			s.mu.Unlock()
			say("250 taken")
		case verb == "QUIT":
			say("221 bye")
			return
		default:
			say("250 ok")
		}
	}
}

// took waits for a message with a marker, and wants it to begin so.
func (s *submission) took(w *wire, begin string) {
	w.t.Helper()
	found := ""
	waitFor(w.t, "the message at the relay", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, m := range s.got {
			if strings.Contains(m, w.marker+"\r\n") {
				found = m
			}
		}
		return found != ""
	})
	if !strings.HasPrefix(found, begin) {
		w.t.Errorf("the relay took %.80q, want %q", found, begin)
	}
}

func (s *submission) offer(starttls bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.offers = starttls
}

// A table that can only be asked, as mailcow's, gives senders relays of their own,
// with logins, one of them with TLS from the first byte on.
func TestMTATwinsRelays(t *testing.T) {
	isolated(t)
	const wrapped, plain, away = "127.0.60.1:465", "127.0.60.2:587", "127.0.60.3:587"
	smtps, submit, lost := startSubmission(t, wrapped, true), startSubmission(t, plain, false), startSubmission(t, away, false)
	lost.offer(false)
	ways := map[string]string{
		doctor:                 "smtps-relay:[127.0.60.1]:465",
		"nurse@clinic.example": "relay-a:[127.0.60.2]:587",
		"ward@clinic.example":  "relay-a:[127.0.60.3]:587",
		outsider:               "relay-a:[127.0.60.3]:587",
	}
	_, table := startSiteTable(t, ways)
	w := twinned(t, wireCase{
		master: []string{
			"smtps-relay unix - - n - - smtp -o smtp_tls_wrappermode=yes -o smtp_tls_security_level=encrypt -o syslog_name=postfix/smtps-relay",
			"relay-a unix - - n - - smtp -o syslog_name=postfix/relay-a",
		},
		main: func(dir string) map[string]string {
			return map[string]string{
				"sender_dependent_default_transport_maps": "proxy:" + table,
				"proxy_read_maps":                         "proxy:" + table,
				"smtp_sasl_auth_enable":                   "yes",
				"smtp_sasl_security_options":              "noanonymous",
				"smtp_sasl_password_maps": "texthash:" + write(dir, "logins",
					"[127.0.60.1]:465 one:secret\n[127.0.60.2]:587 two:secret\n[127.0.60.3]:587 three:secret\n"),
			}
		},
	})
	leaves := func(from string, s *submission, begin string) {
		t.Helper()
		w.marker += "x"
		w.message(from, []string{"u@elsewhere.example"}, nil)
		s.took(w, begin)
	}
	all := func() {
		t.Helper()
		leaves(doctor, smtps, "one:secret, TLS true, "+doctor)
		leaves("nurse@clinic.example", submit, "two:secret, TLS true, nurse@clinic.example")
		leaves(outsider, lost, "three:secret, TLS false, "+outsider)
	}
	all()
	w.bind("")
	all()
	out, _ := w.program("doctor", "postfix")
	if !strings.Contains(out, "twin-asked") || !strings.Contains(out, "which can only be queried") {
		t.Errorf("doctor:\n%s", out)
	}
	for _, name := range []string{"tlsonly1-smtps-relay", "tlsonly-relay-a", "tlsonly1-relay"} {
		if !strings.Contains(w.masterFile(), "\n"+name+" ") {
			t.Errorf("no service %s", name)
		}
	}
	// From sendmail(1), without a route: judged by the sender's relay, too.
	w.marker += "z"
	w.handedIn("nurse@clinic.example", "u@none.example")
	submit.took(w, "two:secret, TLS true, nurse@clinic.example")
	c := dial(t, w.address)
	c.expect("MAIL FROM:<ward@clinic.example>", "250")
	c.expect("RCPT TO:<u@elsewhere.example>", "550 5.7.10")
	c.expect("QUIT", "221")

	// The relay loses TLS between acceptance and delivery.
	w.message("nurse@clinic.example", []string{"v@elsewhere.example"}, func() { submit.offer(false) })
	w.waits("v@elsewhere.example", noOffer)
	submit.offer(true)
}

// masterFile returns the text of master.cf.
func (w *wire) masterFile() string {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join(w.postfix.Etc, "master.cf"))
	if err != nil {
		w.t.Fatal(err)
	}
	return "\n" + string(text)
}

// siteTable is a table that can only be asked, at a socket.
type siteTable struct {
	mu      sync.Mutex
	answers map[string]string
	failing bool
}

// startSiteTable runs one and returns its name, too.
func startSiteTable(t *testing.T, answers map[string]string) (*siteTable, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &siteTable{answers: answers}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
				for {
					var n int
					if _, err := fmt.Fscanf(c, "%d:", &n); err != nil {
						return
					}
					question := make([]byte, n+1)
					if _, err := io.ReadFull(c, question); err != nil {
						return
					}
					_, key, _ := strings.Cut(string(question[:n]), " ")
					s.mu.Lock()
					answer, ok := s.answers[key]
					switch {
					case s.failing:
						answer = "TEMP out of order"
					case ok:
						answer = "OK " + answer
					default:
						answer = "NOTFOUND "
					}
					s.mu.Unlock()
					fmt.Fprintf(c, "%d:%s,", len(answer), answer)
				}
			})
		}
	})
	t.Cleanup(func() { l.Close() })
	return s, "socketmap:inet:" + l.Addr().String() + ":site"
}

func (s *siteTable) fail(yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failing = yes
}

// All mail goes to a relay by default_transport, as with Proxmox's smarthost.
func TestMTATwinsDefault(t *testing.T) {
	long(t)
	w := twinned(t, wireCase{main: func(string) map[string]string {
		return map[string]string{"default_transport": "smtp:[mx1.good.example]:25"}
	}})
	for _, from := range []string{doctor, outsider} {
		w.lands(from, "u@elsewhere.example", "good.example")
	}
	w.bind("")
	m := w.lands(doctor, "u@elsewhere.example", "good.example")
	if !m.TLS {
		t.Error("not over TLS")
	}
	w.by("tlsonly1", "u@elsewhere.example")
	w.lands(outsider, "u@elsewhere.example", "good.example")
	w.by("smtp", "u@elsewhere.example")
	w.doctorSays(exitOK, "ok", "twin-asked")
	w.doctorSays(exitOK, "", "relay-unnamed")
	// Without a route the milter judges the relay, too, not the domain.
	w.marker += "z"
	w.handedIn(doctor, "u@none.example")
	w.got("good.example")
	w.message(doctor, []string{"v@elsewhere.example"}, func() { w.fault("good.example", testnet.NoSTARTTLS) })
	w.waits("v@elsewhere.example", noOffer)
	if host, _ := w.leak(); host != "" && !strings.Contains(host, "good.example") {
		t.Errorf("%s saw it", host)
	}
	// Its bounces and notices go there, too.
	answer, err := w.postfix.Run(patient(t), "", "postmap", "-q", "<>", "socketmap:inet:127.0.0.1:8690:sender1/+site")
	if err != nil || strings.TrimSpace(answer) != "tlsonly:[mx1.good.example]:25" {
		t.Errorf("bounces go by %q, %v", answer, err)
	}
	w.undoes()
}

// undoes takes setup back, and wants both files as before, but for comments.
func (w *wire) undoes() {
	w.t.Helper()
	if out, status := w.program("setup", "postfix", "--undo", "--apply"); status != exitOK {
		w.t.Fatalf("undo: exit status %d\n%s", status, out)
	}
	main, err := os.ReadFile(filepath.Join(w.postfix.Etc, "main.cf"))
	if err != nil || strings.Contains(string(main), "tlsonly") || strings.Contains(w.masterFile(), "tlsonly") {
		w.t.Errorf("left: %v\n%s\n%s", err, main, w.masterFile())
	}
}

// What setup hasn't seen, or the daemon can't ask, makes mail wait, and doctor
// says which; what needn't be held goes as the site has it.
func TestMTATwinsDoctor(t *testing.T) {
	long(t)
	isolated(t)
	site, name := startSiteTable(t, map[string]string{doctor: "slow:", "tlsonly-doctor@clinic.example": "slow:"})
	w := twinned(t, wireCase{
		master: []string{
			"slow unix - - n - 1 smtp -o smtp_bind_address=127.0.0.12 -o syslog_name=postfix/slow",
			"mailbox unix - - n - - lmtp",
		},
		main: func(string) map[string]string {
			return map[string]string{"sender_dependent_default_transport_maps": name, "slow_destination_rate_delay": "1s"}
		},
	})
	w.bind("")
	if !strings.Contains(w.run1("postconf", "-n"), "tlsonly1-slow_destination_rate_delay = 1s") {
		t.Error("the limit isn't taken over")
	}
	if m := w.lands(doctor, "u@good.example", "good.example"); m.Client.String() != "127.0.0.12" || !m.TLS {
		t.Errorf("from %s, TLS %t", m.Client, m.TLS)
	}
	w.doctorSays(exitOK, "ok", "twin-asked")

	answers := func(way string) {
		site.mu.Lock()
		defer site.mu.Unlock()
		site.answers[doctor], site.answers["tlsonly-doctor@clinic.example"] = way, way
	}
	refused := func(reply string) {
		t.Helper()
		waitFor(t, reply, func() bool { // routes are kept for a moment
			c, err := dialQuietly(w.address)
			if err != nil {
				t.Fatal(err)
			}
			defer c.conn.Close()
			_, err = c.say("MAIL FROM:<" + doctor + ">")
			got, err2 := c.say("RCPT TO:<u" + fmt.Sprint(time.Now().UnixNano()) + "@good.example>")
			if err == nil && err2 == nil && strings.HasPrefix(got, reply) {
				return true
			}
			time.Sleep(200 * time.Millisecond)
			return false
		})
	}
	site.fail(true)
	refused("451 4.3.0")
	w.doctorComesTo(exitNo, "broken", "twin-unread")
	if !strings.Contains(w.daemon.log(), "the site's way of a sender isn't known") {
		t.Error("the daemon says nothing")
	}
	site.fail(false)
	answers("mailbox:inet:mx1.good.example:24")
	refused("451 4.3.0")
	w.doctorComesTo(exitNo, "broken", "twin-unheld")
	answers("nosuch:")
	w.doctorComesTo(exitNo, "broken", "twin-form")
	answers("error:5.7.1 suspended")
	refused("550 5.7.1")
	w.doctorComesTo(exitOK, "ok", "twin-asked")

	// A client that is new, and one that has changed.
	w.run("postconf", "-M", "new/unix=new unix - - n - - smtp -o smtp_bind_address=127.0.0.13")
	w.run("postconf", "-P", "slow/unix/smtp_bind_address=127.0.0.14")
	w.reload()
	answers("new:")
	w.doctorComesTo(exitNo, "broken", "twin-missing")
	w.doctorComesTo(exitNo, "warning", "transport-differs")
	refused("250")
	w.marker += "y"
	w.message(doctor, []string{"w@good.example"}, nil)
	w.waits("w@good.example", "mail transport unavailable")
	w.setup()
	w.reload()
	w.doctorSays(exitOK, "", "twin-missing")
	w.doctorSays(exitOK, "", "transport-differs")
	w.run("postqueue", "-f")
	if m := w.got("good.example"); m.Client.String() != "127.0.0.13" || !m.TLS {
		t.Errorf("from %s, TLS %t", m.Client, m.TLS)
	}

	// Not asked for.
	w.daemon.write(daemonHead + clinicRule)
	w.doctorSays(exitNo, "broken", "twin-unread")
	if out, status := w.program("setup", "postfix", "--apply"); status != exitOK || !strings.Contains(out, "the daemon doesn't read this postfix") || !strings.Contains(out, "6 of our transports") {
		t.Errorf("setup: exit status %d\n%s", status, out)
	}
	// The twins stay, held to TLS, because a service that leaves takes a restart.
	if !strings.Contains(w.run1("postconf", "-P", "tlsonly1-slow/unix/smtp_tls_security_level"), "encrypt") ||
		strings.Contains(w.run1("postconf", "-x", "sender_dependent_default_transport_maps"), "+site") {
		t.Errorf("twins, or who asks for them:\n%s", w.masterFile())
	}
	w.reload()
	w.doctorSays(exitOK, "warning", "twin-unasked")
	w.undoes()
}

func (w *wire) run1(name string, args ...string) string {
	w.t.Helper()
	out, err := w.postfix.Run(patient(w.t), "", name, args...)
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// A client that holds its hosts to more than the rules do goes on doing so.
func TestMTATwinsLevel(t *testing.T) {
	long(t)
	w := twinned(t, wireCase{
		master: []string{"strict unix - - n - - smtp -o smtp_tls_security_level=verify -o syslog_name=postfix/strict"},
		main: func(dir string) map[string]string {
			return map[string]string{"sender_dependent_default_transport_maps": "inline:{ {doctor@clinic.example = strict:} }"}
		},
	})
	const unverified = "certificate"
	w.message(doctor, []string{"a@self.example"}, nil)
	w.waits("a@self.example", unverified)
	w.bind("")
	w.message(doctor, []string{"b@self.example"}, nil)
	w.waits("b@self.example", unverified)
	w.by("tlsonly1-strict", "b@self.example")
	if m := w.lands("nurse@clinic.example", "c@self.example", "self.example"); !m.TLS {
		t.Error("not over TLS")
	}
	w.doctorSays(exitOK, "", "transport-differs")
	w.run("postconf", "-P", "tlsonly1-strict/unix/smtp_tls_policy_maps=socketmap:inet:127.0.0.1:8690:forced1")
	w.reload()
	w.doctorSays(exitOK, "warning", "transport-differs")
	w.run("postqueue", "-f")
	waitFor(t, "what the rules alone ask", func() bool {
		return slices.ContainsFunc(w.postfix.LogLines("to=<b@self.example>"), func(line string) bool { return strings.Contains(line, "status=sent") })
	})
}

// A static table of senders can't follow the site's: setup refuses it where that
// says anything of protected senders, doctor finds what was said since, and the
// remedy that both name keeps the way.
func TestMTATwinsTable(t *testing.T) {
	long(t)
	w := twinned(t, wireCase{
		master: []string{
			"smtp-167 unix - - n - - smtp -o smtp_bind_address=127.0.0.10",
			"smtp-168 unix - - n - - smtp -o smtp_bind_address=127.0.0.11 -o syslog_name=postfix/smtp-168",
		},
		main: func(dir string) map[string]string {
			return map[string]string{"sender_dependent_default_transport_maps": "texthash:" + write(dir, "sdd", "@other.example smtp-168:\n"+doctor+" smtp-167:\n")}
		},
	})
	table := filepath.Join(w.dir, "sdd")
	const asTable = "[binding]\nsenders = \"table\"\n"
	before := w.files()
	w.daemon.write(daemonHead + "[forwarding]\npostfix = \"" + w.postfix.Etc + "\"\n" + asTable + clinicRule)
	if out, status := w.program("setup", "postfix", "--apply", "--no-reload"); status != exitNo ||
		!strings.Contains(out, table+":2: "+doctor+" uses smtp-167:") || !strings.Contains(out, `set [binding] senders = "map"`) {
		t.Errorf("setup: exit status %d\n%s", status, out)
	}
	if after := w.files(); !bytes.Equal(after, before) {
		t.Errorf("it was written all the same:\n%s", after)
	}
	leaves := func(from, address, by string) {
		t.Helper()
		m := w.lands(from, "u@good.example", "good.example")
		if m.Client.String() != address || from == doctor && !m.TLS {
			t.Errorf("%s leaves from %s, want %s; TLS %t", from, m.Client, address, m.TLS)
		}
		w.by(by, "u@good.example")
	}
	write(w.dir, "sdd", "@other.example smtp-168:\n")
	w.bind(asTable)
	leaves(doctor, "127.0.0.1", "tlsonly1")
	leaves(outsider, "127.0.0.11", "smtp-168")
	w.doctorSays(exitOK, "ok", "sender-map-asked")
	// An entry that comes later, for one address too, takes nobody's TLS off: our
	// table stands first and is one of patterns. Its transport is not used.
	write(w.dir, "sdd", "@other.example smtp-168:\n"+doctor+" smtp-167:\n")
	w.reload()
	leaves(doctor, "127.0.0.1", "tlsonly1")
	if out := w.doctorSays(exitNo, "hole", "twin-unasked"); !strings.Contains(out, table+":2") {
		t.Errorf("doctor doesn't say where:\n%s", out)
	}
	write(w.dir, "sdd", "@other.example smtp-168:\n\n@clinic.example smtp-167:\n")
	out := w.doctorSays(exitNo, "hole", "twin-unasked")
	if !strings.Contains(out, table+":3") {
		t.Errorf("doctor doesn't say where:\n%s", out)
	}
	w.bind("")
	leaves(doctor, "127.0.0.10", "tlsonly1-smtp-167")
	w.doctorSays(exitOK, "ok", "twin-asked")
}

// A relay that speaks TLS at once at a port other than 465 is judged as the
// client speaks that the site sends there by; without such a client it is a host
// that never greets.
func TestMTATwinsWrapped(t *testing.T) {
	long(t)
	isolated(t)
	const relay = "[127.0.60.1]:4650"
	smtps, submit := startSubmission(t, "127.0.60.1:4650", true), startSubmission(t, "127.0.60.2:5870", false)
	w := twinned(t, wireCase{
		master: []string{
			"smtps-relay unix - - n - - smtp -o smtp_tls_wrappermode=yes -o smtp_tls_security_level=encrypt",
			"relay-a unix - - n - - smtp",
		},
		main: func(dir string) map[string]string {
			return map[string]string{
				"sender_dependent_default_transport_maps": "texthash:" + write(dir, "sdd",
					doctor+" smtps-relay:"+relay+"\nnurse@clinic.example relay-a:[127.0.60.2]:5870\n"),
				"smtp_sasl_auth_enable":      "yes",
				"smtp_sasl_security_options": "noanonymous",
				"smtp_sasl_password_maps": "texthash:" + write(dir, "logins",
					relay+" one:secret\n[127.0.60.2]:5870 two:secret\n"),
			}
		},
	})
	w.bind("")
	leaves := func(from string, s *submission, begin string) {
		t.Helper()
		w.marker += "x"
		w.message(from, []string{"u@elsewhere.example"}, nil)
		s.took(w, begin)
	}
	leaves(doctor, smtps, "one:secret, TLS true, "+doctor)
	// One that greets, and has STARTTLS, is none of these.
	leaves("nurse@clinic.example", submit, "two:secret, TLS true, nurse@clinic.example")
	out := w.daemon.command("check", relay)
	if !strings.Contains(out, "TLS 1.3") {
		t.Errorf("check says of it:\n%s", out)
	}
	// The counter-run: no client speaks so, and the host's silence says nothing.
	w.run("postconf", "-P", "smtps-relay/unix/smtp_tls_wrappermode=no")
	w.setup()
	out, status := w.program("check", relay)
	if status == exitOK || strings.Contains(out, "TLS 1.3") {
		t.Errorf("without such a client check says, with exit status %d:\n%s", status, out)
	}
}
