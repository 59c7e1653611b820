// Package maillog reads the logs of Postfix (3.4 to 3.11) and Sendmail and
// tells which message was delivered to whom, over which TLS or none. It answers
// what the logs say; which messages a rule protects, and what is a violation of
// it, is Audit's part, by package rules.
//
// A Reader takes lines in the order of time and joins three that Postfix and
// Sendmail write apart: the queue manager's, which names the sender; the one of
// the TLS session, which names no message; and the delivery. A Postfix client
// process works on one delivery at a time, so the session is that of its
// process, its host and its turn; a Sendmail process may come back to a cached
// connection. What is kept is bounded, however long a log is: queue ids,
// processes and machines are forgotten when they are many.
//
// A delivery without a line of TLS was in the clear only where such lines are
// written at all (smtp_tls_loglevel, Sendmail's LogLevel 9). So its state is
// Unknown until the same program of the same machine has written one, and again
// from where the MTA reads its configuration anew. A transport that "tlsonly
// setup" made has no other way than TLS, by its syslog_name postfix/tlsonlyN: a
// delivery by it is ByTransport where its log has no line of TLS.
//
// What isn't understood is counted and told: a line of an MTA without a time, and
// any line that could be a delivery. See Stats.
//
// SECURITY: a log is as true as who may write to it. Recipients and remote
// replies stand in it as their authors chose them; fields are found from the
// left, quoted strings being passed over, so that no recipient can forge what
// follows it. A line may have several headers, the innermost being the MTA's; so a
// program whose lines begin with what a stranger wrote can write one.
//
// BUGS: a log that lost lines, or had smtp_tls_loglevel taken back to 0 without
// a reload, shows deliveries in the clear that weren't. Two connections of one
// Postfix process, for one message and to one host, are told apart by their
// delays= only, which are rounded. Sendmail doesn't say when a cached
// connection ends: its TLS counts for ten minutes after it was last used. The short
// name of a zone, as journalctl -o short-full has it, is known only if it is one of
// Config.Zone's; another one's times are taken for that zone's.
package maillog

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"tlsonly/internal/policy"
)

// Outcome is what became of a message for one recipient, this time.
type Outcome string

// The outcomes.
const (
	Sent     Outcome = "sent"     // another host took it
	Here     Outcome = "here"     // delivered on this machine, or handed to another program of it
	Deferred Outcome = "deferred" // tried again later
	Bounced  Outcome = "bounced"
)

// Security is what is known of the connection that carried the text of a message.
type Security string

// The states; "" where no text left.
const (
	Encrypted Security = "tls"
	Clear     Security = "clear"
	Unknown   Security = "unknown" // no line of TLS, and no sign that the log would have had one
	// ByTransport: no line of TLS, and sent by a transport of tlsonly, which sends
	// in the clear only where a rule allows it.
	ByTransport Security = "by-transport"
	// Content: the message itself is encrypted, so that it needs no TLS; it is a
	// copy that the gateway has made.
	Content Security = "content"
)

// Trust is what the MTA made of the certificate, in Postfix's words; Sendmail's verify=OK is Trusted, for it doesn't look at
// the name, FAIL is Untrusted, and NO, no certificate at all, is Anonymous.
type Trust string

// The degrees.
const (
	Verified  Trust = "verified" // the certificate and the name, or DANE
	Trusted   Trust = "trusted"  // the certificate
	Untrusted Trust = "untrusted"
	Anonymous Trust = "anonymous"
)

// Session is the TLS of a connection, as far as the log tells: Postfix 3.11 may tell only that there was one.
type Session struct {
	Version policy.Version `json:"version,omitzero"`
	Cipher  string         `json:"cipher,omitempty"`
	Bits    int            `json:"bits,omitempty"`
	Trust   Trust          `json:"trust,omitempty"`
}

// Delivery is one attempt to deliver a message to one recipient.
type Delivery struct {
	Time    time.Time `json:"time"`
	Logger  string    `json:"logger,omitempty"` // the machine that wrote the line
	QueueID string    `json:"queue_id"`
	From    string    `json:"from"` // as logged, without brackets; "" is the empty sender
	User    string    `json:"user,omitempty"`
	To      string    `json:"to"`
	OrigTo  string    `json:"orig_to,omitempty"` // before aliases
	Relay   string    `json:"relay,omitempty"`   // as logged: name[address]:port, or Sendmail's name [address]
	Outcome Outcome   `json:"outcome"`
	// Security is set where the text of the message left, which it may have done in an attempt that failed afterwards.
	Security Security `json:"security,omitempty"`
	TLS      *Session `json:"tls,omitempty"`
	DSN      string   `json:"dsn,omitempty"`
	Detail   string   `json:"detail,omitempty"` // the reason, or the other host's reply

	msg *message
}

// Config says what to read. Wanted and Emit are needed.
type Config struct {
	// Wanted reports whether deliveries of this sender are asked for; from and user are as logged. It doesn't keep from.
	Wanted func(from []byte, user string) bool
	// Emit takes each wanted delivery, in the log's order. Its error ends the reading.
	Emit func(*Delivery) error
	// TLSLogged says that the MTA was set to log TLS: a delivery without such a line was in the clear.
	TLSLogged bool
	// Year is that of each source's first line, where its stamp has none; 0: the last one that isn't after ModTime.
	Year int
	// Zone is that of traditional time stamps; nil: the machine's.
	Zone *time.Location
	// Since and Until bound what is emitted, the first included and the second not; zero: nothing is.
	Since, Until time.Time
}

// Source is one log.
type Source struct {
	Name    string
	Lines   io.Reader
	ModTime time.Time // when the last line was written, about
}

// Stats are what was read of a source.
type Stats struct {
	Name  string    `json:"name"`
	Lines int64     `json:"lines"`
	Bytes int64     `json:"bytes"`
	First time.Time `json:"first,omitzero"` // times of its first and last line
	Last  time.Time `json:"last,omitzero"`
	// Of the lines: those of Postfix and Sendmail that were understood, those that
	// weren't or could be deliveries, and those of others. They add up to Lines.
	Mail   int64 `json:"mail_lines"`
	Missed int64 `json:"not_understood"`
	Others int64 `json:"other_lines"`
	// Examples are the first of those that weren't understood.
	Examples []Missed `json:"examples,omitempty"`
	Forms    []Form   `json:"forms,omitempty"` // of the lines of Postfix and Sendmail

	filled bool // some line is neither empty nor journalctl's "-- No entries --"
}

// Unread reports whether a source has lines, and no time of one could be read.
func (s *Stats) Unread() bool { return s.filled && s.First.IsZero() }

// Without reports whether a source has lines, but none of Postfix or Sendmail that was
// understood.
func (s *Stats) Without() bool { return s.filled && s.Mail == 0 }

// Reader reads sources one after the other.
type Reader struct {
	config    Config
	clock     clock
	hosts     interned
	messages  generations[queueKey, *message]
	processes generations[processKey, *process]
	witnesses map[witnessKey]*witness
	skipped   int64 // deliveries to other hosts whose sender isn't known

	line struct {
		*header
		host   uint32
		at     time.Time // of a delivery
		missed string    // why it isn't understood
	}
}

// Limits of what is remembered. Two generations of each are kept.
const (
	maxMessages  = 100_000
	maxProcesses = 20_000
	maxHosts     = 10_000
	lineSize     = 256 << 10 // longer lines are passed over
)

// New returns a Reader.
func New(c Config) *Reader {
	if c.Zone == nil {
		c.Zone = time.Local
	}
	return &Reader{
		config:    c,
		messages:  newGenerations[queueKey, *message](maxMessages),
		processes: newGenerations[processKey, *process](maxProcesses),
		hosts:     interned{known: map[string]uint32{}},
		witnesses: map[witnessKey]*witness{},
	}
}

// Senderless returns how many deliveries to other hosts had a sender that isn't in what was read.
func (r *Reader) Senderless() int64 { return r.skipped }

// Read reads a source to its end. Sources come in the order of time; see Order.
func (r *Reader) Read(ctx context.Context, s Source) (Stats, error) {
	stats := Stats{Name: s.Name}
	r.clock = clock{zone: r.config.Zone, year: r.config.Year, last: s.ModTime}
	in := entries{in: bufio.NewReaderSize(s.Lines, lineSize)}
	for n := 0; ; n++ {
		err := in.next()
		stats.Bytes += in.bytes
		if errors.Is(err, io.EOF) {
			if !stats.First.IsZero() {
				stats.Last = r.clock.latest()
			}
			return stats, nil
		}
		if err != nil {
			return stats, fmt.Errorf("read %s: %w", s.Name, err)
		}
		if n&0xfff == 0xfff && ctx.Err() != nil {
			return stats, ctx.Err()
		}
		if err := r.take(&in, &stats); err != nil {
			return stats, err
		}
	}
}

// take works on an entry.
func (r *Reader) take(e *entries, stats *Stats) error {
	at := stats.Lines + 1
	stats.Lines += e.lines
	r.line.header, r.line.missed = &e.h, ""
	h := r.line.header
	if !stats.filled {
		text := bytes.TrimSpace(e.line)
		stats.filled = len(text) > 0 && !(bytes.HasPrefix(text, []byte("-- ")) && bytes.HasSuffix(text, []byte(" --")))
	}
	switch {
	case e.long:
		if looksMailed(e.line) {
			r.line.missed = tooLong
		}
	case !e.ok:
		if looksMailed(e.line) {
			r.line.missed = noForm
		}
	case h.stamp == nil:
		if h.mta != other || looksMailed(e.line) {
			r.line.missed = noTime
		}
	case !r.clock.see(h.stamp):
		if h.mta != other || looksMailed(e.line) {
			r.line.missed = badTime
		}
	default:
		if stats.First.IsZero() {
			stats.First, _ = r.clock.time(h.stamp)
		}
		if h.mta != other {
			stats.form(h.form)
		}
		if err := r.entry(); err != nil {
			return err
		}
		if r.line.missed != "" && !r.inPeriod() {
			r.line.missed = ""
		}
	}
	switch {
	case r.line.missed != "":
		stats.miss(at, e.lines, e.line, r.line.missed)
	case e.ok && h.mta != other:
		stats.Mail += e.lines
	default:
		stats.Others += e.lines
	}
	return nil
}

// entry works on a line whose header could be read.
func (r *Reader) entry() error {
	h := r.line.header
	switch {
	case h.mta == other && couldDeliver(h.text):
		r.line.missed = noProgram
	case h.mta == other:
	case h.lost != "":
		r.line.missed = h.lost
	case h.mta == sendmail:
		return r.sendmail(h.text)
	case len(h.program) == 0:
		return r.postfix(programOf(h.text), h.text)
	default:
		return r.postfix(h.program, h.text)
	}
	return nil
}

// inPeriod reports whether the line's time is one that was asked for, or not known.
func (r *Reader) inPeriod() bool {
	at, ok := r.clock.time(r.line.stamp)
	return !ok || r.between(at)
}

func (r *Reader) between(at time.Time) bool {
	return (r.config.Since.IsZero() || !at.Before(r.config.Since)) && (r.config.Until.IsZero() || at.Before(r.config.Until))
}

// timed reads the time of a line that is a delivery.
func (r *Reader) timed() bool {
	var ok bool
	if r.line.at, ok = r.clock.time(r.line.stamp); !ok {
		r.line.missed = badTime
	}
	return ok
}

// emit has a delivery emitted.
func (r *Reader) emit(d *Delivery) error {
	if d.Time = r.line.at; !r.between(d.Time) {
		return nil
	}
	return r.config.Emit(d)
}
