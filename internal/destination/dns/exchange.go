package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	miekg "github.com/miekg/dns"
)

const (
	// ednsSize is what fits one unfragmented packet on every path (DNS flag day 2020).
	ednsSize = 1232
	// readSize takes what a careless resolver sends beyond it.
	readSize = 4096
)

var (
	errMalformed = errors.New("malformed answer")
	errMismatch  = errors.New("answer to another question")
	errTruncated = errors.New("answer truncated over TCP")
)

// query puts a question until an answer comes or the tries are used up. What an
// answer says, SERVFAIL too, is final: the resolver has done its own tries.
// When ctx has ended, what tries are left fail at once.
func (r *Resolver) query(ctx context.Context, name string, qtype uint16) (*miekg.Msg, error) {
	var err error
	for range r.tries {
		var m *miekg.Msg
		if m, err = r.try(ctx, name, qtype); err == nil {
			return m, nil
		}
	}
	return nil, err
}

// try asks once over UDP, and over TCP when the answer doesn't fit (RFC 7766, section 5).
func (r *Resolver) try(ctx context.Context, name string, qtype uint16) (*miekg.Msg, error) {
	q := new(miekg.Msg).SetQuestion(name, qtype)
	// RFC 6840, section 5.8: DO asks for AD too.
	q.SetEdns0(ednsSize, r.dnssec)
	for _, network := range []string{"udp", "tcp"} {
		m, err := r.exchange(ctx, network, q)
		if err != nil || !m.Truncated {
			return m, err
		}
	}
	return nil, fmt.Errorf("asking %s: %w", r.server, errTruncated)
}

// exchange returns the answer to q, or a message of which only Truncated counts.
func (r *Resolver) exchange(ctx context.Context, network string, q *miekg.Msg) (*miekg.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	m, ignored, err := r.converse(ctx, network, q)
	switch {
	case err == nil:
		return m, nil
	case ctx.Err() == nil:
		return nil, fmt.Errorf("asking %s over %s: %w", r.server, network, err)
	case ignored > 0:
		return nil, fmt.Errorf("asking %s over %s: %d answers to other questions: %w", r.server, network, ignored, ctx.Err())
	}
	return nil, fmt.Errorf("asking %s over %s: %w", r.server, network, ctx.Err())
}

// converse sends q and reads until its answer comes. ignored counts the datagrams that were not it.
func (r *Resolver) converse(ctx context.Context, network string, q *miekg.Msg) (m *miekg.Msg, ignored int, err error) {
	var dialer net.Dialer
	sock, err := dialer.DialContext(ctx, network, r.server)
	if err != nil {
		return nil, 0, err
	}
	defer sock.Close()
	// The context ends every read and write, whether its time runs out or its owner leaves.
	stop := context.AfterFunc(ctx, func() { _ = sock.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	conn := &miekg.Conn{Conn: sock, UDPSize: readSize}
	if err := conn.WriteMsg(q); err != nil {
		return nil, 0, err
	}
	for {
		p, err := conn.ReadMsgHeader(nil)
		if err == nil {
			m, err = parse(p, q)
		}
		switch {
		case err == nil:
			return m, ignored, nil
		// A datagram that is not the answer may be a forger's: it must not end the wait for the true one
		// (RFC 5452, section 9.1). On a TCP connection nobody else speaks.
		case network == "udp" && (errors.Is(err, errMismatch) || errors.Is(err, miekg.ErrShortRead)):
			ignored++
		default:
			return nil, ignored, err
		}
	}
}

// parse reads p as an answer to q: errMismatch when it is none, errMalformed when it is one and can't be read. Of a
// truncated message only the header counts.
func parse(p []byte, q *miekg.Msg) (*miekg.Msg, error) {
	m := new(miekg.Msg)
	err := m.Unpack(p)
	if m.Id != q.Id || !m.Response || m.Opcode != miekg.OpcodeQuery {
		return nil, errMismatch
	}
	if m.Truncated {
		return m, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errMalformed, err)
	}
	// The library reads a message that ends early as one with fewer records. Here that would make a broken answer
	// say "no data".
	for i, n := range []int{len(m.Question), len(m.Answer), len(m.Ns), len(m.Extra)} {
		if int(binary.BigEndian.Uint16(p[4+2*i:])) != n {
			return nil, fmt.Errorf("%w: fewer records than announced", errMalformed)
		}
	}
	if len(m.Question) == 0 && m.Rcode != miekg.RcodeSuccess && m.Rcode != miekg.RcodeNameError {
		return m, nil // some resolvers refuse without repeating the question
	}
	if len(m.Question) != 1 || m.Question[0].Qtype != q.Question[0].Qtype ||
		m.Question[0].Qclass != q.Question[0].Qclass || !strings.EqualFold(m.Question[0].Name, q.Question[0].Name) {
		return nil, errMismatch
	}
	return m, nil
}
