package value

import (
	"errors"
	"net/url"
	"strconv"
	"strings"
	"time"

	"tlsonly/internal/addr"
)

// Text reads a string without control characters; it may be empty.
func Text(v Value) (string, error) {
	s, ok := v.Any.(string)
	if !ok {
		return "", Wrong(v, "want a string, in quotes")
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }) {
		return "", Refuse(v, "has a control character")
	}
	return s, nil
}

// Bool reads true or false.
func Bool(v Value) (bool, error) {
	b, ok := v.Any.(bool)
	if !ok {
		return false, Wrong(v, "want true or false, without quotes")
	}
	return b, nil
}

// Int returns a reader of whole numbers from low to high.
func Int(low, high int) func(Value) (int, error) {
	return func(v Value) (int, error) {
		n, ok := v.Any.(int64)
		if !ok || n < int64(low) || n > int64(high) {
			return 0, Wrong(v, "want a number from %d to %d", low, high)
		}
		return int(n), nil
	}
}

// Duration returns a reader of durations, as "20s", "24h" or "90d", from low to high.
func Duration(low, high time.Duration) func(Value) (time.Duration, error) {
	return func(v Value) (time.Duration, error) {
		s, ok := v.Any.(string)
		d, err := parseDuration(s)
		if !ok || err != nil || d < low || d > high {
			return 0, Wrong(v, `want a duration from "%s" to "%s"`, short(low), short(high))
		}
		return d, nil
	}
}

// parseDuration takes a whole number of days, too.
func parseDuration(s string) (time.Duration, error) {
	days, ok := strings.CutSuffix(s, "d")
	if !ok {
		return time.ParseDuration(s)
	}
	n, err := strconv.ParseUint(days, 10, 16)
	return time.Duration(n) * 24 * time.Hour, err
}

// short leaves out what Duration.String adds: "24h", not "24h0m0s".
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Word returns a reader of the words given, in their order in the message.
func Word[T ~string](words ...T) func(Value) (T, error) {
	return func(v Value) (T, error) {
		s, _ := v.Any.(string)
		for _, w := range words {
			if s == string(w) {
				return w, nil
			}
		}
		return "", Wrong(v, "want %s", or(words))
	}
}

func or[T ~string](words []T) string {
	var b strings.Builder
	for i, w := range words {
		switch {
		case i == 0:
		case i == len(words)-1:
			b.WriteString(" or ")
		default:
			b.WriteString(", ")
		}
		b.WriteString(string(w))
	}
	return b.String()
}

// List returns a reader of lists of what read reads. Each wrong element is a fault on its own line.
func List[T any](read func(Value) (T, error)) func(Value) ([]T, error) {
	return func(v Value) ([]T, error) {
		vs, ok := v.Any.([]Value)
		if !ok {
			return nil, Wrong(v, `want a list, as ["…"]`)
		}
		var faults []error
		xs := make([]T, 0, len(vs))
		for _, e := range vs {
			x, err := read(e)
			if err != nil {
				faults = append(faults, err)
			}
			xs = append(xs, x)
		}
		return xs, errors.Join(faults...)
	}
}

// Domain reads a domain name or an address literal.
func Domain(v Value) (addr.Domain, error) { return parsed(v, addr.ParseDomain) }

// Pattern reads an address, "@domain", "@.domain", "<>" or "*".
func Pattern(v Value) (addr.Pattern, error) { return parsed(v, addr.ParsePattern) }

// Destination reads a next hop.
func Destination(v Value) (addr.Destination, error) { return parsed(v, addr.ParseDestination) }

func parsed[T any](v Value, parse func(string) (T, error)) (T, error) {
	s, err := Text(v)
	var x T
	if err != nil {
		return x, err
	}
	if x, err = parse(s); err != nil {
		// What is parsed stands before the text already.
		text := err.Error()
		if kind, rest, ok := strings.Cut(text, v.show()+": "); ok && !strings.Contains(kind, " ") {
			text = rest
		}
		return x, Wrong(v, "%s", text)
	}
	return x, nil
}

// URL reads an http or https URL of at most 200 octets that can stand in an SMTP reply, or "".
func URL(v Value) (string, error) {
	s, err := Text(v)
	if err != nil || s == "" {
		return "", err
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || len(s) > 200 ||
		strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", Wrong(v, "want an http or https URL without blanks, of at most 200 octets")
	}
	return s, nil
}
