package maillog

import (
	"bytes"
	"strings"
	"time"
)

// cached is how long after its last use a connection of Sendmail can still be open: twice ConnectionCacheTimeout's default.
const cached = 10 * time.Minute

// sendmail works on a line of Sendmail.
func (r *Reader) sendmail(text []byte) error {
	r.line.host = r.hosts.number(r.line.header.host)
	key, id, rest, ok := r.queueID(text)
	if !ok {
		rest = text
	}
	switch {
	case bytes.HasPrefix(rest, []byte("STARTTLS=client, relay=")):
		r.sendmailSession(rest)
	case bytes.HasPrefix(rest, []byte("AUTH=server, relay=")):
		p := r.processOf()
		p.client = string(value(rest, "relay"))
		p.login = string(value(rest, "authid"))
	case !ok:
		if whole, part := r.sendmailPart(text); len(whole) > 0 {
			return r.sendmail(whole)
		} else if !part && couldDeliver(text) {
			r.line.missed = noQueueID
		}
	case bytes.HasPrefix(rest, []byte("from=")):
		from, fields := path(rest[len("from="):])
		m, known := r.messages.get(key)
		if p, found := r.processes.get(processKey{r.line.host, r.line.pid}); found && p.login != "" &&
			p.client == string(value(fields, "relay")) {
			if !known {
				m = &message{}
				r.messages.put(key, m)
			}
			m.user = p.login
		}
		r.begins(key, from)
	case bytes.HasPrefix(rest, []byte("to=")):
		return r.sendmailDelivery(key, id, rest)
	default:
		// "OLD: NEW: DSN: …": a message of the empty sender, which has no line of its own.
		if bounce, _, what, ok := r.queueID(rest); ok && notice(what) {
			r.begins(bounce, nil)
		}
	}
	return nil
}

// maxParts is how long a line in parts may be.
const maxParts = 64 << 10

// sendmailPart takes a part of a line that is longer than syslog takes:
// "ID[1]: text ...", "ID[2]: text ...", "ID[3]: text". With the last one it returns
// the whole line. It is false for a line that is no part.
func (r *Reader) sendmailPart(text []byte) (whole []byte, ok bool) {
	front, rest, ok := bytes.Cut(text, []byte("]: "))
	id, count, bracket := bytes.Cut(front, []byte("["))
	n := number(count)
	if !ok || !bracket || n == 0 || len(id) < 5 || len(id) > len(queueKey{}.id) || bytes.ContainsAny(id, " :") {
		return nil, false
	}
	p := r.processOf()
	rest, more := bytes.CutSuffix(rest, []byte(" ..."))
	switch {
	case n == 1:
		p.part = append(append(p.part[:0], id...), ": "...)
	case p.parts != n-1 || !bytes.HasPrefix(p.part, id) || len(p.part)+len(rest) > maxParts:
		r.line.missed = noPart
		p.parts, p.part = 0, p.part[:0]
		return nil, true
	}
	if p.parts, p.part = n, append(p.part, rest...); more {
		return nil, true
	}
	whole = bytes.Clone(p.part)
	p.parts, p.part = 0, nil
	return whole, true
}

func notice(text []byte) bool {
	for _, kind := range []string{"DSN: ", "return to sender: ", "sender notify: ", "postmaster notify: ", "return receipt"} {
		if bytes.HasPrefix(text, []byte(kind)) {
			return true
		}
	}
	return false
}

// sendmailSession reads "STARTTLS=client, relay=mx., version=TLSv1.3, verify=OK, cipher=NAME, bits=256/256".
func (r *Reader) sendmailSession(text []byte) {
	relay := value(text, "relay")
	now, ok := r.clock.time(r.line.stamp)
	if !ok {
		return
	}
	bits, _, _ := bytes.Cut(value(text, "bits"), []byte("/"))
	tls := Session{Version: tlsVersion(value(text, "version")), Cipher: string(value(text, "cipher")), Bits: int(number(bits))}
	switch string(value(text, "verify")) {
	case "OK":
		tls.Trust = Trusted
	case "TRUSTED": // DANE: the TLSA records matched
		tls.Trust = Verified
	case "NO":
		tls.Trust = Anonymous
	case "NONE", "CLEAR", "TEMP", "PROTOCOL", "SOFTWARE", "CONFIG", "FAILURE": // op.me, ${verify}: no session
		return
	default:
		tls.Trust = Untrusted
	}
	r.logsTLS()
	p := r.processOf()
	for i := range p.sessions {
		if bytes.Equal(p.sessions[i].relay, relay) {
			p.sessions[i].tls, p.sessions[i].used = tls, now
			return
		}
	}
	if len(p.sessions) >= maxSessions {
		p.sessions = append(p.sessions[:0], p.sessions[1:]...)
	}
	p.sessions = append(p.sessions, session{relay: bytes.Clone(relay), tls: tls, used: now})
}

// sendmailDelivery reads "to=<a>,<b>, delay=…, mailer=esmtp, pri=…, relay=mx. [192.0.2.1], dsn=2.0.0, stat=Sent (text)".
func (r *Reader) sendmailDelivery(key queueKey, id, rest []byte) error {
	m, known := r.messages.get(key)
	if known && m.known && !m.wanted || !r.timed() {
		return nil
	}
	list, fields := recipients(rest[len("to="):])
	relay := value(fields, "relay")
	stat := status(fields)
	if len(stat) == 0 {
		r.line.missed = noStatus
		return nil
	}
	d := Delivery{
		Logger: string(r.line.header.host), QueueID: string(id),
		Relay: string(relay), DSN: string(value(fields, "dsn")), Detail: clip(stat),
	}
	switch {
	case bytes.HasPrefix(stat, []byte("Sent")):
		d.Outcome = Here
		if mailer := string(value(fields, "mailer")); mailer != "local" && mailer != "prog" && !here(d.Relay) {
			d.Outcome = Sent
		}
	case bytes.HasPrefix(stat, []byte("Deferred")), bytes.HasPrefix(stat, []byte("queued")), strings.HasPrefix(d.DSN, "4"):
		d.Outcome = Deferred
	default:
		d.Outcome = Bounced
	}
	if !known || !m.known {
		if d.Outcome == Sent {
			r.skipped += int64(len(list))
		}
		return nil
	}
	d.From, d.User, d.msg = m.from, m.user, m
	if d.Outcome == Sent {
		r.sendmailSecurity(&d, relay)
	}
	for _, to := range list {
		one := d
		one.To = string(to)
		if err := r.emit(&one); err != nil {
			return err
		}
	}
	return nil
}

func (r *Reader) sendmailSecurity(d *Delivery, relay []byte) {
	name, _, _ := bytes.Cut(relay, []byte(" ["))
	now, ok := r.clock.time(r.line.stamp)
	p := r.processOf()
	for i := range p.sessions {
		if s := &p.sessions[i]; ok && r.line.pid != 0 && bytes.Equal(s.relay, name) && now.Sub(s.used) <= cached {
			s.used = now
			tls := s.tls
			d.Security, d.TLS = Encrypted, &tls
			return
		}
	}
	d.Security = r.unlogged()
}

// path reads an address, in angle brackets or not, and returns it without them, and what follows.
func path(b []byte) (address, rest []byte) {
	if len(b) > 0 && b[0] == '<' {
		if end := closeAngle(b[1:]); end >= 0 {
			return b[1 : 1+end], b[2+end:]
		}
	}
	address, rest, _ = bytes.Cut(b, []byte(", "))
	return address, rest
}

// recipients reads "<a>,<b>, delay=…".
func recipients(b []byte) (list [][]byte, fields []byte) {
	quoted, angle, start := false, false, 0
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '<':
			angle = true
		case c == '>':
			angle = false
		case c == ',' && !angle:
			list = append(list, bytes.Trim(b[start:i], "<>"))
			if i+1 < len(b) && b[i+1] == ' ' {
				return list, b[i+2:]
			}
			start = i + 1
		}
	}
	return append(list, bytes.Trim(b[start:], "<>")), nil
}

// value finds "name=…" among fields that ", " separates.
func value(fields []byte, name string) []byte {
	for len(fields) > 0 {
		var field []byte
		field, fields, _ = bytes.Cut(fields, []byte(", "))
		if len(field) > len(name) && field[len(name)] == '=' && string(field[:len(name)]) == name {
			return field[len(name)+1:]
		}
	}
	return nil
}

// status returns what follows "stat=", to the end: a remote reply may have commas.
func status(fields []byte) []byte {
	if s, ok := bytes.CutPrefix(fields, []byte("stat=")); ok {
		return s
	}
	_, s, _ := bytes.Cut(fields, []byte(", stat="))
	return s
}
