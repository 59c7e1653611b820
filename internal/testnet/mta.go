package testnet

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// MTA is the MTA's end of a milter connection, as small as can be: for load, and for asking one thing. What real MTAs say is
// recorded and played by package rig.
type MTA struct {
	conn net.Conn
	in   *bufio.Reader
}

// mtaPatience is how long an answer may take before that is an error; longer than any deadline of a milter.
const mtaPatience = time.Minute

// DialMilter connects to a milter at host:port, or at the path of a Unix socket, and negotiates. The caller closes the MTA.
func DialMilter(address string) (*MTA, error) {
	network := "tcp"
	if strings.HasPrefix(address, "/") {
		network = "unix"
	}
	conn, err := net.Dial(network, address)
	if err != nil {
		return nil, err
	}
	m := &MTA{conn: conn, in: bufio.NewReader(conn)}
	// Version 6, with all actions and all that a milter may leave out.
	got, err := m.Say('O', "\x00\x00\x00\x06\x00\x00\x01\xff\x00\x1f\xff\xff")
	if err == nil && got[0] != 'O' {
		err = fmt.Errorf("negotiation answered with %q", got)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return m, nil
}

// Close ends the connection without a word.
func (m *MTA) Close() error { return m.conn.Close() }

// Mail begins a message, giving up the one before. The answer is "c" for one that is looked at, "a" for one that isn't.
func (m *MTA) Mail(from string) (string, error) {
	if err := m.write('A', ""); err != nil {
		return "", err
	}
	return m.Say('M', "<"+from+">\x00")
}

// Rcpt asks for one recipient. The answer is "c", or "y" with the reply to the client.
func (m *MTA) Rcpt(to string) (string, error) { return m.Say('R', "<"+to+">\x00") }

// Ask begins a message with one recipient and returns the answer to that.
func (m *MTA) Ask(from, to string) (string, error) {
	got, err := m.Mail(from)
	if err == nil && got != "c" {
		err = fmt.Errorf("MAIL FROM:<%s> answered with %q", from, got)
	}
	if err != nil {
		return "", err
	}
	return m.Rcpt(to)
}

// Say sends a packet and returns the kind of the answer with its data, without the NUL at its end.
func (m *MTA) Say(code byte, data string) (string, error) {
	if err := m.write(code, data); err != nil {
		return "", err
	}
	var head [4]byte
	if _, err := io.ReadFull(m.in, head[:]); err != nil {
		return "", err
	}
	length := binary.BigEndian.Uint32(head[:])
	if length == 0 || length > 1<<20 {
		return "", fmt.Errorf("answer of %d octets", length)
	}
	text := make([]byte, length)
	if _, err := io.ReadFull(m.in, text); err != nil {
		return "", err
	}
	return strings.TrimSuffix(string(text), "\x00"), nil
}

func (m *MTA) write(code byte, data string) error {
	if err := m.conn.SetDeadline(time.Now().Add(mtaPatience)); err != nil {
		return err
	}
	packet := binary.BigEndian.AppendUint32(nil, uint32(len(data)+1))
	_, err := m.conn.Write(append(append(packet, code), data...))
	return err
}
