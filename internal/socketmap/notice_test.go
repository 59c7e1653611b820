package socketmap

import (
	"testing"

	"tlsonly/rules"
)

// What an MTA writes itself has the strict transport while any rule enforces,
// those by login too, and is as it was where [binding] says so.
func TestOwnMail(t *testing.T) {
	byLogin := rule("encrypt", "", "")
	byLogin.User = []string{"alice"}
	strict := []asked{
		{`sender "<>"`, "OK tlsonly:"},
		{"sender0 <>", "OK tlsonly:"},
		{"sender3 ", "OK tlsonly:"},
		{"sender1 double-bounce@mta.test", "OK tlsonly:"},
		{"sender1 Double-Bounce@MTA.test", "OK tlsonly:"},
		{`sender1 "double-bounce"@mta.test`, "OK tlsonly:"},
		{"sender1 double-bounce", "OK tlsonly:"},
		{"sender1/errors errors@mta.test", "OK tlsonly:"},
		{"sender1/errors errors", "OK tlsonly:"},
		{"sender1/errors x-errors@mta.test", absent},
		{"sender1/errors/%3Cnone%3E <none>", "OK tlsonly:"},
		{"sender1/no%40body.example no@Body.example", "OK tlsonly:"},
		{"sender1/no%40body.example no@other.example", absent},
		{"sender1/a%20b%3A a b:", "OK tlsonly:"},
		{"sender1 errors@mta.test", absent},
		{"sender1/%zz x@y.example", "TEMP no such map"},
		{"sender1/ x@y.example", "TEMP no such map"},
		{"sender1//x x@y.example", "TEMP no such map"},
		{"sender01/x x@y.example", "TEMP no such map"},
	}
	check(t, server(t, Config{Transports: 1}, rule("encrypt", "@clinic.example", "")), strict)
	check(t, server(t, Config{Transports: 1, Origins: named("mta.test")}, byLogin), strict)
	free := []asked{
		{`sender "<>"`, absent},
		{"sender double-bounce@mta.test", absent},
		{"sender1/errors errors@mta.test", absent},
		{"sender doctor@clinic.example", "OK tlsonly1:"},
	}
	check(t, server(t, Config{Transports: 1, FreeBounces: true}, rule("encrypt", "@clinic.example", "")), free)
	observed := rule("encrypt", "@clinic.example", "")
	observed.Mode = "observe"
	for _, r := range []*rules.Rule{observed, rule("may", "@clinic.example", "")} {
		check(t, server(t, Config{}, r), []asked{{`sender "<>"`, absent}, {"sender double-bounce@mta.test", absent}})
	}
	// A rule for it, or for everybody, binds it all the same.
	check(t, server(t, Config{Transports: 1, FreeBounces: true}, rule("encrypt", "<>", "")), []asked{{`sender "<>"`, "OK tlsonly1:"}})
	// No exception of any rule reaches it.
	check(t, server(t, Config{Transports: 1}, rule("may", "<> @clinic.example", "@none.example"), rule("encrypt", "@clinic.example", "")),
		[]asked{{`sender "<>"`, "OK tlsonly:"}, {"forced none.example", plain}, {"forced [none.example]", plain}})
}
