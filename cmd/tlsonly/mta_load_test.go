package main

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// The daemon is killed and started again in the middle of 2,000 messages over 20 sessions: whatever Postfix accepted
// had been judged, and what wasn't judged got 451.
func TestMTAKilledUnderLoad(t *testing.T) {
	long(t)
	isolated(t)
	world := newWorld(t)
	d := startDaemon(t, daemonHead+clinicRule)
	_, m := startPostfix(t, nil, nil)

	const sessions, each = 20, 100
	var accepted, refused, deferred atomic.Int64
	middle := make(chan struct{})
	var once sync.Once
	errs := make(chan error, sessions)
	var wg sync.WaitGroup
	for s := range sessions {
		wg.Go(func() {
			errs <- func() error {
				c, err := dialQuietly(m.address)
				if err != nil {
					return err
				}
				defer func() { c.conn.Close() }()
				for i := range each {
					good := i%4 != 3
					to := "u@good.example"
					if !good {
						to = "u@none.example"
					}
					got, err := c.message("doctor@clinic.example", to, fmt.Sprintf("load-%d-%d", s, i))
					switch {
					case err != nil:
						return err
					case strings.HasPrefix(got, "250") && good:
						if accepted.Add(1) == sessions*each/4 {
							once.Do(func() { close(middle) })
						}
					case strings.HasPrefix(got, "550 5.7.10 ") && !good:
						refused.Add(1)
					case strings.HasPrefix(got, "451"):
						deferred.Add(1)
						// Postfix asks no milter again in a session that lost it.
						c.conn.Close()
						if c, err = dialQuietly(m.address); err != nil {
							return err
						}
					default:
						return fmt.Errorf("to %s: %s", to, got)
					}
				}
				return nil
			}()
		})
	}
	<-middle
	d.stop(syscall.SIGKILL)
	waitFor(t, "a message deferred without the daemon", func() bool { return deferred.Load() > 0 })
	d.start()
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Error(err)
		}
	}

	got := waitMessages(t, world, "good.example", int(accepted.Load()))
	if len(got) != int(accepted.Load()) {
		t.Errorf("%d accepted, %d delivered", accepted.Load(), len(got))
	}
	for _, message := range got {
		tags := named(headerOf(t, message), "TLS-Only")
		if len(tags) != 1 || !strings.HasPrefix(tags[0], "TLS-Only: pass;") || !message.TLS {
			t.Fatalf("not judged: tags %q, TLS %t", tags, message.TLS)
		}
	}
	if n := len(world.Messages("none.example")); n != 0 {
		t.Errorf("%d messages reached none.example", n)
	}
	if total := accepted.Load() + refused.Load() + deferred.Load(); total != sessions*each {
		t.Errorf("%d answers for %d messages", total, sessions*each)
	}
	t.Logf("%d messages: %d accepted and delivered over TLS with the tag, %d refused, %d got 451",
		sessions*each, accepted.Load(), refused.Load(), deferred.Load())
}

// message sends one message and returns the reply that decided: to the end of the message, or to what was refused.
func (c *client) message(from, to, subject string) (string, error) {
	for _, command := range []string{"MAIL FROM:<" + from + ">", "RCPT TO:<" + to + ">", "DATA"} {
		got, err := c.say(command)
		if err != nil {
			return "", err
		}
		if got[0] != '2' && got[0] != '3' {
			if _, err := c.say("RSET"); err != nil {
				return "", err
			}
			return got, nil
		}
	}
	return c.say("Subject: " + subject + "\r\n\r\nHello.\r\n.")
}

// A destination that accepts the connection and says nothing is answered by the deadline; other sessions go on.
func TestMTAHangingDestination(t *testing.T) {
	long(t)
	isolated(t)
	world := newWorld(t)
	text := strings.NewReplacer(`deadline = "3s"`, `deadline = "12s"`, `timeout = "2s"`, `timeout = "15s"`).Replace(daemonHead)
	d := startDaemon(t, text+clinicRule)
	_, m := startPostfix(t, nil, nil)

	type answer struct {
		reply string
		took  time.Duration
	}
	waiting := make(chan answer, 1)
	slow := dial(t, m.address)
	slow.expect("MAIL FROM:<doctor@clinic.example>", "250")
	start := time.Now()
	go func() {
		reply, err := slow.say("RCPT TO:<u@silent.example>")
		if err != nil {
			reply = err.Error()
		}
		waiting <- answer{reply, time.Since(start)}
	}()
	waitFor(t, "a connection to the silent host", func() bool { return world.Hosts("silent.example")[0].Connections() > 0 })

	const others = 50
	fast := dial(t, m.address)
	for i := range others {
		got, err := fast.message("doctor@clinic.example", "u@good.example", fmt.Sprintf("other-%d", i))
		if err != nil || !strings.HasPrefix(got, "250") {
			t.Fatalf("message %d while another waits: %s %v", i, got, err)
		}
	}
	othersTook := time.Since(start)
	select {
	case a := <-waiting:
		t.Fatalf("the hanging destination was answered before %d other messages: %s after %s", others, a.reply, a.took)
	default:
	}
	a := <-waiting
	if a.reply != "451 4.7.5 TLS capability of silent.example is not known yet, try again" {
		t.Errorf("got %q", a.reply)
	}
	if a.took > 25*time.Second { // the deadline is 12 s; Postfix itself would give up after 30 s
		t.Errorf("answered after %s", a.took)
	}
	d.waitDecision("rcpt=u@silent.example", "reason=timeout")
	t.Logf("%d other messages done after %s; the hanging destination answered after %s", others, othersTook.Round(time.Millisecond), a.took.Round(time.Millisecond))
}
