package instance

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"tlsonly/internal/contract"
)

// Why nobody, or somebody else, answers. Every error of Milter and Map is one
// of these.
var (
	ErrNobody   = errors.New("nobody listens")
	ErrSilent   = errors.New("it takes connections, but says nothing")
	ErrProtocol = errors.New("another program answers, in another protocol")
	ErrStranger = errors.New("another program answers")
)

// patience is how long one answer may take.
const patience = 5 * time.Second

// maxAnswer is the longest packet or netstring that is read; an answer is far
// below.
const maxAnswer = 64 << 10

// Milter asks who answers as a milter at an address, in the words of net.Dial.
// It negotiates as Postfix does and ends the session in order. Errors:
// ErrStranger is another milter.
func Milter(ctx context.Context, network, address string) (Identity, error) {
	return query(ctx, network, address, func(conn net.Conn) (Identity, error) {
		// SMFIC_OPTNEG: version 6, all actions, all steps.
		options := []byte("O\x00\x00\x00\x06\x00\x00\x01\xff\x00\x1f\xff\xff")
		if err := writePacket(conn, options); err != nil {
			return Identity{}, err
		}
		packet, err := readPacket(conn)
		if err != nil {
			return Identity{}, err
		}
		if packet[0] != 'O' || len(packet) < 13 {
			return Identity{}, fmt.Errorf("%w: %q", ErrProtocol, start(packet))
		}
		defer func() { _ = writePacket(conn, []byte("Q")) }()
		const noReply = 1 << 17 // SMFIP_NR_UNKN, which ours never asks for
		if binary.BigEndian.Uint32(packet[9:])&noReply != 0 {
			return Identity{}, fmt.Errorf("%w: another milter", ErrStranger)
		}
		nonce := nonce()
		if err := writePacket(conn, []byte("U"+command+nonce+"\x00")); err != nil {
			return Identity{}, fmt.Errorf("%w: another milter", ErrStranger)
		}
		// SMFIR_REPLYCODE: "code enhanced text" NUL.
		packet, err = readPacket(conn)
		if err == nil && packet[0] == 'y' {
			words := strings.SplitN(strings.TrimRight(string(packet[1:]), "\x00"), " ", 3)
			if i, ok := parse(words[len(words)-1], nonce); ok {
				return i, nil
			}
		}
		return Identity{}, fmt.Errorf("%w: another milter", ErrStranger)
	})
}

// Map asks who answers as a socket map at an address. Errors: ErrStranger is
// another server of socket maps.
func Map(ctx context.Context, network, address string) (Identity, error) {
	return query(ctx, network, address, func(conn net.Conn) (Identity, error) {
		nonce := nonce()
		question := string(contract.MapIdentify) + " " + nonce
		if _, err := fmt.Fprintf(conn, "%d:%s,", len(question), question); err != nil {
			return Identity{}, err
		}
		answer, err := readNetstring(conn)
		if err != nil {
			return Identity{}, err
		}
		status, value, _ := strings.Cut(answer, " ")
		if i, ok := parse(value, nonce); ok && status == "OK" {
			return i, nil
		}
		switch status {
		case "OK", "NOTFOUND", "TEMP", "TIMEOUT", "PERM":
			return Identity{}, fmt.Errorf("%w: another server of socket maps, which says %q", ErrStranger, start([]byte(answer)))
		}
		return Identity{}, fmt.Errorf("%w: %q", ErrProtocol, start([]byte(answer)))
	})
}

// IsMilter reports whether this daemon answers as a milter at an endpoint in
// Postfix's words, "inet:host:port" or "unix:path" with the whole path. Where
// somebody else answers, err is nil if it is a milter.
func (i Identity) IsMilter(ctx context.Context, endpoint string) (ours bool, err error) {
	network, address, ok := strings.Cut(endpoint, ":")
	switch {
	case !ok || network != "inet" && network != "unix":
		return false, fmt.Errorf(`endpoint %q: want "inet:host:port" or "unix:path"`, endpoint)
	case network == "inet":
		network = "tcp"
	}
	found, err := Milter(ctx, network, address)
	if errors.Is(err, ErrStranger) {
		return false, nil
	}
	return err == nil && found.Same(i), err
}

// query connects, converses, and says what went wrong in the errors above.
func query(ctx context.Context, network, address string, converse func(net.Conn) (Identity, error)) (Identity, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return Identity{}, fmt.Errorf("%w: %w", ErrNobody, err)
	}
	defer conn.Close()
	end, _ := ctx.Deadline()
	_ = conn.SetDeadline(end)
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	i, err := converse(conn)
	switch {
	case err == nil, errors.Is(err, ErrProtocol), errors.Is(err, ErrStranger):
		return i, err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return i, ErrSilent
	}
	// It hung up, at once or on what it doesn't understand.
	return i, fmt.Errorf("%w: %w", ErrProtocol, err)
}

func writePacket(w io.Writer, data []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(data))), data...)) // #nosec G115 -- it is short
	return err
}

// readPacket reads one packet of the milter protocol: a length of four octets, a
// command, data. It skips those that only say that work goes on.
func readPacket(r io.Reader) ([]byte, error) {
	for {
		var header [4]byte
		if n, err := io.ReadFull(r, header[:]); err != nil && n > 0 {
			return nil, fmt.Errorf("%w: %q", ErrProtocol, header[:n])
		} else if err != nil {
			return nil, err
		}
		length := binary.BigEndian.Uint32(header[:])
		if length == 0 || length > maxAnswer {
			return nil, fmt.Errorf("%w: %q", ErrProtocol, header)
		}
		packet := make([]byte, length)
		if n, err := io.ReadFull(r, packet); err != nil {
			return nil, fmt.Errorf("%w: %q", ErrProtocol, start(packet[:n]))
		}
		if packet[0] != 'p' { // SMFIR_PROGRESS
			return packet, nil
		}
	}
}

func readNetstring(r io.Reader) (string, error) {
	length := 0
	for read := 0; ; read++ {
		var b [1]byte
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return "", err
		}
		if b[0] == ':' && read > 0 {
			break
		}
		if b[0] < '0' || b[0] > '9' || length > maxAnswer/10 {
			return "", fmt.Errorf("%w: it begins with %q", ErrProtocol, b)
		}
		length = 10*length + int(b[0]-'0')
	}
	text := make([]byte, length+1)
	if n, err := io.ReadFull(r, text); err != nil {
		return "", fmt.Errorf("%w: %q", ErrProtocol, start(text[:n]))
	}
	if text[length] != ',' {
		return "", fmt.Errorf("%w: %q", ErrProtocol, start(text))
	}
	return string(text[:length]), nil
}

// start is as much of an answer as one line of a finding has room for.
func start(b []byte) []byte { return b[:min(len(b), 60)] }
