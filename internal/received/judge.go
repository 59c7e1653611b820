package received

import (
	"slices"
	"strconv"
	"strings"

	"tlsonly/internal/policy"
)

// judge says whether the hop was encrypted. What says that there was TLS goes first: not every server knows RFC 3848.
func (h *Hop) judge(f field) {
	protocol := upper(f.with.text())
	for _, c := range f.told() {
		if with := *h; with.session(c) {
			*h = with
			h.Security, h.Known = Encrypted, "the comment ("+c+")"
			break
		}
	}
	if cipher := f.tls.text(); cipher != "" {
		h.Cipher = cipher
		// RFC 8314, section 4.3: the clause is there when and only when TLS was.
		h.Security, h.Known = Encrypted, "the tls clause (RFC 8314)"
	}
	if h.Security != Encrypted {
		h.named(f)
	}
	if h.Security == Encrypted && null(h.Cipher) {
		if h.Security = Local; !h.local(f, protocol) {
			h.Security, h.Known = Clear, "the cipher "+h.Cipher+" encrypts nothing"
		}
		return
	}
	if h.Security == Encrypted {
		return
	}
	switch secure, known := keyword(protocol); {
	case known && secure:
		h.Security, h.Known = Encrypted, "with "+f.with.text()+rfc(protocol)
	case h.local(f, protocol):
		h.Security = Local
	case known && h.From == "":
		// Google's inner lines: no client is named, so the protocol was spoken inside a site.
		h.Security, h.Known = Unknown, "no from clause: handed on inside of "+orNobody(h.By)
	case known:
		h.Security, h.Known = Clear, "with "+f.with.text()+rfc(protocol)+" and no word of TLS"
	case protocol == "":
		h.Security, h.Known = Unknown, "no with clause"
	default:
		h.Security, h.Known = Unknown, "with "+h.With+" doesn't tell"
	}
}

// named looks for TLS that a server names in words of its own, in the with clause
// and in comments: a version, a suite, or the words TLS and STARTTLS in the with
// clause.
//
//	with ESMTP/TLS/ECDHE-RSA-AES256-GCM-SHA384                 Cisco ESA (IronPort)
//	with ECDHE-RSA-AES256-GCM-SHA384 encrypted SMTP            Symantec MessageLabs
//	with ESMTP with STARTTLS                                   Mimecast
//	(using TLS: TLSv1.2, AES256-SHA)                           Trustwave MailMarshal
//	(Cipher TLSv1:RC4-MD5:128)                                 MDaemon, Exim 3
func (h *Hop) named(f field) {
	if t, ok := tlsIn(f.with.words()); ok && !denies(f.with.words()) {
		h.take(t)
		h.Security, h.Known = Encrypted, "with "+f.with.words()
		return
	}
	for _, c := range f.told() {
		// In a comment the word alone is none: "(TLS wasn't offered)".
		if t, ok := tlsIn(c); ok && (t.suite != "" || t.version != 0) && !denies(c) {
			h.take(t)
			h.Security, h.Known = Encrypted, "the comment ("+c+")"
			return
		}
	}
}

func (h *Hop) take(t tlsWords) { h.Version, h.Cipher, h.Bits = t.version, t.suite, t.bits }

// upper is strings.ToUpper of ASCII: "ſ" is no S.
func upper(s string) string {
	return strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' {
			return r - 'a' + 'A'
		}
		return r
	}, s)
}

// keyword says of a protocol's name whether it means TLS, and whether it means anything. RFC 3848, and RFC 6531, section 4.3:
// S is TLS, A is authentication.
func keyword(name string) (secure, known bool) {
	switch name {
	case "HTTPS", "SMTPS", "SMTPSA":
		return true, true
	}
	base := strings.TrimPrefix(strings.TrimPrefix(name, "UTF8"), "E") // Exim writes utf8esmtps
	for _, p := range []string{"SMTP", "LMTP"} {
		switch base {
		case p, p + "A":
			return false, true
		case p + "S", p + "SA":
			return true, true
		}
	}
	return false, false
}

func rfc(protocol string) string {
	switch {
	case strings.HasPrefix(protocol, "UTF8"):
		return " (RFC 6531)"
	case strings.HasPrefix(protocol, "ESMTP"), strings.HasPrefix(protocol, "LMTP"):
		return " (RFC 3848)"
	}
	return ""
}

func orNobody(name string) string {
	if name == "" {
		return "a site that isn't named"
	}
	return name
}

// local reports whether no network was between, and says how that is known.
func (h *Hop) local(f field, protocol string) bool {
	comments := append(f.head.comments(), f.by.comments()...)
	has := func(part string) bool {
		return slices.ContainsFunc(comments, func(c string) bool { return strings.Contains(strings.ToLower(c), part) })
	}
	switch {
	case protocol == "LOCAL", protocol == "STDIO", protocol == "PIPE", protocol == "BSMTP", protocol == "MAPI":
		h.Known = "with " + f.with.text()
	case h.From == "" && (has("from userid") || has("from uid") || has("invoked by") || has("invoked for bounce")):
		h.Known = "a user of " + orNobody(h.By)
	case h.From == "" && has("invoked from network"):
		h.Known = "qmail's second line for the hop before it"
	case h.From == "" && (has("/submit") || slices.ContainsFunc(f.head.comments(), func(c string) bool {
		return strings.HasPrefix(c, "from ")
	})):
		h.Known = "a user of " + orNobody(h.By)
	case h.Address.IsLoopback():
		h.Known = "the client's address is " + h.Address.String()
	case !h.Address.IsValid() && h.From != "" && (strings.EqualFold(h.From, h.By) || strings.EqualFold(h.From, "localhost")):
		h.Known = "from and by are the same machine"
	default:
		return false
	}
	return true
}

// session reads what servers write of a TLS session in a comment:
//
//	using TLSv1.3 with cipher NAME (256/256 bits) …        Postfix, Stalwart
//	version=TLSv1.3 cipher=NAME bits=256 verify=OK         Sendmail; with commas Exchange; TLS1_3 and bits=256/256 Gmail
//	TLSv1.3:NAME:256:NO    TLS1.3    TLS1.3:NAME:256       OpenSMTPD, Exim
//	TLS: TLSv1.3,256bits,NAME                              Courier
//	NAME encrypted                                         qmail with patches
//	TLS                                                    Exchange up to 2013
func (h *Hop) session(text string) bool {
	lower := strings.ToLower(text)
	switch {
	case strings.HasPrefix(lower, "using "):
		words := strings.Fields(text)
		v, ok := tlsVersion(words[1])
		if !ok {
			return false
		}
		h.Version = v
		if i := slices.Index(words, "cipher"); i > 0 && i+1 < len(words) {
			h.Cipher = words[i+1]
			if i+2 < len(words) {
				h.Bits = strength(strings.TrimPrefix(words[i+2], "("))
			}
		}
		return true
	case strings.HasPrefix(lower, "version="), strings.HasPrefix(lower, "cipher="):
		return h.pairs(text)
	case strings.HasPrefix(lower, "tls: "):
		parts := strings.Split(text[len("tls: "):], ",")
		v, ok := tlsVersion(parts[0])
		if ok && len(parts) >= 3 {
			h.Version, h.Bits, h.Cipher = v, strength(strings.TrimSuffix(parts[1], "bits")), parts[2]
		}
		return ok
	case strings.HasSuffix(lower, " encrypted"):
		if words := strings.Fields(text); len(words) == 2 {
			h.Cipher = words[0]
			return true
		}
		return false
	case lower == "tls":
		return true
	}
	parts := strings.Split(text, ":")
	v, ok := tlsVersion(parts[0])
	if !ok {
		return false
	}
	h.Version = v
	if len(parts) > 1 {
		h.Cipher = parts[1]
	}
	if len(parts) > 2 {
		h.Bits = strength(parts[2])
	}
	return true
}

// pairs reads "version=… cipher=… bits=…".
func (h *Hop) pairs(text string) bool {
	seen := false
	for _, pair := range strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" ,;", r) }) {
		name, value, _ := strings.Cut(pair, "=")
		switch strings.ToLower(name) {
		case "version":
			v, ok := tlsVersion(value)
			h.Version = v
			seen = seen || ok
		case "cipher":
			if strings.EqualFold(value, "none") || value == "" {
				return false
			}
			h.Cipher = value
			seen = true
		case "bits":
			h.Bits = strength(value)
		}
	}
	return seen
}

// strength reads "256" and "256/256".
func strength(s string) int {
	s, _, _ = strings.Cut(s, "/")
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > 1<<16 {
		return 0
	}
	return n
}

// tlsVersion reads TLSv1.3, TLS1_3, TLS1.3 and old OpenSSL's "TLSv1/SSLv3", which is TLS 1.0.
func tlsVersion(s string) (policy.Version, bool) {
	s, _, _ = strings.Cut(strings.ToUpper(s), "/")
	if s == "SSLV3" || s == "SSL3" {
		return policy.SSL30, true
	}
	number, ok := strings.CutPrefix(s, "TLS")
	if !ok {
		return 0, false
	}
	switch strings.ReplaceAll(strings.TrimPrefix(number, "V"), "_", ".") {
	case "1", "1.0":
		return policy.TLS10, true
	case "1.1":
		return policy.TLS11, true
	case "1.2":
		return policy.TLS12, true
	case "1.3":
		return policy.TLS13, true
	}
	return 0, false
}
