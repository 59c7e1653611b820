package postfix

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/contract"
	"tlsonly/internal/mta"
	"tlsonly/internal/testnet/rig"
)

// Whatever happens to the probe's message, nothing stays in the queue and
// Postfix writes no bounce.
func TestProbeLeavesNothing(t *testing.T) {
	rig.Long(t)
	t.Parallel()
	const toBounces = "pcre:{ {/^4(.*)/ 5$$1} }" // each deferral becomes a bounce
	const filter = "127.0.0.1:10027"
	for _, c := range []struct {
		name, from string
		main       map[string]string
		master     []string
		lost       contract.OnLost
		ctx        time.Duration // until it is given up
		during     func(t *testing.T, p *rig.Postfix) (stop func())
		want       mta.Severity
		err        string
	}{
		{name: "seen in the clear", from: "bob@sender.test", want: mta.Hole},
		{name: "bounced", from: "bob@sender.test", want: mta.Hole, main: map[string]string{"smtp_delivery_status_filter": toBounces}},
		{name: "on_lost", from: "alice@sender.test", want: mta.OK, lost: contract.OnLostBounce},
		{name: "on_lost, no DSN", from: "alice@sender.test", lost: contract.OnLostBounce, main: map[string]string{"smtpd_discard_ehlo_keywords": "dsn"},
			err: "nothing was sent"},
		{name: "no DSN", from: "bob@sender.test", want: mta.Hole, main: map[string]string{"smtpd_discard_ehlo_keywords": "dsn"}},
		{name: "content filter", from: "alice@sender.test", want: mta.OK, main: map[string]string{"content_filter": "smtp:[127.0.0.1]:10027"},
			master: []string{filter + " inet n - n - - smtpd -o content_filter= -o smtpd_milters="}},
		{name: "given up", from: "alice@sender.test", ctx: time.Second, err: context.DeadlineExceeded.Error(),
			during: stoppedQueue},
		{name: "held", from: "alice@sender.test", want: mta.Warning,
			main: map[string]string{"smtpd_data_restrictions": "check_client_access static:HOLD"}},
		{name: "relay", from: "alice@sender.test", main: map[string]string{"relayhost": "[relay.test]"}, err: "[relay.test], so nothing was sent"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := patient(t)
			smap := startAnswers(t, "tcp", "127.0.0.1:0", map[string]string{"sender1 alice@sender.test": "OK tlsonly1:"})
			s := Settings{Milter: "inet:" + startMilter(t, "tcp", "127.0.0.1:0"), Socketmap: "inet:" + smap.listener.Addr().String(),
				Classes: []Class{{Number: 1}}, OnLost: c.lost}
			main := map[string]string{"smtp_tls_security_level": "may"}
			for k, v := range c.main {
				main[k] = v
			}
			p := startPostfix(t, ctx, rig.PostfixConfig{Main: main, Master: c.master})
			i := Instance{Dir: p.Etc}
			backdate(t, p)
			apply(t, ctx, i, s, time.Now())
			settle(t, ctx, p)
			if err := waitSocket(ctx, filepath.Join(p.Dir, "queue", "private", "tlsonly1")); err != nil {
				t.Fatal(err)
			}
			stop := func() {}
			if c.during != nil {
				stop = c.during(t, p)
			}
			probing := ctx
			if c.ctx > 0 {
				var cancel context.CancelFunc
				probing, cancel = context.WithTimeout(ctx, c.ctx)
				defer cancel()
			}
			found, err := Probe(probing, s, i, addr.MustAddress(c.from))
			stop()
			if c.err == "" && (err != nil || found.Severity != c.want) || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("%+v, %v; want %s, %q; log:\n%s", found, err, c.want, c.err, p.Log())
			}
			if queue, err := p.Queue(ctx); err != nil || len(queue) > 0 {
				t.Errorf("left in the queue: %+v, %v; log:\n%s", queue, err, p.Log())
			}
			if bounces := p.LogLines("from=<>"); len(bounces) > 0 {
				t.Errorf("bounces: %q", bounces)
			}
			if c.name == "bounced" && len(p.LogLines("status=bounced")) == 0 {
				t.Errorf("nothing bounced; log:\n%s", p.Log())
			}
			if c.err != "" && strings.Contains(c.err, "nothing was sent") {
				if sent := p.LogLines("queue active"); len(sent) > 0 {
					t.Errorf("sent: %q", sent)
				}
			}
		})
	}
}

// Settings by which another host would get the probe.
func TestProbeRelay(t *testing.T) {
	t.Parallel()
	tables, dir := tableDir(t)
	for setting, want := range map[string]string{
		"": "", "relayhost=[relay.test]": "[relay.test]",
		"sender_dependent_relayhost_maps=inline:{ {@sender.test = [relay.test]} }":          "[relay.test]",
		"sender_dependent_relayhost_maps=inline:{ {alice@sender.test = DUNNO} }":            "",
		"sender_dependent_relayhost_maps=inline:{ {@other.test = [relay.test]} }":           "",
		"transport_maps=inline:{ {* = smtp:[relay.test]} }":                                 "[relay.test]",
		"transport_maps=inline:{ {[127.25.0.1] = smtp:[relay.test]} }":                      "[relay.test]",
		"transport_maps=inline:{ {* = smtp:} }":                                             "",
		"default_transport=smtp:[relay.test]":                                               "[relay.test]",
		"sender_dependent_default_transport_maps=socketmap:inet:127.0.0.1:8690:sender1":     "",
		"sender_dependent_default_transport_maps=inline:{ {@sender.test = x:[relay.test]}}": "[relay.test]",
	} {
		name, value, _ := strings.Cut(setting, "=")
		main := map[string]string{"relayhost": "", "queue_directory": dir}
		if name != "" {
			main[name] = value
		}
		f := facts(t, "3.7.11", main)
		got, err := f.relayOf(t.Context(), tables, addr.MustAddress("alice@sender.test"), "127.25.0.1")
		if err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", setting, got, err, want)
		}
	}
	f := facts(t, "3.7.11", map[string]string{"transport_maps": "texthash:" + dir + "/gone"})
	if _, err := f.relayOf(t.Context(), tables, addr.MustAddress("alice@sender.test"), "127.25.0.1"); err == nil {
		t.Error("a table that can't be read: no error")
	}
}

// Nothing is taken out that Postfix is at work on: bounce(8) would find no record
// of what it is to say, nor that nobody wants it said.
func TestProbeWaitsForPostfix(t *testing.T) {
	for queue, want := range map[string]bool{"incoming": true, "active": true, "maildrop": true, "deferred": false, "hold": false} {
		if got := (queuedProbe{queue: queue}).busy(); got != want {
			t.Errorf("%s: busy %v, want %v", queue, got, want)
		}
	}
}

// processesOf returns the processes of a program of the instance's.
func processesOf(p *rig.Postfix, program string) (pids []int) {
	names, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, name := range names {
		dir := filepath.Dir(name)
		text, err := os.ReadFile(name)
		if err != nil || strings.TrimSpace(string(text)) != program {
			continue
		}
		if in, err := os.Readlink(filepath.Join(dir, "cwd")); err == nil && strings.HasPrefix(in, p.Dir) {
			if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// stoppedQueue stops the queue manager, so that nothing is tried, until the
// function that it returns is called. After a reload there may be two for a
// moment, or none yet.
func stoppedQueue(t *testing.T, p *rig.Postfix) func() {
	t.Helper()
	var stopped []int
	again := func() bool {
		for _, pid := range processesOf(p, "qmgr") {
			if !slices.Contains(stopped, pid) && syscall.Kill(pid, syscall.SIGSTOP) == nil {
				stopped = append(stopped, pid)
			}
		}
		return len(stopped) > 0
	}
	await(t, "the queue manager", again)
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for tick := time.Tick(10 * time.Millisecond); ; {
			select {
			case <-end:
				return
			case <-tick:
				again()
			}
		}
	}()
	return func() {
		close(end)
		<-ended
		for _, pid := range stopped {
			_ = syscall.Kill(pid, syscall.SIGCONT) // gone, if it was the old one
		}
	}
}
