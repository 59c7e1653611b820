package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"tlsonly/internal/received"
)

// receivedAnswer is the answer of received --json.
type receivedAnswer struct {
	Security received.Security `json:"security"` // of the whole way: tls, clear or unknown
	received.Chain
}

func (p *program) received(_ context.Context, args []string) int {
	fs := flag.NewFlagSet("received", flag.ContinueOnError)
	asJSON := fs.Bool("json", false, "answer in JSON")
	rest, code, ok := p.parse(fs, args)
	if !ok {
		return code
	}
	if len(rest) != 1 {
		return p.fail("received needs one FILE with a message or its header, or - for standard input")
	}
	in, name := p.stdin, "standard input"
	if rest[0] != "-" {
		f, err := os.Open(rest[0])
		if err != nil {
			return p.fail("%v", err)
		}
		defer f.Close()
		in, name = f, rest[0]
	}
	chain, err := received.Read(in)
	if err != nil {
		return p.fail("%s: %v", name, err)
	}
	answer := receivedAnswer{chain.Security(), chain}
	if *asJSON {
		_ = p.answer(answer)
	} else {
		answer.print(p.stdout, terminal(p.stdout))
	}
	switch answer.Security {
	case received.Clear:
		return exitNo
	case received.Unknown:
		return exitUnknown
	}
	return exitOK
}

func (a receivedAnswer) print(w io.Writer, colour bool) {
	if len(a.Hops) == 0 {
		fmt.Fprintln(w, "no Received: header, so nothing is known of the way of this message")
		return
	}
	for i, h := range a.Hops {
		what, hue := string(h.Security), green
		switch h.Security {
		case received.Encrypted:
			what = strings.TrimSpace("TLS " + h.Version.String())
		case received.Clear:
			what, hue = "CLEAR", red
		case received.Unknown:
			hue = yellow
		}
		fmt.Fprintf(w, "%2d  %s  %s", i+1, paint(colour, hue, fmt.Sprintf("%-7s", what)), hopName(h))
		if !h.Time.IsZero() {
			fmt.Fprintf(w, "  %s", h.Time.Format(time.RFC3339))
		}
		if h.Cipher != "" {
			fmt.Fprintf(w, "  %s", printable(h.Cipher))
			if h.Bits > 0 {
				fmt.Fprintf(w, " %d bits", h.Bits)
			}
		}
		fmt.Fprintf(w, "\n             %s", printable(h.Known))
		if h.Problem != "" {
			fmt.Fprintf(w, ": %s", printable(h.Problem))
		}
		fmt.Fprintln(w)
	}
	if a.Weakest < 0 {
		fmt.Fprintln(w, "the message never left one machine")
		return
	}
	verdict := map[received.Security]string{
		received.Encrypted: paint(colour, green, "every hop between machines was encrypted"),
		received.Clear:     paint(colour, red, "at least one hop was in the clear"),
		received.Unknown:   paint(colour, yellow, "for at least one hop it is not known"),
	}[a.Security]
	fmt.Fprintf(w, "%s; the weakest is %d, %s\n", verdict, a.Weakest+1, hopName(a.Hops[a.Weakest]))
}

// hopName says from where to where a hop went.
func hopName(h received.Hop) string {
	from := printable(h.From)
	if h.Address.IsValid() && !strings.Contains(from, h.Address.String()) {
		from = strings.TrimSpace(from + " [" + h.Address.String() + "]")
	}
	by := printable(h.By)
	switch {
	case from == "" && by == "":
		return "(nobody named)"
	case from == "":
		return "by " + by
	case by == "":
		return "from " + from
	}
	return from + " -> " + by
}

// printable keeps what a stranger wrote from moving a terminal's cursor.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}
