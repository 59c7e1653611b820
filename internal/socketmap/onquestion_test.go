package socketmap

import (
	"fmt"
	"slices"
	"testing"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// Who watches the MTA is told of each question, and of the protected sender that
// it is about, but not of those that doctor asks in the MTA's place.
func TestAsked(t *testing.T) {
	var told []string
	s := server(t, Config{OnQuestion: func(m Map, protected addr.Address) { told = append(told, fmt.Sprint(m, " ", protected)) }},
		rule(policy.LevelEncrypt, "@clinic.example", ""))
	for _, c := range []struct {
		question string
		want     []string
	}{
		{"sender1 doctor@clinic.example", []string{"sender <>", "sender doctor@clinic.example"}},
		{"sender1 x@other.example", []string{"sender <>"}},
		{`sender1 "<>"`, []string{"sender <>"}},
		{"forced1 good.example", []string{"forced <>"}},
		{"policy [relay.example]:587", []string{"policy <>"}},
		{"tls_report x", []string{"tls_report <>"}},
		{"tls_rcpt v3<NONE><><mx><h><free><bob@example.com><u@far.example>", []string{"tls_rcpt <>"}},
		{"policy .invalid", nil},
		{"forced .invalid", nil},
		{"forced1 tlsonly-doctor.invalid", nil},
		{"forced1 [tlsonly-doctor.invalid]:587", nil},
		{"sender1 tlsonly-doctor@clinic.example", nil},
		{"nothing", nil},
		{"unknown x", nil},
	} {
		told = nil
		s.reply(nil, []byte(c.question))
		if !slices.Equal(told, c.want) {
			t.Errorf("%s: told %q, want %q", c.question, told, c.want)
		}
	}
}
