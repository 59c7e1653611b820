package milter

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestDialogues runs the sessions of testdata/milter/*.txt, packet by packet. A line is
//
//	> CODE WORD…   the MTA sends a packet; each word (Go-quoted where it must be) goes out with a NUL
//	< CODE WORD…   the next packet we answer, written the same way; < close: the connection ends
//	= TEXT         a line of the log that has not been matched yet contains all of these words
//	- TEXT         no line of the log contains this text
//	# …            nothing
//
// Files that begin with inbound run with the rules of withInbound, too.
//
// D takes the command it is for as its first word's first letter ("> DM i 4711"), O three numbers, y is one text.
func TestDialogues(t *testing.T) {
	files, err := filepath.Glob("../testdata/milter/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no dialogues found: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var change func(*Config)
			if strings.HasPrefix(filepath.Base(file), "inbound") {
				change = withInbound
			}
			b := start(t, change)
			runDialogue(t, b, file, string(text))
		})
	}
}

func runDialogue(t *testing.T, b *bench, file, text string) {
	c := b.dial(t)
	in := bufio.NewReader(c)
	matched := map[int]bool{}
	for i, line := range strings.Split(text, "\n") {
		at := fmt.Sprintf("%s:%d: ", filepath.Base(file), i+1)
		kind, rest, _ := strings.Cut(strings.TrimRight(line, " "), " ")
		switch kind {
		case "", "#":
		case ">":
			p, err := encodePacket(rest)
			if err != nil {
				t.Fatalf("%s%v", at, err)
			}
			if _, err := c.Write(p); err != nil {
				t.Fatalf("%s%v", at, err)
			}
		case "<":
			got, err := readPacketText(in)
			if rest == "close" && err != nil {
				continue
			}
			if err != nil || got != rest {
				t.Fatalf("%sgot  < %s (%v)\nwant < %s\nlog:\n%s", at, got, err, rest, b.log)
			}
		case "=":
			if !waitLog(b, rest, matched) {
				t.Fatalf("%sno log line has %q:\n%s", at, rest, b.log)
			}
		case "-":
			if strings.Contains(b.log.String(), rest) {
				t.Fatalf("%slog has %q:\n%s", at, rest, b.log)
			}
		default:
			t.Fatalf("%sline not understood: %s", at, line)
		}
	}
}

// waitLog looks for a line that has all words; the server may still be writing it.
func waitLog(b *bench, words string, matched map[int]bool) bool {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
	lines:
		for i, line := range strings.Split(b.log.String(), "\n") {
			if matched[i] {
				continue
			}
			for word := range strings.FieldsSeq(words) {
				if !strings.Contains(line, word) {
					continue lines
				}
			}
			matched[i] = true
			return true
		}
	}
	return false
}

func frame(code byte, data []byte) []byte {
	p := binary.BigEndian.AppendUint32(nil, uint32(len(data)+1))
	return append(append(p, code), data...)
}

func encodePacket(text string) ([]byte, error) {
	words, err := splitWords(text)
	if err != nil {
		return nil, err
	}
	code, data := words[0][0], []byte(words[0][1:])
	switch code {
	case 'O':
		for _, w := range words[1:] {
			n, err := strconv.ParseUint(w, 0, 32)
			if err != nil {
				return nil, err
			}
			data = binary.BigEndian.AppendUint32(data, uint32(n))
		}
	default:
		for _, w := range words[1:] {
			data = append(append(data, w...), 0)
		}
	}
	return frame(code, data), nil
}

func splitWords(s string) ([]string, error) {
	var words []string
	for s = strings.TrimLeft(s, " "); s != ""; s = strings.TrimLeft(s, " ") {
		if s[0] != '"' {
			word, rest, _ := strings.Cut(s, " ")
			words, s = append(words, word), rest
			continue
		}
		quoted, err := strconv.QuotedPrefix(s)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s, err)
		}
		word, err := strconv.Unquote(quoted)
		if err != nil {
			return nil, err
		}
		words, s = append(words, word), s[len(quoted):]
	}
	return words, nil
}

// readPacketText reads one of our packets and writes it as a dialogue does.
func readPacketText(r io.Reader) (string, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return "", err
	}
	p := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(r, p); err != nil {
		return "", err
	}
	code, data := p[0], p[1:]
	text := string(code)
	number := func() {
		text += fmt.Sprintf(" %#x", binary.BigEndian.Uint32(data))
		data = data[4:]
	}
	switch code {
	case 'O':
		number()
		number()
		number()
		for len(data) > 4 {
			number()
			list, rest, _ := strings.Cut(string(data), "\x00")
			text += fmt.Sprintf(" %q", list)
			data = []byte(rest)
		}
		return text, nil
	case 'y':
		return text + " " + strings.TrimSuffix(string(data), "\x00"), nil
	case 'm', 'i':
		number()
	}
	if len(data) == 0 {
		return text, nil
	}
	for i, w := range strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00") {
		if i == 0 && !strings.ContainsAny(w, " \n") {
			text += " " + w
		} else {
			text += " " + strconv.Quote(w)
		}
	}
	return text, nil
}

// talk is a dialogue within a test.
func talk(t *testing.T, b *bench, c net.Conn, lines ...string) {
	t.Helper()
	for _, line := range lines {
		switch {
		case strings.HasPrefix(line, "> "):
			p, err := encodePacket(line[2:])
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Write(p); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
		case strings.HasPrefix(line, "< "):
			got, err := readPacketText(c)
			if line == "< close" && err != nil {
				continue
			}
			if err != nil || got != line[2:] {
				t.Fatalf("got  < %s (%v)\nwant %s\nlog:\n%s", got, err, line, b.log)
			}
		default:
			t.Fatalf("line not understood: %s", line)
		}
	}
}
