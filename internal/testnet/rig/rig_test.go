package rig_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"tlsonly/internal/testnet/rig"
)

func TestMain(m *testing.M) {
	if os.Getenv("TLSONLY_RIG_SPREAD") != "" { // see TestSpread
		if code, done := rig.Spread(); done {
			os.Exit(code)
		}
		os.Exit(m.Run())
	}
	inside := rig.Enter(rig.FetchSendmail, rig.FetchUnbound)
	if act := os.Getenv(actVar); act != "" && inside {
		misbehave(act)
	}
	os.Exit(m.Run())
}

// needIsolation skips where there are no namespaces, the one thing a test may lack.
func needIsolation(t *testing.T) {
	t.Helper()
	if err := rig.Isolated(); errors.Is(err, rig.ErrNotIsolated) {
		t.Skip(err)
	}
}

// patient is a context whose end means that the test failed.
func patient(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// startDNS answers on 127.0.0.1:53 that every domain D has the MX host mx.D, whose address is 127.0.1.1.
func startDNS(t *testing.T) {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:53")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			q := m.Questions[0]
			m = dnsmessage.Message{
				Header:    dnsmessage.Header{ID: m.ID, Response: true, RecursionDesired: true, RecursionAvailable: true},
				Questions: m.Questions,
			}
			h := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60}
			mx := strings.HasPrefix(q.Name.String(), "mx.")
			switch {
			case q.Type == dnsmessage.TypeMX && !mx:
				host := dnsmessage.MustNewName("mx." + q.Name.String())
				m.Answers = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.MXResource{Pref: 10, MX: host}}}
			case q.Type == dnsmessage.TypeA && mx:
				m.Answers = []dnsmessage.Resource{{Header: h, Body: &dnsmessage.AResource{A: [4]byte{127, 0, 1, 1}}}}
			}
			if b, err := m.Pack(); err == nil {
				_, _ = c.WriteTo(b, from)
			}
		}
	})
	t.Cleanup(func() {
		c.Close()
		serving.Wait()
	})
}

// startSink takes mail on 127.0.1.1:25 and hands on each connection's MAIL and RCPT lines and its message.
func startSink(t *testing.T) <-chan string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.1.1:25")
	if err != nil {
		t.Fatal(err)
	}
	messages := make(chan string, 16)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { sink(c, messages) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		serving.Wait()
	})
	return messages
}

func sink(c net.Conn, messages chan<- string) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	fmt.Fprint(c, "220 mx.sink.test ESMTP\r\n")
	var message strings.Builder
	data := false
	in := bufio.NewScanner(c)
	for in.Scan() {
		line := in.Text()
		verb, _, _ := strings.Cut(strings.ToUpper(line), " ")
		switch {
		case data && line == ".":
			messages <- message.String()
			message.Reset()
			data = false
			fmt.Fprint(c, "250 ok\r\n")
		case data:
			message.WriteString(line + "\n")
		case verb == "DATA":
			data = true
			fmt.Fprint(c, "354 go\r\n")
		case verb == "QUIT":
			fmt.Fprint(c, "221 bye\r\n")
			return
		case verb == "MAIL", verb == "RCPT":
			message.WriteString(line + "\n")
			fallthrough
		default:
			fmt.Fprint(c, "250 ok\r\n")
		}
	}
}

// delivered waits for a message in the sink and checks that it has all parts.
func delivered(t *testing.T, ctx context.Context, messages <-chan string, log func() string, parts ...string) {
	t.Helper()
	select {
	case m := <-messages:
		for _, part := range parts {
			if !strings.Contains(m, part) {
				t.Errorf("delivered without %q:\n%s", part, m)
			}
		}
	case <-ctx.Done():
		t.Fatalf("nothing delivered; log:\n%s", log())
	}
}

// leftOver returns the processes in the namespaces besides the first one, which is the keeper, and this one.
func leftOver(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, e := range entries {
		cmdline, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if err != nil || e.Name() == "1" || e.Name() == fmt.Sprint(os.Getpid()) || strings.Trim(e.Name(), "0123456789") != "" {
			continue
		}
		found = append(found, e.Name()+" "+strings.ReplaceAll(string(cmdline), "\x00", " "))
	}
	return found
}

func checkNothingLeft(t *testing.T, dir string) {
	t.Helper()
	if left := leftOver(t); len(left) > 0 {
		t.Errorf("processes left: %q", left)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("directory %s is still there: %v", dir, err)
	}
}

func TestIsolated(t *testing.T) {
	needIsolation(t)
	l, err := net.Listen("tcp", "127.0.0.77:25")
	if err != nil {
		t.Fatalf("port 25 isn't ours: %v", err)
	}
	l.Close()
	if host, err := os.Hostname(); err != nil || host != "rig.test" {
		t.Errorf("host name %q, %v", host, err)
	}
	if b, err := os.ReadFile("/etc/resolv.conf"); err != nil || !strings.HasPrefix(string(b), "nameserver 127.0.0.1\n") {
		t.Errorf("resolv.conf %q, %v", b, err)
	}
	if _, err := net.DialTimeout("udp", "192.0.2.1:53", time.Second); err == nil {
		t.Error("there is a route to the outside")
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), " shared:") {
		t.Errorf("mounts are shared with the outside:\n%s", mounts)
	}
	if os.Getppid() != 1 {
		t.Errorf("parent is %d, want 1, the keeper: nobody would end what we leave", os.Getppid())
	}
}

// actVar tells this program, run once more by TestIsolateEnds, how to end.
const actVar = "RIG_TEST_ACT"

func misbehave(act string) {
	// In a process group and session of its own, so that only the end of the namespaces can take it along.
	orphan := exec.Command("sleep", "1000")
	orphan.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := orphan.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(99)
	}
	switch act {
	case "exit":
		os.Exit(7)
	case "killed":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	fmt.Println("ready")
	select {} // till a signal, or the end of the outer process
}

// TestIsolateEnds runs this program in namespaces inside of these and looks what's left when it ends.
func TestIsolateEnds(t *testing.T) {
	needIsolation(t)
	for _, c := range []struct {
		act    string
		signal os.Signal // sent to the outer process
		want   int       // its exit status; -1: it dies by the signal
	}{
		{"exit", nil, 7},
		{"killed", nil, 128 + 9},
		{"wait", syscall.SIGTERM, 128 + 15},
		{"wait", syscall.SIGKILL, -1},
	} {
		cmd := exec.CommandContext(patient(t), os.Args[0])
		for _, e := range os.Environ() {
			if !strings.HasPrefix(e, "TLSONLY_RIG=") {
				cmd.Env = append(cmd.Env, e)
			}
		}
		cmd.Env = append(cmd.Env, actVar+"="+c.act)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if c.signal != nil {
			if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
				t.Fatalf("%s: %q, %v", c.act, line, err)
			}
			if err := cmd.Process.Signal(c.signal); err != nil {
				t.Fatal(err)
			}
		}
		_ = cmd.Wait() // the exit status says it all
		if got := cmd.ProcessState.ExitCode(); got != c.want {
			t.Errorf("%s, signal %v: exit status %d, want %d", c.act, c.signal, got, c.want)
		}
		// Who was killed from outside can't wait for its namespaces to be gone.
		ctx := patient(t)
		for left := leftOver(t); len(left) > 0; left = leftOver(t) {
			if ctx.Err() != nil {
				t.Fatalf("%s, signal %v: processes left: %q", c.act, c.signal, left)
			}
			runtime.Gosched()
		}
	}
}

func TestPostfixDelivers(t *testing.T) {
	needIsolation(t)
	ctx := patient(t)
	startDNS(t)
	messages := startSink(t)
	p, err := rig.StartPostfix(ctx, rig.PostfixConfig{
		Main:   map[string]string{"hash_queue_depth": "1"},
		Master: []string{"extra unix - - n - - smtp\n  -o smtp_tls_security_level=encrypt"},
		Logins: map[string]string{"alice": "secret"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	if out, err := p.Run(ctx, "", "postconf", "-h", "hash_queue_depth"); err != nil || out != "1\n" {
		t.Errorf("hash_queue_depth %q, %v", out, err)
	}
	if out, err := p.Run(ctx, "", "postconf", "-M", "extra/unix"); err != nil || !strings.Contains(out, "encrypt") {
		t.Errorf("extra service %q, %v", out, err)
	}
	client := dial(t, p.Addr)
	client.say("EHLO client.test", "250")
	client.say("AUTH PLAIN AGFsaWNlAHdyb25n", "535") // alice, wrong
	client.say("AUTH PLAIN AGFsaWNlAHNlY3JldA==", "235")
	client.say("MAIL FROM:<alice@sender.test>", "250")
	client.say("RCPT TO:<bob@rcpt.test>", "250")
	client.say("DATA", "354")
	client.say("Subject: hello\r\n\r\nhi\r\n.", "250")
	client.say("QUIT", "221")
	delivered(t, ctx, messages, p.Log, "MAIL FROM:<alice@sender.test>", "RCPT TO:<bob@rcpt.test>", "Subject: hello", "\nhi\n")
	line, err := p.WaitLog(ctx, "status=sent")
	if err != nil || !strings.Contains(line, "to=<bob@rcpt.test>, relay=mx.rcpt.test[127.0.1.1]:25") {
		t.Errorf("log line %q, %v", line, err)
	}

	if err := p.Set(ctx, map[string]string{"defer_transports": "smtp"}); err != nil {
		t.Fatal(err)
	}
	if out, err := p.Run(ctx, "", "postconf", "-h", "defer_transports"); err != nil || out != "smtp\n" {
		t.Errorf("defer_transports %q, %v", out, err)
	}
	if _, err := p.Run(ctx, "Subject: kept\n\n.\n", "sendmail", "-f", "carol@sender.test", "dave@rcpt.test"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.WaitLog(ctx, "to=<dave@rcpt.test>"); err != nil {
		t.Fatal(err)
	}
	queue, err := p.Queue(ctx)
	if err != nil || len(queue) != 1 || queue[0].Sender != "carol@sender.test" || queue[0].Recipients[0].Address != "dave@rcpt.test" {
		t.Errorf("queue %+v, %v", queue, err)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	if len(p.LogLines("status=sent")) != 1 {
		t.Errorf("log after Stop:\n%s", p.Log())
	}
	checkNothingLeft(t, p.Dir)
}

func TestPostfixRefusesToStart(t *testing.T) {
	needIsolation(t)
	p, err := rig.StartPostfix(patient(t), rig.PostfixConfig{Main: map[string]string{"inet_interfaces": "192.0.2.1"}})
	if err == nil {
		_ = p.Stop()
		t.Fatal("started on an address that isn't there")
	}
	if !strings.Contains(err.Error(), "192.0.2.1") {
		t.Errorf("error doesn't say why: %v", err)
	}
	if left := leftOver(t); len(left) > 0 {
		t.Errorf("processes left: %q", left)
	}
}

func TestSendmailDelivers(t *testing.T) {
	needIsolation(t)
	ctx := patient(t)
	startDNS(t)
	messages := startSink(t)
	s, err := rig.StartSendmail(ctx, rig.SendmailConfig{
		Mc:    []string{"define(`confDELIVERY_MODE', `queueonly')dnl"},
		Rules: []string{"LOCAL_RULESETS", "STestrule", "R$*\t$@ seen $1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	if out, err := s.Run(ctx, "Testrule x\n", "-bt"); err != nil || !strings.Contains(out, "seen x") {
		t.Errorf("ruleset of the test: %q, %v", out, err)
	}
	client := dial(t, s.Addr)
	client.say("EHLO client.test", "250")
	client.say("MAIL FROM:<alice@sender.test>", "250")
	client.say("RCPT TO:<bob@rcpt.test>", "250")
	client.say("DATA", "354")
	client.say("Subject: hello\r\n\r\nhi\r\n.", "250")
	client.say("QUIT", "221")
	if queue, err := s.Queue(ctx, false); err != nil || !strings.Contains(queue, "<bob@rcpt.test>") {
		t.Errorf("queue %q, %v", queue, err)
	}
	if err := s.QueueRun(ctx); err != nil {
		t.Fatal(err)
	}
	delivered(t, ctx, messages, s.Log, "MAIL From:<alice@sender.test>", "RCPT To:<bob@rcpt.test>", "Subject: hello", "\nhi\n")
	if line, err := s.WaitLog(ctx, "stat=Sent"); err != nil || !strings.Contains(line, "relay=mx.rcpt.test.") {
		t.Errorf("log line %q, %v", line, err)
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	checkNothingLeft(t, s.Dir)
}
