package socketmap

import (
	"sync/atomic"

	"tlsonly/internal/contract"
)

// Map is a map as Stats count it. Those of all classes count as one.
type Map = contract.Map

// The maps.
const (
	MapSender      = contract.MapSender
	MapForced      = contract.MapForced
	MapPolicy      = contract.MapPolicy
	MapTLSRcpt     = contract.MapTLSRcpt
	MapReport      = contract.MapReport
	MapUnknown Map = "unknown" // no such map, or no key
)

// Answer is the kind of an answer.
type Answer string

// The answers. Pass, defer and reject are those of tls_rcpt, free and wait those
// of tls_report.
const (
	AnswerOK       Answer = "ok"
	AnswerNotFound Answer = "notfound"
	AnswerTemp     Answer = "temp"
	AnswerPass     Answer = "pass"
	AnswerDefer    Answer = "defer"
	AnswerReject   Answer = "reject"
	AnswerFree     Answer = "free"
	AnswerWait     Answer = "wait"
)

// Requests says how many questions to a map got an answer.
type Requests struct {
	Map    Map
	Answer Answer
	Count  uint64
}

// Stats are a server's counters.
type Stats struct {
	Requests    []Requests // every pair that there can be, in a fixed order
	Open        int        // connections now
	Connections uint64     // connections ever
	Refused     uint64     // closed at once, because there were too many
	Garbage     uint64     // closed, because no netstring came
	Panics      uint64     // recovered ones
}

// pairs lists what maps can be answered with.
func pairs() [14]Requests {
	return [14]Requests{
		{MapSender, AnswerOK, 0}, {MapSender, AnswerNotFound, 0},
		{MapForced, AnswerOK, 0}, {MapForced, AnswerNotFound, 0}, {MapForced, AnswerTemp, 0},
		{MapPolicy, AnswerOK, 0}, {MapPolicy, AnswerNotFound, 0}, {MapPolicy, AnswerTemp, 0},
		{MapTLSRcpt, AnswerPass, 0}, {MapTLSRcpt, AnswerDefer, 0}, {MapTLSRcpt, AnswerReject, 0},
		{MapReport, AnswerFree, 0}, {MapReport, AnswerWait, 0},
		{MapUnknown, AnswerTemp, 0},
	}
}

type counters struct {
	answers                               [14]atomic.Uint64 // as pairs lists them
	connections, refused, garbage, panics atomic.Uint64
}

func (c *counters) add(m Map, a Answer) {
	for i, p := range pairs() {
		if p.Map == m && p.Answer == a {
			c.answers[i].Add(1)
		}
	}
}

// Stats returns the counters.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	open := len(s.conns)
	s.mu.Unlock()
	requests := pairs()
	for i := range requests {
		requests[i].Count = s.counts.answers[i].Load()
	}
	return Stats{Requests: requests[:], Open: open, Connections: s.counts.connections.Load(), Refused: s.counts.refused.Load(),
		Garbage: s.counts.garbage.Load(), Panics: s.counts.panics.Load()}
}
