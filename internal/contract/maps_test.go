package contract

import (
	"reflect"
	"testing"
)

// What setup writes, the daemon reads, and setup and doctor know it again.
func TestSenderMap(t *testing.T) {
	const smap = "inet:127.0.0.1:8690"
	for name, m := range map[Map]SenderMap{
		"sender":         {Transports: -1},
		"sender0":        {},
		"sender12":       {Transports: 12},
		"sender1/+site":  {Transports: 1, Site: true},
		"sender0/errors": {Notices: []string{"errors"}},
		"sender3/+site/no%40body.example/a%20b%3A/%2Bsite": {
			Transports: 3, Site: true, Notices: []string{"no@body.example", "a b:", "+site"}},
	} {
		if got := m.Map(); got != name {
			t.Errorf("%+v: %q, want %q", m, got, name)
		}
		if got, ok := ParseSenderMap([]byte(name)); !ok || !reflect.DeepEqual(got, m) {
			t.Errorf("%q: %+v, %t, want %+v", name, got, ok, m)
		}
		table := name.Table(smap)
		if n, ok := SenderTransports(smap, table); !ok || n != m.Transports {
			t.Errorf("%q: %d transports, %t", table, n, ok)
		}
		if !SenderTable(SenderSocket(table), table) || SenderTable("inet:127.0.0.1:1", table) {
			t.Errorf("%q is known at another socket, or isn't at its own", table)
		}
		if SaysSite(table) != m.Site {
			t.Errorf("%q: says site is %t", table, !m.Site)
		}
		other := m
		other.Site = !m.Site
		if !SameButSite(table, other.Map().Table(smap)) {
			t.Errorf("%q isn't the same as with the site's tables turned", table)
		}
		other.Transports++
		if SameButSite(table, other.Map().Table(smap)) {
			t.Errorf("%q is the same as with one transport more", table)
		}
	}
	for _, name := range []string{"", "x", "policy", "senders", "sender01", "sender1234567890", "sender-1",
		"sender1/", "sender1//x", "sender1/%zz"} {
		if m, ok := ParseSenderMap([]byte(name)); ok {
			t.Errorf("%q: %+v", name, m)
		}
	}
	for _, table := range []string{"hash:/etc/postfix/senders", "socketmap:" + smap + ":senders",
		"socketmap:" + smap + ":policy", "socketmap:inet:127.0.0.1:86901:sender1"} {
		if SenderTable(smap, table) {
			t.Errorf("%q is the map of senders", table)
		}
	}
}

// A level that isn't known is written, so that the daemon doesn't answer and
// the mail waits.
func TestForcedMap(t *testing.T) {
	for _, c := range []struct {
		class int
		floor string
		want  Map
		known bool
	}{
		{0, "", "forced", true},
		{3, "", "forced3", true},
		{1, "encrypt", "forced1", true},
		{1, "secure", "forced1/secure", true},
		{0, "dane-only", "forced/dane-only", true},
		{1, "later", "forced1/later", false},
		{1, "may", "forced1/may", false},
	} {
		name := ForcedMap(c.class, c.floor)
		class, floor, ok := ParseForcedMap([]byte(name))
		if floor == "" && c.floor == "encrypt" {
			floor = c.floor
		}
		if name != c.want || ok != c.known || ok && (class != c.class || floor != c.floor) {
			t.Errorf("%d, %q: %q, read as %d, %q, %t", c.class, c.floor, name, class, floor, ok)
		}
	}
	for _, name := range []string{"", "policy", "forcedx", "forced01", "forced1/", "forced1/encrypt", "forced-1", "forced1234567890"} {
		if _, _, ok := ParseForcedMap([]byte(name)); ok {
			t.Errorf("%q is read", name)
		}
	}
}
