package instance_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	gomilter "github.com/d--j/go-milter"

	"tlsonly/internal/addr"
	"tlsonly/internal/instance"
	"tlsonly/internal/policy"
	"tlsonly/internal/socketmap"
	"tlsonly/milter"
	"tlsonly/rules"
)

// serve has each connection to a new address answered, until the test ends.
func serve(t *testing.T, answer func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				defer context.AfterFunc(ctx, func() { c.Close() })()
				answer(c)
			})
		}
	})
	t.Cleanup(func() { l.Close(); cancel(); all.Wait() })
	return l.Addr().String()
}

type noAssessor struct{}

func (noAssessor) Assess(context.Context, addr.Destination, func(policy.Assessment) bool) policy.Assessment {
	return policy.Assessment{}
}

type noLedger struct{}

func (noLedger) Pinned(addr.Destination) bool                    { return false }
func (noLedger) Demanded(addr.Destination) (policy.Demand, bool) { return policy.Demand{}, false }

// daemon serves both listeners as the daemon does.
func daemon(t *testing.T, who instance.Identity) (milterAt, mapAt string) {
	t.Helper()
	set := rules.New(nil)
	m, err1 := milter.New(milter.Config{Decider: milter.Decider{Assessor: noAssessor{}}, Rules: func() *rules.Set { return set }, Identity: who})
	s, err2 := socketmap.New(socketmap.Config{Rules: func() *rules.Delivery { return rules.Alone(set) }, Ledger: noLedger{}, Identity: who})
	l1, err3 := net.Listen("tcp", "127.0.0.1:0")
	l2, err4 := net.Listen("tcp", "127.0.0.1:0")
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() { _ = m.Serve(l1) })
	all.Go(func() { _ = s.Serve(l2) })
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := errors.Join(m.Shutdown(ctx), s.Shutdown(ctx)); err != nil {
			t.Error(err)
		}
		all.Wait()
	})
	return l1.Addr().String(), l2.Addr().String()
}

// The daemon is known at both its listeners, by store and by process, and others
// of its kind aren't taken for it.
func TestDaemon(t *testing.T) {
	t.Parallel()
	const store = "postgres://user:secret@db.example/tlsonly?sslmode=require"
	who := instance.New("1.2.3 (x)", store)
	atMilter, atMap := daemon(t, who)
	for what, ask := range map[string]func() (instance.Identity, error){
		"milter": func() (instance.Identity, error) { return instance.Milter(t.Context(), "tcp", atMilter) },
		"map":    func() (instance.Identity, error) { return instance.Map(t.Context(), "tcp", atMap) },
	} {
		got, err := ask()
		if err != nil || got != who || got.Version != "1.2.3_(x)" {
			t.Errorf("%s: %+v, %v, want %+v", what, got, err, who)
		}
		for _, c := range []struct {
			want instance.Identity
			same bool
		}{
			{instance.Identity{}, true}, {instance.Expected("4", store), true}, {instance.Expected("1", "postgres://db.example//tlsonly"), true}, {who, true},
			{instance.Expected("1.2.3", "postgres://db.example/other"), false},
			{instance.Expected("1.2.3", "postgres://other.example/tlsonly"), false}, {instance.New("1.2.3", store), false},
		} {
			if got.Same(c.want) != c.same {
				t.Errorf("%s: %+v is the same as %+v: want %t", what, got, c.want, c.same)
			}
		}
	}
	for _, c := range []struct {
		want     instance.Identity
		endpoint string
		ours, ok bool
	}{
		{instance.Expected("", store), "inet:" + atMilter, true, true},
		{instance.Expected("", "sqlite:///other.db"), "inet:" + atMilter, false, true},
		{instance.Expected("", store), "inet:" + atMap, false, false}, // no milter
		{instance.Expected("", store), "tcp:" + atMilter, false, false},
	} {
		if ours, err := c.want.IsMilter(t.Context(), c.endpoint); ours != c.ours || (err == nil) != c.ok {
			t.Errorf("%s for %+v: %t, %v", c.endpoint, c.want, ours, err)
		}
	}
}

// Two listeners at the same time are told apart; a daemon whose identity nobody
// has set is nobody.
func TestNobodySet(t *testing.T) {
	t.Parallel()
	atMilter, atMap := daemon(t, instance.Identity{})
	if got, err := instance.Milter(t.Context(), "tcp", atMilter); !errors.Is(err, instance.ErrStranger) {
		t.Errorf("milter: %+v, %v", got, err)
	}
	if got, err := instance.Map(t.Context(), "tcp", atMap); !errors.Is(err, instance.ErrStranger) {
		t.Errorf("map: %+v, %v", got, err)
	}
}

// packets are what a milter says, one after each packet that it reads.
func packets(says ...string) func(net.Conn) {
	return func(c net.Conn) {
		for _, s := range says {
			var length [4]byte
			if _, err := io.ReadFull(c, length[:]); err != nil {
				return
			}
			if _, err := io.CopyN(io.Discard, c, int64(length[2])<<8|int64(length[3])); err != nil {
				return
			}
			if _, err := io.WriteString(c, s); err != nil {
				return
			}
		}
	}
}

func packet(s string) string { return string([]byte{0, 0, byte(len(s) >> 8), byte(len(s))}) + s }

// netstrings answers each netstring with one.
func netstrings(says string) func(net.Conn) {
	return func(c net.Conn) {
		if _, err := bufio.NewReader(c).ReadString(','); err == nil {
			fmt.Fprintf(c, "%d:%s,", len(says), says)
		}
	}
}

// Every other program is told from the daemon, and what it is is told.
func TestOthers(t *testing.T) {
	t.Parallel()
	options := packet("O\x00\x00\x00\x06\x00\x00\x01\xff\x00\x00\x01\x00")
	library := gomilter.NewServer(gomilter.WithMilter(func() gomilter.Milter { return gomilter.NoOpMilter{} }))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = library.Serve(l) })
	t.Cleanup(func() { library.Close(); serving.Wait() })
	gone := serve(t, func(net.Conn) {})
	unbound, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	unbound.Close()
	canned := "tlsonly 0123456789abcdef 1 0123456789abcdef 0123456789abcdef"
	quiet := func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }
	banner := func(c net.Conn) { _, _ = io.WriteString(c, "220 mta.example ESMTP\r\n"); quiet(c) }
	http := func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n") }

	for name, c := range map[string]struct {
		at          string
		milter, smp error
	}{
		"nobody":                    {unbound.Addr().String(), instance.ErrNobody, instance.ErrNobody},
		"hangs up":                  {gone, instance.ErrProtocol, instance.ErrProtocol},
		"SMTP":                      {serve(t, banner), instance.ErrProtocol, instance.ErrProtocol},
		"HTTP":                      {serve(t, http), instance.ErrProtocol, instance.ErrProtocol},
		"a milter of the library":   {l.Addr().String(), instance.ErrStranger, nil},
		"continue":                  {serve(t, packets(options, packet("c"))), instance.ErrStranger, nil},
		"its own refusal":           {serve(t, packets(options, packet("y502 5.5.1 what\x00"))), instance.ErrStranger, nil},
		"work goes on":              {serve(t, packets(options, packet("p")+packet("c"))), instance.ErrStranger, nil},
		"an answer that was heard":  {serve(t, packets(options, packet("y502 5.5.1 "+canned+"\x00"))), instance.ErrStranger, nil},
		"no reply, hangs up":        {serve(t, packets(options)), instance.ErrStranger, nil},
		"no reply to such commands": {serve(t, packets(packet("O\x00\x00\x00\x06\x00\x00\x01\xff\x00\x02\x00\x00"), "")), instance.ErrStranger, nil},
		"options too short":         {serve(t, packets(packet("O\x00\x00\x00\x06"))), instance.ErrProtocol, nil},
		"another packet":            {serve(t, packets(packet("t"))), instance.ErrProtocol, nil},
		"NOTFOUND":                  {serve(t, netstrings("NOTFOUND ")), nil, instance.ErrStranger},
		"TEMP":                      {serve(t, netstrings("TEMP no such map")), nil, instance.ErrStranger},
		"OK":                        {serve(t, netstrings("OK dane")), nil, instance.ErrStranger},
		"an answer heard before":    {serve(t, netstrings("OK "+canned)), nil, instance.ErrStranger},
		"another netstring":         {serve(t, netstrings("hello")), nil, instance.ErrProtocol},
		"a map of Unix":             {filepath.Join(t.TempDir(), "none.sock"), instance.ErrNobody, instance.ErrNobody},
	} {
		network := "tcp"
		if strings.HasPrefix(c.at, "/") {
			network = "unix"
		}
		if c.milter != nil {
			if got, err := instance.Milter(t.Context(), network, c.at); !errors.Is(err, c.milter) || got != (instance.Identity{}) {
				t.Errorf("%s: as a milter %+v, %v, want %v", name, got, err, c.milter)
			}
		}
		if c.smp != nil {
			if got, err := instance.Map(t.Context(), network, c.at); !errors.Is(err, c.smp) || got != (instance.Identity{}) {
				t.Errorf("%s: as a map %+v, %v, want %v", name, got, err, c.smp)
			}
		}
	}
}

// Somebody who takes connections and says nothing is given up on, when the
// caller's time ends or ours.
func TestSilent(t *testing.T) {
	t.Parallel()
	at := serve(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := instance.Milter(ctx, "tcp", at); !errors.Is(err, instance.ErrSilent) {
		t.Errorf("milter: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := instance.Map(ctx, "tcp", at); !errors.Is(err, instance.ErrSilent) {
		t.Errorf("map: %v", err)
	}
}

// What isn't a question as it should be isn't answered, so nothing a client
// writes comes back.
func TestAnswer(t *testing.T) {
	t.Parallel()
	who := instance.New("1", "sqlite:///tlsonly.db")
	for _, nonce := range []string{"", "0123456789abcde", "0123456789ABCDEF", "0123456789abcdeg", "0123456789abcdef0", "012345678 abcdef"} {
		if got := who.Answer(nonce); got != "" {
			t.Errorf("%q: %q", nonce, got)
		}
	}
	if got := who.AnswerCommand("XTLSONLY-IDENTIFY 0123456789abcdef"); !strings.HasPrefix(got, "tlsonly 0123456789abcdef 1 ") {
		t.Errorf("%q", got)
	}
	for _, line := range []string{"", "BDAT 10", "XTLSONLY-IDENTIFY", "XTLSONLY-IDENTIFY x", "xtlsonly-identify 0123456789abcdef"} {
		if got := who.AnswerCommand(line); got != "" {
			t.Errorf("%q: %q", line, got)
		}
	}
}
