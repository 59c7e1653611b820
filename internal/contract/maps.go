package contract

import (
	"bytes"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Map is the name of a map that the daemon answers at its socket
// (socketmap_table(5)).
type Map string

// The maps. The names of the first two go on, see SenderMap and ForcedMap.
const (
	MapSender   Map = "sender"     // Postfix: which transport has a sender?
	MapForced   Map = "forced"     // Postfix, in our transports: which TLS policy has a next hop?
	MapPolicy   Map = "policy"     // Postfix, for all other mail: the same
	MapTLSRcpt  Map = "tls_rcpt"   // Sendmail: may this recipient be named to this host?
	MapReport   Map = "tls_report" // Sendmail: may its own mail leave the process that wrote it?
	MapIdentify Map = "identify"   // doctor and setup: who answers here?
)

// Table returns a map as Postfix's lists name it, where smap is the daemon's
// socket in Postfix's words: "socketmap:inet:127.0.0.1:8690:policy".
func (m Map) Table(smap string) string { return "socketmap:" + smap + ":" + string(m) }

// siteWord can be no sender: SenderMap would escape it.
const siteWord = "+site"

// SenderMap is what the name of a map of senders says of the Postfix that asks.
type SenderMap struct {
	// Transports is how many numbered transports it has; -1: it doesn't say.
	Transports int
	// Site: its own tables of senders are to be asked, because the transports
	// that they name have twins.
	Site bool
	// Notices are the senders of its own mail, where they aren't the usual ones.
	Notices []string
}

// Map returns the name: "sender3", "sender3/+site/bounces%40mx.example".
func (m SenderMap) Map() Map {
	name := string(MapSender)
	if m.Transports >= 0 {
		name += strconv.Itoa(m.Transports)
	}
	if m.Site {
		name += "/" + siteWord
	}
	for _, sender := range m.Notices {
		name += "/" + escaped(sender)
	}
	return Map(name)
}

// ParseSenderMap takes a name apart. It is false for one that SenderMap.Map
// can't have made.
func ParseSenderMap(name []byte) (m SenderMap, ok bool) {
	rest, ok := bytes.CutPrefix(name, []byte(MapSender))
	if !ok {
		return SenderMap{}, false
	}
	number, rest, more := bytes.Cut(rest, []byte{'/'})
	switch string(number) {
	case "":
		m.Transports = -1
	case "0":
	default:
		if m.Transports, ok = parseClass(number); !ok {
			return SenderMap{}, false
		}
	}
	for more {
		var word []byte
		word, rest, more = bytes.Cut(rest, []byte{'/'})
		if string(word) == siteWord {
			m.Site = true
			continue
		}
		sender, err := url.PathUnescape(string(word))
		if err != nil || sender == "" {
			return SenderMap{}, false
		}
		m.Notices = append(m.Notices, sender)
	}
	return m, true
}

// SenderTable reports whether a table of Postfix's is the daemon's map of
// senders at the socket smap, whatever else its name says.
func SenderTable(smap, table string) bool {
	_, ok := SenderTransports(smap, table)
	return ok
}

// SenderTransports returns how many numbered transports the name of the daemon's
// map of senders says that there are, -1 where it says none. It is false for
// every other table.
func SenderTransports(smap, table string) (int, bool) {
	rest, ok := strings.CutPrefix(table, MapSender.Table(smap))
	number, _, _ := strings.Cut(rest, "/")
	if !ok || strings.Trim(number, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.Atoi(number)
	if err != nil {
		return -1, true
	}
	return n, true
}

// SenderSocket returns the socket that a map of senders is asked at, the smap of
// SenderTable. For another table it is anything.
func SenderSocket(table string) string {
	smap, _, _ := strings.Cut(strings.TrimPrefix(table, "socketmap:"), ":"+string(MapSender))
	return smap
}

// SameButSite reports whether two maps of senders differ at most in whether
// tables of the site are asked.
func SameButSite(a, b string) bool {
	return strings.Replace(a, "/"+siteWord, "", 1) == strings.Replace(b, "/"+siteWord, "", 1)
}

// SaysSite reports whether the name of a map of senders says that tables of the
// site are to be asked.
func SaysSite(table string) bool { return strings.Contains(table+"/", "/"+siteWord+"/") }

// floors are the levels above "encrypt", as postconf(5) writes them.
var floors = []string{"dane-only", "fingerprint", "verify", "secure"}

// ForcedMap returns the name of the map of TLS policies that the transport of a
// class asks, 0 for the strict one: "forced1", "forced".
//
// A policy that is answered replaces smtp_tls_security_level. So where the
// transport is made after a client with a level above "encrypt", the name says
// which, "forced1/secure", and no answer is below it.
func ForcedMap(class int, floor string) Map {
	name := string(MapForced)
	if class > 0 {
		name += strconv.Itoa(class)
	}
	if floor != "" && floor != "encrypt" {
		name += "/" + floor
	}
	return Map(name)
}

// ParseForcedMap takes a name apart. It is false for one that ForcedMap can't
// have made.
func ParseForcedMap(name []byte) (class int, floor string, ok bool) {
	rest, ok := bytes.CutPrefix(name, []byte(MapForced))
	if !ok {
		return 0, "", false
	}
	number, level, found := bytes.Cut(rest, []byte{'/'})
	if found && !slices.Contains(floors, string(level)) {
		return 0, "", false
	}
	if len(number) > 0 {
		if class, ok = parseClass(number); !ok {
			return 0, "", false
		}
	}
	return class, string(level), true
}

// parseClass reads a number from 1 without leading zeros.
func parseClass(b []byte) (int, bool) {
	if len(b) == 0 || b[0] == '0' || len(b) > 9 {
		return 0, false
	}
	n := 0
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return n, true
}

// escaped writes a text so that it can stand in a table's name in main.cf.
func escaped(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-_.", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
