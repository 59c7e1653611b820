package maillog

import (
	"strings"
	"time"

	"tlsonly/internal/contract"
)

// generations is a map of bounded size: when the young half is full, what the old half still has is forgotten.
type generations[K comparable, V any] struct {
	young, old map[K]V
	limit      int
}

func newGenerations[K comparable, V any](limit int) generations[K, V] {
	return generations[K, V]{young: map[K]V{}, old: map[K]V{}, limit: limit}
}

// get finds a value and keeps it for another generation.
func (g *generations[K, V]) get(k K) (V, bool) {
	v, ok := g.young[k]
	if ok {
		return v, true
	}
	if v, ok = g.old[k]; ok {
		delete(g.old, k)
		g.put(k, v)
	}
	return v, ok
}

func (g *generations[K, V]) put(k K, v V) {
	if len(g.young) >= g.limit {
		g.young, g.old = g.old, g.young
		clear(g.young)
	}
	g.young[k] = v
}

func (g *generations[K, V]) drop(k K) {
	delete(g.young, k)
	delete(g.old, k)
}

// queueKey names a message: queue ids are unique on a machine.
type queueKey struct {
	host uint32
	size uint8
	id   [20]byte
}

// processKey names a process of a machine.
type processKey struct{ host, pid uint32 }

// message is what is known of a message in a queue.
type message struct {
	known   bool // the sender is
	wanted  bool
	counted bool // by Audit
	turn    uint32
	from    string
	user    string
}

// process is what is known of a process that delivers, or that takes mail in (Sendmail).
type process struct {
	sessions []session
	// Sendmail: the last login, and from where.
	login, client string
	// Sendmail: the parts of a long line, and how many there were.
	part  []byte
	parts uint32
}

// maxSessions is how many sessions of a process are remembered; Sendmail keeps a few connections open.
const maxSessions = 8

// session is a TLS session of a process. Postfix's belongs to the first message that is delivered after it.
type session struct {
	relay    []byte
	tls      Session
	used     time.Time // Sendmail
	assigned bool
	key      queueKey
	turn     uint32
	steps    []byte // Postfix: the first three of delays=, which all recipients of one connection share
}

// witnessKey names a program of a machine that would log TLS.
type witnessKey struct {
	host uint32
	tag  string
}

// witness remembers whether a program logs TLS.
type witness struct{ seen bool }

// witnessOf finds the witness for the line's program.
func (r *Reader) witnessOf() *witness {
	tag := r.line.tag
	if r.line.mta == sendmail {
		tag = nil // sm-mta, sendmail, sm-que: one setting is for all
	}
	if w := r.witnesses[witnessKey{r.line.host, string(tag)}]; w != nil {
		return w
	}
	if len(r.witnesses) >= maxHosts {
		clear(r.witnesses) // what was seen is seen again soon
	}
	w := &witness{seen: r.config.TLSLogged}
	r.witnesses[witnessKey{r.line.host, string(tag)}] = w
	return w
}

// logsTLS notes that the line's program does.
func (r *Reader) logsTLS() {
	w := r.witnessOf()
	w.seen = true
}

// unlogged is what a delivery without a line of TLS was.
func (r *Reader) unlogged() Security {
	ours := r.line.mta == postfix && ourTag(r.line.tag)
	switch {
	case r.line.pid == 0 && !ours:
		return Unknown // whose session it was can't be told
	case r.config.TLSLogged && r.line.pid != 0:
		return Clear
	case r.line.mta == postfix && len(r.line.program) == 0:
		return Unknown // any transport may have written it
	case ours:
		return ByTransport
	case r.witnessOf().seen:
		return Clear
	}
	return Unknown
}

// rereads forgets who logs TLS on the line's machine: its MTA reads its
// configuration anew. Of Postfix's instances that is the one whose tags begin with
// the prefix.
func (r *Reader) rereads(prefix []byte) {
	for key := range r.witnesses {
		if key.host == r.line.host && strings.HasPrefix(key.tag, string(prefix)) {
			delete(r.witnesses, key)
		}
	}
}

// ourTag reports whether a tag is that of a transport of tlsonly, as setup names it
// by syslog_name: that of the instance, the transport, and the program, as in
// "postfix/tlsonly1/smtp". A transport of any other name may send in the clear.
func ourTag(tag []byte) bool {
	name, _, ok := cutLast(string(tag)) // the program
	if !ok {
		return false
	}
	_, service, ok := cutLast(name)
	return ok && contract.IsTransport(service)
}

func cutLast(tag string) (before, after string, ok bool) {
	slash := strings.LastIndexByte(tag, '/')
	if slash < 0 {
		return "", "", false
	}
	return tag[:slash], tag[slash+1:], true
}

// interned numbers the names of machines.
type interned struct {
	known map[string]uint32
	name  string // the last one, which is nearly always the next one
	id    uint32
}

func (i *interned) number(host []byte) uint32 {
	if i.id != 0 && string(host) == i.name {
		return i.id
	}
	id, ok := i.known[string(host)]
	if !ok {
		if len(i.known) >= maxHosts {
			return 0 // they share one
		}
		id = uint32(len(i.known) + 1)
		i.known[string(host)] = id
	}
	i.name, i.id = string(host), id
	return id
}

// queueID reads "ID: " from the front of text.
func (r *Reader) queueID(text []byte) (key queueKey, id, rest []byte, ok bool) {
	for i, c := range text {
		switch {
		case '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z':
		case c == ':' && i > 4 && i+1 < len(text) && text[i+1] == ' ':
			key.host, key.size = r.line.host, uint8(i)
			copy(key.id[:], text[:i])
			return key, text[:i], text[i+2:], true
		default:
			return key, nil, nil, false
		}
		if i >= len(key.id) {
			break
		}
	}
	return key, nil, nil, false
}

// begins notes the sender of a message, and that its turn has come (again).
func (r *Reader) begins(key queueKey, from []byte) {
	m, ok := r.messages.get(key)
	if !ok {
		m = &message{}
		r.messages.put(key, m)
	}
	m.turn++
	m.known = true
	if m.wanted = r.config.Wanted(from, m.user); m.wanted {
		m.from = string(from)
	}
}

// processOf finds the line's process, or makes it.
func (r *Reader) processOf() *process {
	key := processKey{r.line.host, r.line.pid}
	p, ok := r.processes.get(key)
	if !ok {
		p = &process{}
		r.processes.put(key, p)
	}
	return p
}
