package contract

import (
	"strconv"
	"strings"
)

// TransportPrefix is what the names of all our transports begin with.
const TransportPrefix = "tlsonly"

// Transport returns the name of a class's transport, 0 for the strict one. Of is
// the site's transport that it is the twin of, "" for the one of the site's
// other mail: "tlsonly1", "tlsonly", "tlsonly1-slow".
func Transport(class int, of string) string { return string(AppendTransport(nil, class, of)) }

// AppendTransport appends Transport.
func AppendTransport(b []byte, class int, of string) []byte {
	b = append(b, TransportPrefix...)
	if class > 0 {
		b = strconv.AppendInt(b, int64(class), 10)
	}
	if of != "" {
		b = append(append(b, '-'), of...)
	}
	return b
}

// ParseTransport takes a name apart. It is false for one that isn't ours.
func ParseTransport(name string) (class int, of string, ok bool) {
	rest, ok := strings.CutPrefix(name, TransportPrefix)
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

// IsTransport reports whether a name is that of a transport of ours.
func IsTransport(name string) bool {
	_, _, ok := ParseTransport(name)
	return ok
}
