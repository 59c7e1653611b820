// Package clienthello finds out what TLS an MTA offers, by letting its own client
// speak to a mail host of ours: on loopback, over no network, and without mail.
//
// The host offers STARTTLS, reads the client's hello, and chooses Diffie-Hellman
// with a small prime, which the hello doesn't tell of; what the client says to
// that ends the session. It is the MTA's library, with its settings
// and its configuration, that answers; nothing is assumed of either.
//
// It starts no programs and knows no MTA: the caller runs the client.
package clienthello

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"tlsonly/internal/policy"
	"tlsonly/internal/profile"
)

// patience is how long a client may take, from its start to what is asked of it.
const patience = 15 * time.Second

// Of has run start a client that goes to a mail host at address, "127.0.0.1:4711",
// with TLS, and returns what it offers. run is called more than once; it returns
// when the client ends, or soon after ctx does. Its error tells why a client said
// no hello; after one it doesn't count. MinDH is 0 where it can't be found out.
func Of(ctx context.Context, run func(ctx context.Context, address string) error) (profile.TLS, error) {
	least, refused := 0, 0
	var first *hello
	for _, size := range []int{1024, 2048, 1536, 3072, 768} {
		if least > 0 && size > least || size < refused {
			continue // known by what was taken or refused
		}
		h, took, err := converse(ctx, choice{policy.TLS12, size}, run)
		if first == nil && err != nil {
			return profile.TLS{}, err
		}
		if first == nil {
			first = h
		}
		if took == taken {
			least = size
		} else if took == declined {
			refused = size
		} else {
			break
		}
	}
	found := first.offers
	if found.MinDH = least; least == 0 && refused > 0 {
		found.MinDH = refused + 1 // it took none
	}
	if first.told {
		return found, nil
	}
	// An old form of hello has its highest version only.
	found.Versions = nil
	for v := policy.TLS10; v <= first.highest; v++ {
		if v < first.highest {
			if _, took, err := converse(ctx, choice{v, 2048}, run); err != nil || took == otherVersion {
				continue
			}
		}
		found.Versions = append(found.Versions, v)
	}
	return found, nil
}

// choice is what the host chooses.
type choice struct {
	version policy.Version
	size    int // of the prime, in bits
}

// verdict is what a client says to a choice.
type verdict int

const (
	untold verdict = iota
	taken
	declined
	otherVersion
)

// converse has one client come, and tells what it offers and what it says to a choice.
func converse(ctx context.Context, c choice, run func(ctx context.Context, address string) error) (*hello, verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, untold, err
	}
	context.AfterFunc(ctx, func() { l.Close() })
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, l.Addr().String())
		l.Close() // nobody comes any more
	}()
	var seen *hello
	var took verdict
	for err = errNobody; seen == nil; {
		conn, failed := l.Accept()
		if failed != nil {
			break
		}
		seen, took, err = serve(ctx, conn, c)
		conn.Close()
	}
	cancel()
	if said := <-ended; err != nil && said != nil {
		err = fmt.Errorf("%w: %w", err, said)
	}
	return seen, took, err
}

var errNobody = errors.New("the client said no hello")

// serve is one session.
func serve(ctx context.Context, conn net.Conn, c choice) (*hello, verdict, error) {
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	in := bufio.NewReaderSize(io.LimitReader(conn, 64<<10), 4096)
	say := func(text string) { _, _ = io.WriteString(conn, text) } // a failed write shows in the next read
	for say("220 localhost ESMTP\r\n"); ; {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return nil, untold, fmt.Errorf("%w: %w", errNobody, err)
		}
		switch word, _, _ := strings.Cut(strings.ToUpper(strings.TrimSpace(string(line))), " "); word {
		case "EHLO":
			say("250-localhost\r\n250 STARTTLS\r\n")
		case "STARTTLS":
			say("220 2.0.0 go ahead\r\n")
			h, err := readHello(in)
			if err != nil {
				return nil, untold, err
			}
			flight, ok := h.answer(c)
			if !ok {
				return h, untold, nil
			}
			if _, err := conn.Write(flight); err != nil {
				return h, untold, nil
			}
			return h, judge(in), nil
		case "QUIT":
			say("221 2.0.0 bye\r\n")
			return nil, untold, errNobody
		default:
			say("502 5.5.1 not here\r\n")
		}
	}
}
