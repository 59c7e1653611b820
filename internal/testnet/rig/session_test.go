package rig_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tlsonly/internal/testnet/rig"
)

// talkTo plays a session to a milter in this process.
func talkTo(t *testing.T, s rig.Session, milter func(net.Conn)) ([]rig.Packet, error) {
	t.Helper()
	ours, theirs := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		milter(theirs)
	}()
	got, err := rig.Play(patient(t), ours, s)
	ours.Close()
	<-done
	return got, err
}

func parse(t *testing.T, text string) rig.Session {
	t.Helper()
	s, err := rig.ParseSession(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestRecordedSessions plays every recorded session to the milter it was recorded with: the answers must be those of the record.
func TestRecordedSessions(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(sessionDir, "*.session"))
	if err != nil {
		t.Fatal(err)
	}
	if want := 2*(len(scenes())+1) + 2; len(files) != want { // both MTAs' scenes and full; Postfix's login and pickup
		t.Fatalf("%d sessions in %s, want %d", len(files), sessionDir, want)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := parse(t, string(text))
			_, body, _ := strings.Cut(string(text), "\n") // the first line is a comment
			if s.String() != body {
				t.Error("the session's text isn't what String makes of it")
			}
			protocol := uint32(lean)
			if strings.HasSuffix(file, "-full.session") {
				protocol = full
			}
			got, err := talkTo(t, s, func(c net.Conn) { answer(c, protocol) })
			if err != nil {
				t.Fatal(err)
			}
			var want rig.Session
			for _, p := range s {
				if p.From == rig.FromMilter {
					want = append(want, p)
				}
			}
			if g := rig.Session(got).String(); g != want.String() {
				t.Errorf("answers:\n%s\nwant:\n%s", g, want)
			}
		})
	}
}

// TestFullSessionAsksLess plays sessions in which every event was asked for to a milter that wants few.
func TestFullSessionAsksLess(t *testing.T) {
	for _, mta := range []string{"postfix", "sendmail"} {
		text, err := os.ReadFile(filepath.Join(sessionDir, mta+"-full.session"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := talkTo(t, parse(t, string(text)), func(c net.Conn) { answer(c, lean) })
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != 4 { // O, MAIL, RCPT, end of message
			t.Errorf("%s: %d answers, want 4:\n%s", mta, len(got), rig.Session(got))
		}
	}
}

// TestPlayFollowsAnswers checks what the player leaves out after an answer that is not the recorded one.
func TestPlayFollowsAnswers(t *testing.T) {
	const session = "> O 6 000001ff 001fffff\n> C \"h\" 4 1 \"127.0.0.1\"\n> M \"<a@a.test>\"\n> R \"<b@b.test>\"\n> T\n> E\n> A\n> M \"<c@c.test>\"\n> R \"<d@d.test>\"\n> E\n> Q\n"
	for _, c := range []struct{ at, reply, asked, about string }{
		{"", "", "OCMRTEAMREQ", "nothing refused"},
		{"C", "< a", "OCAQ", "the connection accepted"},
		{"M", "< y \"550 5.7.1 no\"", "OCMAMQ", "every sender refused"},
		{"R", "< y \"550 5.7.1 no\"", "OCMRTEAMREQ", "recipients refused: the MTA decides whether any is left"},
		{"R", "< a", "OCMRAMRQ", "accepted at RCPT, which ends the message"},
		{"T", "< t", "OCMRTAMREQ", "refused at DATA"},
		{"E", "< e \"<a@a.test>\" \"RET=HDRS\"\n< c", "OCMRTEAMREQ", "a change before the end"},
	} {
		var asked strings.Builder
		_, err := talkTo(t, parse(t, session), func(conn net.Conn) {
			defer conn.Close()
			for {
				p, err := rig.ReadPacket(conn, rig.FromMTA)
				if err != nil {
					return
				}
				asked.WriteByte(p.Kind)
				reply := rig.Session{{From: rig.FromMilter, Kind: 'c'}}
				switch {
				case p.Kind == 'O':
					reply = parse(t, "< O 6 00000000 00000000")
				case p.Kind == 'A' || p.Kind == 'Q':
					continue
				case string(p.Kind) == c.at:
					reply = parse(t, c.reply)
				}
				for _, r := range reply {
					if r.Write(conn) != nil {
						return
					}
				}
			}
		})
		if err != nil || asked.String() != c.asked {
			t.Errorf("%s: asked %s, %v; want %s", c.about, asked.String(), err, c.asked)
		}
	}
}

func TestPlayErrors(t *testing.T) {
	greeting := "> O 6 000001ff 001fffff\n"
	for about, milter := range map[string]string{
		"progress before the end of message": "< O 6 00000000 00000000\n< p",
		"no negotiation":                     "< c",
		"gone":                               "",
	} {
		answers := parse(t, milter)
		_, err := talkTo(t, parse(t, greeting+"> M \"<a@a.test>\"\n"), func(c net.Conn) {
			defer c.Close()
			for _, a := range answers {
				if _, err := rig.ReadPacket(c, rig.FromMTA); err != nil {
					return
				}
				if a.Write(c) != nil {
					return
				}
			}
		})
		if err == nil {
			t.Errorf("%s: no error", about)
		}
	}
	// A milter that never answers.
	ctx, cancel := context.WithCancel(t.Context())
	ours, theirs := net.Pipe()
	defer ours.Close()
	go func() {
		_, _ = rig.ReadPacket(theirs, rig.FromMTA)
		cancel()
	}()
	if _, err := rig.Play(ctx, ours, parse(t, greeting)); !errors.Is(err, context.Canceled) {
		t.Errorf("hanging milter: %v, want context.Canceled", err)
	}
}

func TestPacketText(t *testing.T) {
	for _, c := range []struct {
		p    rig.Packet
		line string
	}{
		{rig.Packet{From: '>', Kind: 'Q'}, `> Q`},
		{rig.Packet{From: '>', Kind: 'M', Data: []byte("<>\x00")}, `> M "<>"`},
		{rig.Packet{From: '>', Kind: 'M', Data: []byte("<a@b>\x00SIZE=1\x00")}, `> M "<a@b>" "SIZE=1"`},
		{rig.Packet{From: '>', Kind: 'M', Data: []byte("no end")}, `> M raw "no end"`},
		{rig.Packet{From: '>', Kind: 'M', Data: []byte("raw\x00")}, `> M "raw"`},
		{rig.Packet{From: '>', Kind: 'M', Data: []byte("\xff\"\x00")}, `> M "\xff\""`},
		{rig.Packet{From: '>', Kind: 'D', Data: []byte("H")}, `> D H`},
		{rig.Packet{From: '>', Kind: 'D', Data: []byte("Mi\x004bX\x00")}, `> D M "i" "4bX"`},
		{rig.Packet{From: '>', Kind: 'D', Data: []byte("?x\x00")}, `> D raw "?x\x00"`},
		{rig.Packet{From: '<', Kind: 'd'}, `< d`},
		{rig.Packet{From: '>', Kind: 'C', Data: []byte("h\x004\x00\x19127.0.0.1\x00")}, `> C "h" 4 25 "127.0.0.1"`},
		{rig.Packet{From: '>', Kind: 'C', Data: []byte("h\x00U")}, `> C "h" U`},
		{rig.Packet{From: '>', Kind: 'C', Data: []byte("h")}, `> C raw "h"`},
		{rig.Packet{From: '>', Kind: 'C', Data: []byte("h\x004\x00\x19")}, `> C raw "h\x004\x00\x19"`},
		{rig.Packet{From: '>', Kind: 'B', Data: []byte("x\x00")}, `> B raw "x\x00"`},
		{rig.Packet{From: '>', Kind: 'O', Data: []byte("\x00\x00\x00\x06\x00\x00\x01\xff\x00\x1f\xff\xff")}, `> O 6 000001ff 001fffff`},
		{rig.Packet{From: '<', Kind: 'O', Data: []byte("\x00\x00\x00\x06\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x02i j\x00")}, `< O 6 00000100 00000000 2 "i j"`},
		{rig.Packet{From: '<', Kind: 'O', Data: []byte("\x00")}, `< O raw "\x00"`},
		{rig.Packet{From: '<', Kind: 'm', Data: []byte("\x00\x00\x00\x01Subject\x00\x00")}, `< m 1 "Subject" ""`},
		{rig.Packet{From: '<', Kind: 'y', Data: []byte("550 5.7.1 no\x00")}, `< y "550 5.7.1 no"`},
	} {
		if got := c.p.String(); got != c.line {
			t.Errorf("text %s, want %s", got, c.line)
			continue
		}
		s := parse(t, c.line)
		if len(s) != 1 || s[0].From != c.p.From || s[0].Kind != c.p.Kind || string(s[0].Data) != string(c.p.Data) {
			t.Errorf("%s: parsed %q, want %q", c.line, s, c.p.Data)
		}
	}
	for _, bad := range []string{"x", ">M", "? M", `> M "open`, "> M word", "> O 6 xyz 0", `> C "h" 4 70000 "a"`, "> B raw", `> B raw "a" "b"`} {
		if s, err := rig.ParseSession(strings.NewReader(bad)); err == nil {
			t.Errorf("%s: parsed as %s, want an error", bad, s)
		}
	}
}

func TestReadPacket(t *testing.T) {
	for _, c := range []struct {
		wire string
		want error // nil: any error
	}{
		{"", io.EOF},
		{"\x00\x00", io.ErrUnexpectedEOF},
		{"\x00\x00\x00\x05M", io.ErrUnexpectedEOF},
		{"\x00\x00\x00\x05", io.ErrUnexpectedEOF},
		{"\x00\x00\x00\x00", nil},
		{"\xff\xff\xff\xffM", nil},
	} {
		_, err := rig.ReadPacket(strings.NewReader(c.wire), rig.FromMTA)
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%q: %v, want %v", c.wire, err, c.want)
		}
	}
}

func TestTap(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	tap, err := rig.NewTap("inet:127.0.0.1:0", "inet:"+l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer tap.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go answer(c, lean)
		}
	}()
	text, err := os.ReadFile(filepath.Join(sessionDir, "postfix-reject.session"))
	if err != nil {
		t.Fatal(err)
	}
	s := parse(t, string(text))
	for range 2 {
		c, err := net.Dial("tcp", tap.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := rig.Play(patient(t), c, s); err != nil {
			t.Error(err)
		}
		c.Close()
	}
	if err := tap.Wait(patient(t), 2); err != nil {
		t.Fatal(err)
	}
	for _, seen := range tap.Sessions() {
		if seen.String() != s.String() {
			t.Errorf("seen:\n%s\nwant:\n%s", seen, s)
		}
	}
	// A connection that stays open doesn't keep Close from ending.
	c, err := net.Dial("tcp", tap.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := rig.Play(patient(t), c, s[:1]); err != nil {
		t.Fatal(err)
	}
	if err := tap.Close(); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "127.0.0.1:1", "tcp:127.0.0.1:1"} {
		if tap, err := rig.NewTap(bad, "inet:127.0.0.1:1"); err == nil {
			tap.Close()
			t.Errorf("listens at %q", bad)
		}
	}
}
