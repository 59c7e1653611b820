// Package transport knows the names of the transports that setup gives to
// Postfix, which hold mail to TLS: who names one, and who meets one, does it
// here.
//
// A class of senders has the transport tlsonly1, tlsonly2 and so on, and tlsonly
// is the strict one, of any class. They are made after the transport by which
// the site's other mail leaves. Where the site gives some senders another one,
// slow, that has twins: tlsonly1-slow, and the strict tlsonly-slow.
package transport

import (
	"strconv"
	"strings"
)

// Prefix is what all names begin with.
const Prefix = "tlsonly"

// Name returns the name of a class's transport, 0 for the strict one. Of is the
// transport that it is the twin of, "" for the one of the site's other mail.
func Name(class int, of string) string { return string(Append(nil, class, of)) }

// Append appends Name.
func Append(b []byte, class int, of string) []byte {
	b = append(b, Prefix...)
	if class > 0 {
		b = strconv.AppendInt(b, int64(class), 10)
	}
	if of != "" {
		b = append(append(b, '-'), of...)
	}
	return b
}

// Parse takes a name apart. It is false for one that isn't ours.
func Parse(name string) (class int, of string, ok bool) {
	rest, ok := strings.CutPrefix(name, Prefix)
	if !ok {
		return 0, "", false
	}
	number, of, twin := strings.Cut(rest, "-")
	if twin && of == "" || len(number) > 9 || strings.Trim(number, "0123456789") != "" {
		return 0, "", false
	}
	class, _ = strconv.Atoi(number) // "" is the strict one
	return class, of, true
}

// IsOurs reports whether a name is that of a transport of ours.
func IsOurs(name string) bool {
	_, _, ok := Parse(name)
	return ok
}
