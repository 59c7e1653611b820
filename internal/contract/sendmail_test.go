package contract

import "testing"

// What the rules ask is what the daemon reads, and nothing else is read.
func TestQuestion(t *testing.T) {
	q := Question{Verify: "OK", Fingerprint: "AB:12", Server: "mx.far.example", Hop: "far.example.", Tag: TagName,
		Sender: "a@b.example", Written: "c@d.example", Host: "mta.example", Reporter: "MAILER-DAEMON", Recipient: "u@far.example"}
	const key = "v3<OK><AB:12><mx.far.example><far.example.><name><a@b.example><c@d.example><mta.example><MAILER-DAEMON><u@far.example>"
	former := q
	former.Written, former.Host, former.Reporter, former.Former = "", "", "", true
	const before = "v2<OK><AB:12><mx.far.example><far.example.><name><a@b.example><u@far.example>"
	for key, want := range map[string]Question{key: q, before: former, (Question{}).Key(): {}} {
		if got, ok := ParseQuestion(key); !ok || got != want {
			t.Errorf("%s: %+v, %t", key, got, ok)
		}
		if got := want.Key(); got != key {
			t.Errorf("%s, want %s", got, key)
		}
	}
	for _, key := range []string{"", "v3", "v4" + key[2:], key + " ", key + "<>", key[:len(key)-1], "v2" + key[2:], "v3" + before[2:],
		" " + key, "v3<<OK>" + key[6:], "v3<OK> " + key[6:], "v3<OK>>" + key[6:]} {
		if got, ok := ParseQuestion(key); ok {
			t.Errorf("%q: %+v", key, got)
		}
	}
}

// A tag is taken off as it was put on; what only looks like one stays.
func TestTag(t *testing.T) {
	for _, tag := range Tags() {
		if got, rest, ok := CutTag(tag.EnvelopeID() + "abc.d"); !ok || got != tag || rest != "abc.d" {
			t.Errorf("%s: %q, %q, %t", tag, got, rest, ok)
		}
	}
	for _, id := range []string{"", "abc", "TLSONLY.", "TLSONLY.encrypt", "TLSONLY.may.x", "tlsonly.encrypt.x", "xTLSONLY.encrypt.x",
		TagFree.EnvelopeID()} {
		if tag, rest, ok := CutTag(id); ok || rest != id {
			t.Errorf("%q: %q, %q", id, tag, rest)
		}
	}
}
