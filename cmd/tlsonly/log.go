package main

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"

	"tlsonly/internal/addr"
	"tlsonly/internal/config"
	"tlsonly/internal/place"
)

// newLog builds the daemon's log as [log] says.
func newLog(w io.Writer, c config.Log, level *slog.LevelVar) *slog.Logger {
	level.Set(c.Level)
	options := &slog.HandlerOptions{Level: level}
	if c.Hash {
		options.ReplaceAttr = hasher(logKey()).replace
	}
	if c.JSON {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// logKey is what addresses are hashed with: this host's, so that one address is one word in all its logs, and another in those
// of other hosts. Who has only the log can't find an address by trying; who is on this host can. Where the host has no name
// for itself, it is this process's.
var logKey = sync.OnceValue(func() []byte {
	if id, err := os.ReadFile(place.MachineID); err == nil && len(strings.TrimSpace(string(id))) > 0 {
		mac := hmac.New(sha256.New, []byte(strings.TrimSpace(string(id))))
		mac.Write([]byte("tlsonly log"))
		return mac.Sum(nil)
	}
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // never fails
	return key
})

// hasher puts a hash in place of the local part of every address, and of every login. Domains stay: they are the destinations.
type hasher []byte

// replace is a slog.HandlerOptions.ReplaceAttr.
func (h hasher) replace(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.MessageKey || a.Key == slog.TimeKey || a.Key == slog.LevelKey {
		return a
	}
	text := a.Value.Resolve().String()
	switch {
	case a.Key == "user" && text != "":
		a.Value = slog.StringValue(h.sum(strings.ToLower(text)))
	case strings.Contains(text, "@"):
		a.Value = slog.StringValue(h.text(text))
	}
	return a
}

// text hashes the addresses in a text, wherever they stand: a cause names some, too.
func (h hasher) text(s string) string {
	const around = " \t\r\n,;:()[]{}<>=\"'|"
	var b strings.Builder
	for len(s) > 0 {
		begin := quotedLocal(s) // what stands in quotes before "@" is one word
		i := strings.IndexAny(s[begin:], around)
		switch {
		case i < 0:
			i = len(s) - begin
		case i == 0 && begin == 0:
			b.WriteByte(s[0])
			s = s[1:]
			continue
		}
		b.WriteString(h.word(s[:begin+i]))
		s = s[begin+i:]
	}
	return b.String()
}

// quotedLocal returns the length of a quoted local part, with its quotes, that s begins with; 0 where it begins with none.
func quotedLocal(s string) int {
	if !strings.HasPrefix(s, `"`) {
		return 0
	}
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			if strings.HasPrefix(s[i+1:], "@") {
				return i + 1
			}
			return 0
		}
	}
	return 0
}

func (h hasher) word(s string) string {
	at := strings.LastIndexByte(s, '@')
	if at < 1 {
		return s
	}
	if a, err := addr.ParsePath(s); err == nil {
		a = a.Fold()
		return h.sum(a.Local) + "@" + a.Domain.String()
	}
	return h.sum(strings.ToLower(s[:at])) + s[at:]
}

func (h hasher) sum(s string) string {
	mac := hmac.New(sha256.New, h)
	mac.Write([]byte(s))
	return "h" + hex.EncodeToString(mac.Sum(nil)[:8])
}
