package maillog

import (
	"bytes"
	"net/netip"
	"strconv"
	"strings"

	"tlsonly/internal/contract"
	"tlsonly/internal/policy"
)

// postfix works on a line of one of Postfix's programs.
func (r *Reader) postfix(program, text []byte) error {
	switch string(program) {
	case "smtp", "lmtp":
		r.line.host = r.hosts.number(r.line.header.host)
		return r.postfixClient(text)
	case "qmgr", "nqmgr", "oqmgr":
		r.line.host = r.hosts.number(r.line.header.host)
		key, _, rest, ok := r.queueID(text)
		if !ok {
			return nil
		}
		if from, ok := bytes.CutPrefix(rest, []byte("from=<")); ok {
			if end := closeAngle(from); end >= 0 {
				r.begins(key, from[:end])
			}
		} else if string(rest) == "removed" {
			r.messages.drop(key)
		}
	case "master":
		if bytes.HasPrefix(text, []byte("reload -- ")) || bytes.HasPrefix(text, []byte("daemon started -- ")) {
			r.line.host = r.hosts.number(r.line.header.host)
			r.rereads(bytes.TrimSuffix(r.line.tag, program))
		}
	case "smtpd":
		r.line.host = r.hosts.number(r.line.header.host)
		key, _, rest, ok := r.queueID(text)
		if !ok || !bytes.HasPrefix(rest, []byte("client=")) {
			return nil
		}
		_, login, ok := bytes.Cut(rest, []byte(", sasl_username="))
		if !ok {
			return nil
		}
		login, _, _ = bytes.Cut(login, []byte(", "))
		r.messages.put(key, &message{user: string(login)})
	case "local", "virtual", "pipe", "discard", "error", "retry":
		r.line.host = r.hosts.number(r.line.header.host)
		if key, id, rest, ok := r.queueID(text); ok && bytes.HasPrefix(rest, []byte("to=<")) {
			return r.postfixDelivery(key, id, rest, false)
		} else if !ok && couldDeliver(text) {
			r.line.missed = noQueueID
		}
	default:
		if !postfixProgram(program) && couldDeliver(text) {
			r.line.missed = noProgram
		}
	}
	return nil
}

// programOf names the program of Postfix that writes a text, by the text, where the
// log doesn't: smtp for any that delivers, for whether the relay is a host tells
// what it was. It is empty for a line that says nothing of use.
func programOf(text []byte) []byte {
	end := bytes.Index(text, []byte(": "))
	switch {
	case bytes.HasPrefix(text, []byte("reload -- ")), bytes.HasPrefix(text, []byte("daemon started -- ")):
		return []byte("master")
	case end < 0:
		return nil
	}
	rest := text[end+2:]
	switch {
	case bytes.HasPrefix(rest, []byte("from=<")) && bytes.HasSuffix(rest, []byte("(queue active)")), string(rest) == "removed":
		return []byte("qmgr")
	case bytes.HasPrefix(rest, []byte("client=")):
		return []byte("smtpd")
	case bytes.HasPrefix(rest, []byte("to=<")), bytes.Contains(text, []byte(" TLS connection ")), bytes.HasPrefix(text, []byte("SSL_connect error to ")),
		bytes.HasPrefix(rest, []byte("lost connection with ")), bytes.HasPrefix(rest, []byte("conversation with ")), bytes.HasPrefix(rest, []byte("Cannot start TLS")):
		return []byte("smtp")
	}
	return nil
}

// postfixClient works on a line of smtp(8), which is lmtp(8) too.
func (r *Reader) postfixClient(text []byte) error {
	key, id, rest, ok := r.queueID(text)
	if !ok {
		switch {
		case r.postfixSession(text):
		case bytes.HasPrefix(text, []byte("SSL_connect error to ")):
			r.forgetSessions()
		case bytes.Contains(text, []byte("to=<")) && couldDeliver(text):
			r.line.missed = noQueueID
		}
		return nil
	}
	switch {
	case bytes.HasPrefix(rest, []byte("to=<")):
		return r.postfixDelivery(key, id, rest, true)
	case r.postfixSession(rest):
	case bytes.HasPrefix(rest, []byte("lost connection with ")), bytes.HasPrefix(rest, []byte("conversation with ")),
		bytes.HasPrefix(rest, []byte("Cannot start TLS")):
		// What comes next is another connection, which may be in the clear: "may" falls back so.
		r.forgetSessions()
	}
	return nil
}

func (r *Reader) forgetSessions() {
	p := r.processOf()
	p.sessions = p.sessions[:0]
}

// postfixSession reads "Verified TLS connection established to host[address]:port: TLSv1.3 with cipher NAME (256/256 bits) …",
// also "reused to" (smtp_tls_connection_reuse).
func (r *Reader) postfixSession(text []byte) bool {
	var trust Trust
	word, rest, ok := bytes.Cut(text, []byte(" TLS connection "))
	if !ok {
		return false
	}
	switch string(word) {
	case "Verified":
		trust = Verified
	case "Trusted":
		trust = Trusted
	case "Untrusted":
		trust = Untrusted
	case "Anonymous":
		trust = Anonymous
	default:
		return false
	}
	if rest, ok = bytes.CutPrefix(rest, []byte("established to ")); !ok {
		if rest, ok = bytes.CutPrefix(rest, []byte("reused to ")); !ok {
			return false
		}
	}
	relay, rest, ok := bytes.Cut(rest, []byte(": "))
	if !ok {
		return false
	}
	version, rest, _ := bytes.Cut(rest, []byte(" with cipher "))
	cipher, rest, _ := bytes.Cut(rest, []byte(" ("))
	bits, _, _ := bytes.Cut(rest, []byte("/"))
	r.logsTLS()
	p := r.processOf()
	if len(p.sessions) == 0 {
		p.sessions = make([]session, 1)
	}
	s := &p.sessions[0]
	p.sessions = p.sessions[:1] // Postfix works with one connection at a time
	s.relay = append(s.relay[:0], relay...)
	s.steps, s.assigned = s.steps[:0], false
	s.tls = Session{Version: tlsVersion(version), Cipher: s.cipher(cipher), Bits: int(number(bits)), Trust: trust}
	return true
}

// cipher returns the name as a string, the one it was before when it is the same.
func (s *session) cipher(name []byte) string {
	if s.tls.Cipher == string(name) {
		return s.tls.Cipher
	}
	return string(name)
}

// tlsVersion reads OpenSSL's names: "TLSv1.3", "TLSv1" for 1.0, "SSLv3". What it doesn't know is 0.
func tlsVersion(name []byte) policy.Version {
	switch string(name) {
	case "TLSv1.3":
		return policy.TLS13
	case "TLSv1.2":
		return policy.TLS12
	case "TLSv1.1":
		return policy.TLS11
	case "TLSv1", "TLSv1.0":
		return policy.TLS10
	case "SSLv3":
		return policy.SSL30
	}
	return 0
}

// postfixDelivery reads "to=<a>, orig_to=<b>, relay=…, conn_use=2, delay=…, delays=…, tls=…, dsn=2.0.0, status=sent (…)".
func (r *Reader) postfixDelivery(key queueKey, id, rest []byte, client bool) error {
	m, known := r.messages.get(key)
	if !known {
		m = &message{}
	}
	if client {
		r.assign(key, m.turn)
	}
	if m.known && !m.wanted || !r.timed() {
		return nil
	}
	var to, origTo, relay, delays, level, dsn, status []byte
	for len(rest) > 0 && status == nil {
		name, value, ok := bytes.Cut(rest, []byte("="))
		if !ok {
			r.line.missed = noStatus
			return nil
		}
		switch string(name) {
		case "to", "orig_to":
			value, ok = bytes.CutPrefix(value, []byte("<"))
			end := closeAngle(value)
			if !ok || end < 0 {
				r.line.missed = noPath
				return nil
			}
			if len(name) == 2 {
				to = value[:end]
			} else {
				origTo = value[:end]
			}
			rest = bytes.TrimPrefix(value[end+1:], []byte(", "))
			continue
		case "status":
			status = value
			continue
		}
		value, rest, _ = bytes.Cut(value, []byte(", "))
		switch string(name) {
		case "relay":
			relay = value
		case "delays":
			delays = value
		case "tls":
			level = value
		case "dsn":
			dsn = value
		}
	}
	word, detail, _ := bytes.Cut(status, []byte(" "))
	d := &Delivery{
		Logger: string(r.line.header.host), QueueID: string(id), To: string(to), OrigTo: string(origTo),
		Relay: string(relay), DSN: string(dsn),
	}
	switch string(word) {
	case "sent":
		d.Outcome = Here
		if client && !here(d.Relay) {
			d.Outcome = Sent
		}
	case "deferred", "SOFTBOUNCE":
		d.Outcome = Deferred
	case "bounced":
		d.Outcome = Bounced
	case "deliverable", "undeliverable": // a probe
		return nil
	default:
		r.line.missed = noStatus
		return nil
	}
	left := client && (d.Outcome == Sent || !here(d.Relay) && textLeft(detail))
	if !m.known {
		if left && d.Outcome == Sent {
			r.skipped++
		}
		return nil
	}
	d.From, d.User, d.msg = m.from, m.user, m
	d.Detail = clip(bytes.TrimSuffix(bytes.TrimPrefix(detail, []byte("(")), []byte(")")))
	if left {
		r.postfixSecurity(d, key, m, relay, steps(delays), level)
	}
	return r.emit(d)
}

// textLeft reports whether an attempt that failed did so when the text was under way or had been taken: then it left.
func textLeft(detail []byte) bool {
	return bytes.Contains(detail, []byte("(in reply to end of DATA command)")) ||
		bytes.Contains(detail, []byte("while sending message body")) ||
		bytes.Contains(detail, []byte("while sending end of data")) ||
		bytes.Contains(detail, []byte("(in reply to BDAT command)"))
}

// assign gives the session of the line's process to the first message that is
// delivered after it, whoever's it is.
func (r *Reader) assign(key queueKey, turn uint32) {
	if p := r.processOf(); len(p.sessions) > 0 && !p.sessions[0].assigned {
		s := &p.sessions[0]
		s.assigned, s.key, s.turn = true, key, turn
	}
}

// postfixSecurity finds the session of a delivery: the one of its process, to its host, of the message's turn in the queue
// and of this connection.
func (r *Reader) postfixSecurity(d *Delivery, key queueKey, m *message, relay, steps, level []byte) {
	if bytes.Contains(r.line.tag, []byte("/"+contract.OpenTransport+"/")) {
		d.Security = Content
		return
	}
	effective := tlsLevel(level)
	if p := r.processOf(); effective != "none" && r.line.pid != 0 && len(p.sessions) > 0 {
		s := &p.sessions[0]
		mine := bytes.Equal(s.relay, relay) && s.key == key && s.turn == m.turn
		if mine && len(s.steps) == 0 {
			s.steps = append(s.steps, steps...)
		}
		if mine && bytes.Equal(s.steps, steps) {
			tls := s.tls
			d.Security, d.TLS = Encrypted, &tls
			return
		}
	}
	switch effective {
	case "none":
		d.Security = Clear
	case "encrypt", "fingerprint", "verify", "secure", "dane-only", "half-dane":
		d.Security, d.TLS = Encrypted, &Session{}
	default:
		d.Security = r.unlogged()
	}
}

// tlsLevel reads the security level that was in force from the attribute tls= of Postfix 3.11
// (smtp_log_tls_feature_status): "level", "level:downgraded", then features after a slash, with marks of doubt; a level
// with a mark is none that is known.
func tlsLevel(attribute []byte) string {
	level, _, _ := strings.Cut(string(attribute), "/")
	if _, lower, ok := strings.Cut(level, ":"); ok {
		level = lower
	}
	return level
}

// steps returns the first three of "a/b/c/d": before the queue manager, in it, connecting.
func steps(delays []byte) []byte {
	if last := bytes.LastIndexByte(delays, '/'); last >= 0 {
		return delays[:last]
	}
	return nil
}

// here reports whether a relay is this machine: a loopback address, a UNIX socket, a service of Postfix, or none.
func here(relay string) bool {
	open := strings.LastIndexByte(relay, '[')
	if open < 0 {
		return true
	}
	address, _, ok := strings.Cut(relay[open+1:], "]")
	if !ok {
		return true
	}
	ip, err := netip.ParseAddr(strings.TrimPrefix(address, "IPv6:"))
	return err != nil || ip.IsLoopback()
}

// closeAngle returns the index of the ">" that ends a path whose "<" was read; quoted strings may have one.
func closeAngle(b []byte) int {
	quoted := false
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			quoted = !quoted
		case '>':
			if !quoted {
				return i
			}
		}
	}
	return -1
}

// clip makes a text of bounded length, printable, in one line.
func clip(b []byte) string {
	const most = 300
	s := strings.Map(func(c rune) rune {
		if strconv.IsPrint(c) {
			return c
		}
		return '?'
	}, string(b[:min(len(b), most)]))
	if len(b) > most {
		s += "…"
	}
	return s
}
