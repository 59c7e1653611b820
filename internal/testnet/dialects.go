package testnet

import "strings"

// Row is a mail host of a kind that MTAs may treat each in its own way.
type Row struct {
	Name   string
	Script func(RowHost) (Script, error)
	// Whether each MTA delivers to it over TLS, at level encrypt. Postfix is told to name
	// the host in its hello, except where the host ends that. Seen with Postfix
	// 3.7.11 and Sendmail 8.17.1 of Debian 12.
	Postfix, Sendmail bool
	// Untold is of hosts that our TLS doesn't speak with far enough to tell.
	Untold bool
}

// RowHost is what a host of a Row is made of.
type RowHost struct {
	Name string // its own
	CA   *CA
	Dir  string // for files, the caller's
}

// good gives a host whose TLS is good, and says what script says.
func (h RowHost) good(script Script) (Script, error) {
	cert, err := h.CA.Issue(CertSpec{Names: []string{h.Name}})
	if err != nil {
		return Script{}, err
	}
	script.Handshake = GoTLS(ServerTLS(cert, 0, 0))
	return script, nil
}

func says(name string, postfix, sendmail bool, script Script) Row {
	return Row{Name: name, Script: func(h RowHost) (Script, error) { return h.good(script) }, Postfix: postfix, Sendmail: sendmail}
}

// Dialects are hosts whose TLS is good and whose replies are odd.
func Dialects() []Row {
	long := func(n int) string { return strings.Repeat("x", n) }
	lines := func(n int, line string) string { return strings.Repeat(line, n) }
	ehlo := func(line string) Script { return Script{EHLO: "250-%\r\n" + line + "\r\n250 8BITMIME\r\n"} }
	return []Row{
		says("plain", true, true, Script{}),

		// Lines that are no replies.
		says("an empty line after each reply", true, true, Script{
			Banner: "220 % ESMTP\r\n\r\n", EHLO: "250-%\r\n250 STARTTLS\r\n\r\n", STARTTLS: "220 go ahead\r\n\r\n",
			Secure: "250 %\r\n\r\n", MAIL: "250 ok\r\n\r\n"}),
		says("an empty line before each reply", true, true, Script{
			Banner: "\r\n220 % ESMTP\r\n", EHLO: "\r\n250-%\r\n250 STARTTLS\r\n", STARTTLS: "\r\n220 go ahead\r\n",
			Secure: "\r\n250 %\r\n", MAIL: "\r\n250 ok\r\n"}),
		says("an empty line within the banner", true, true, Script{Banner: "220-%\r\n\r\n220 ESMTP\r\n"}),
		says("a line without a code in the banner", true, true, Script{Banner: "220-%\r\nwelcome\r\n220 ESMTP\r\n"}),
		says("a line without a code first", true, true, Script{Banner: "welcome to %\r\n220 ESMTP\r\n"}),
		says("a line of an essay with a number", true, true, Script{Banner: "220-%\r\n1984 was a novel\r\n220 ESMTP\r\n"}),
		says("a line without a code within EHLO", true, true, Script{EHLO: "250-%\r\nhello\r\n250 STARTTLS\r\n"}),
		says("a line without a code within EHLO, pipelining", true, true,
			Script{EHLO: "250-%\r\n250-PIPELINING\r\nhello\r\n250 STARTTLS\r\n"}),
		says("a line without a code before the 220", true, true, Script{STARTTLS: "wait\r\n220 go\r\n"}),
		says("a line without a code before the 220, pipelining", true, true,
			Script{EHLO: "250-%\r\n250-PIPELINING\r\n250 STARTTLS\r\n", STARTTLS: "wait\r\n220 go\r\n"}),
		says("a tab after the code", true, true, Script{Banner: "220\t%\r\n220 ESMTP\r\n"}),
		says("text glued to the code", true, true, Script{Banner: "220ESMTP\r\n220 %\r\n"}),
		says("a lone tab after the code", false, false, Script{Banner: "220\t%\r\n"}),
		says("two banners", false, false, Script{Banner: "220 %\r\n220 % ESMTP\r\n"}),

		// Codes.
		says("another code within EHLO", true, true, Script{EHLO: "250-%\r\n251-PIPELINING\r\n250 STARTTLS\r\n"}),
		says("another code of another class within EHLO", true, true, Script{EHLO: "250-%\r\n550-PIPELINING\r\n250 STARTTLS\r\n"}),
		says("STARTTLS after another code", true, true, Script{EHLO: "250-%\r\n550-STARTTLS\r\n250 8BITMIME\r\n"}),
		says("the last line of EHLO is a refusal", false, false, Script{EHLO: "250-%\r\n250-STARTTLS\r\n550 no\r\n"}),
		says("the first line of EHLO is a refusal", true, true, Script{EHLO: "550-%\r\n250-STARTTLS\r\n250 yes\r\n"}),
		says("another code in the banner", true, true, Script{Banner: "554-%\r\n220 ESMTP\r\n"}),
		says("code 050 in the banner", false, true, Script{Banner: "050 %\r\n220 ESMTP\r\n"}),
		says("code 050 to continue in the banner", true, true, Script{Banner: "050-%\r\n220 ESMTP\r\n"}),
		says("code 000 before EHLO", false, true, Script{EHLO: "000 wait\r\n250-%\r\n250 STARTTLS\r\n"}),
		says("banner 200", true, true, Script{Banner: "200 %\r\n"}),
		says("banner 250", true, true, Script{Banner: "250 %\r\n"}),
		says("banner 100", false, false, Script{Banner: "100 %\r\n"}),
		says("banner 320", false, false, Script{Banner: "320 %\r\n"}),
		says("banner 620", false, false, Script{Banner: "620 %\r\n"}),
		says("EHLO 220", true, true, Script{EHLO: "220-%\r\n220 STARTTLS\r\n"}),
		says("EHLO 350", false, false, Script{EHLO: "350-%\r\n350 STARTTLS\r\n"}),
		says("EHLO 451", false, false, Script{EHLO: "451-%\r\n451 STARTTLS\r\n", HELO: "250-%\r\n250 STARTTLS\r\n"}),
		says("STARTTLS after HELO", false, true, Script{EHLO: "502 what?\r\n", HELO: "250-%\r\n250 STARTTLS\r\n"}),
		says("STARTTLS 221", true, false, Script{STARTTLS: "221 go\r\n"}),
		says("STARTTLS 250", true, false, Script{STARTTLS: "250 go\r\n"}),
		says("STARTTLS 120", false, false, Script{STARTTLS: "120 go\r\n"}),
		says("STARTTLS 354", false, false, Script{STARTTLS: "354 go\r\n"}),
		says("STARTTLS 220 in two lines", true, true, Script{STARTTLS: "220-go\r\n220 ahead\r\n"}),
		says("STARTTLS 454 and 220", true, true, Script{STARTTLS: "454-go\r\n220 ahead\r\n"}),
		says("STARTTLS 220 and 454", false, false, Script{STARTTLS: "220-go\r\n454 back\r\n"}),
		says("STARTTLS 220 without text", true, true, Script{STARTTLS: "220\r\n"}),
		says("more text with the 220", true, true, Script{STARTTLS: "220 go\r\n250 injected\r\n"}),

		// Lengths.
		says("a banner of 2040 octets", true, true, Script{Banner: "220 " + long(2034) + "\r\n"}),
		says("a banner of 2100 octets", true, true, Script{Banner: "220 " + long(2094) + "\r\n"}),
		says("a banner of 4800 octets", true, true, Script{Banner: "220 " + long(4794) + "\r\n"}),
		says("a banner of 64 KB", true, true, Script{Banner: "220 " + long(64<<10) + "\r\n"}),
		says("a banner of 300 lines", true, true, Script{Banner: lines(300, "220-x\r\n") + "220 x\r\n"}),
		says("a banner of 3000 lines", true, true, Script{Banner: lines(3000, "220-x\r\n") + "220 x\r\n"}),
		says("STARTTLS after 1000 octets", true, true, Script{EHLO: "250-%\r\n" + lines(10, "250-X"+long(94)+"\r\n") + "250 STARTTLS\r\n"}),
		says("STARTTLS after 3000 octets", false, true, Script{EHLO: "250-%\r\n" + lines(30, "250-X"+long(94)+"\r\n") + "250 STARTTLS\r\n"}),
		says("STARTTLS after a line of 2000 octets", true, true, Script{EHLO: "250-%\r\n250-X" + long(2000) + "\r\n250 STARTTLS\r\n"}),
		says("STARTTLS after a line of 3000 octets", false, true, Script{EHLO: "250-%\r\n250-X" + long(3000) + "\r\n250 STARTTLS\r\n"}),
		says("STARTTLS after a name of 3000 octets", false, true, Script{EHLO: "250-" + long(3000) + "\r\n250 STARTTLS\r\n"}),
		says("STARTTLS with 3000 octets", true, true, Script{EHLO: "250-%\r\n250 STARTTLS " + long(3000) + "\r\n"}),
		says("STARTTLS after 300 keywords", true, true, Script{EHLO: "250-%\r\n" + lines(300, "250-X\r\n") + "250 STARTTLS\r\n"}),
		says("STARTTLS after 400 keywords", false, true, Script{EHLO: "250-%\r\n" + lines(400, "250-X\r\n") + "250 STARTTLS\r\n"}),

		// Line ends and other octets.
		says("LF alone", true, true, Script{Banner: "220 %\n", EHLO: "250-%\n250 STARTTLS\n", STARTTLS: "220 go\n", Secure: "250 %\n", MAIL: "250 ok\n"}),
		says("CR CR LF", true, false, Script{Banner: "220 %\r\r\n", EHLO: "250-%\r\r\n250 STARTTLS\r\r\n", STARTTLS: "220 go\r\r\n"}),
		says("CR alone within the banner", true, true, Script{Banner: "220 %\rESMTP\r\n"}),
		says("CR alone after STARTTLS", false, false, ehlo("250-STARTTLS\rX")),
		says("NUL in the banner", true, true, Script{Banner: "220 %\x00ESMTP\r\n"}),
		says("NUL before the banner", false, false, Script{Banner: "\x00220 %\r\n"}),
		says("NUL after STARTTLS", true, true, ehlo("250-STARTTLS\x00")),
		says("NUL and more after STARTTLS", true, true, ehlo("250-STARTTLS\x00X")),
		says("NUL before STARTTLS", false, false, ehlo("250-\x00STARTTLS")),
		says("Latin-1 in the banner", true, true, Script{Banner: "220 % gr\xfc\xdfe\r\n"}),
		says("UTF-8 in the banner", true, true, Script{Banner: "220 % grüße\r\n"}),
		says("8 bit before EHLO", true, true, Script{EHLO: "250-% gr\xfc\xdfe\r\n250 STARTTLS\r\n"}),

		// The keyword.
		says("starttls", true, true, ehlo("250-starttls")),
		says("StartTLS", true, true, ehlo("250-StartTLS")),
		says("STARTTLS twice", true, true, ehlo("250-STARTTLS\r\n250-STARTTLS")),
		says("STARTTLS foo", true, true, ehlo("250-STARTTLS foo")),
		says("STARTTLS=foo", true, true, ehlo("250-STARTTLS=foo")),
		says("STARTTLS=", true, true, ehlo("250-STARTTLS=")),
		says("a tab after STARTTLS", false, false, ehlo("250-STARTTLS\tfoo")),
		says("a blank after STARTTLS", true, true, ehlo("250-STARTTLS ")),
		says("a blank before STARTTLS", true, false, ehlo("250- STARTTLS")),
		says("two blanks before STARTTLS", true, false, ehlo("250-  STARTTLS")),
		says("a tab before STARTTLS", false, false, ehlo("250-\tSTARTTLS")),
		says("a hyphen before STARTTLS", false, false, ehlo("250--STARTTLS")),
		says("= before STARTTLS", true, false, ehlo("250-=STARTTLS")),
		says("STARTTLS, not the first word", false, false, ehlo("250-X STARTTLS")),
		says("AUTH=STARTTLS", false, false, ehlo("250-AUTH=STARTTLS")),
		says("STARTTLS:", false, false, ehlo("250-STARTTLS:")),
		says("STARTTLS and a comma", false, false, ehlo("250-STARTTLS,PIPELINING")),
		says("START TLS", false, false, ehlo("250-START TLS")),
		says("XSTARTTLS", false, false, ehlo("250-XSTARTTLS")),
		says("STARTTLS in the first line alone", false, false, Script{EHLO: "250 STARTTLS\r\n"}),
		says("STARTTLS in the first of two lines", false, false, Script{EHLO: "250-STARTTLS\r\n250 8BITMIME\r\n"}),
		says("STARTTLS after the name", false, false, Script{EHLO: "250 % STARTTLS\r\n"}),
		says("STARTTLS after an empty first line", false, true, Script{EHLO: "250-\r\n250 STARTTLS\r\n"}),
		says("STARTTLS after an empty first line, twice", true, true, Script{EHLO: "250-\r\n250-STARTTLS\r\n250 STARTTLS\r\n"}),
		says("STARTTLS without a code", false, false, Script{EHLO: "250-%\r\nSTARTTLS\r\n250 8BITMIME\r\n"}),
		says("STARTTLS after a word without a code", true, false, Script{EHLO: "250-%\r\nfoo STARTTLS\r\n250 8BITMIME\r\n"}),
		says("STARTTLS before the first line", false, false, Script{EHLO: "foo STARTTLS\r\n250-%\r\n250 8BITMIME\r\n"}),
		says("STARTTLS, the name before it without a code", true, false, Script{EHLO: "foo bar\r\n250 STARTTLS\r\n"}),
		says("STARTTLS with code 000", false, true, Script{EHLO: "250-%\r\n000 STARTTLS\r\n250 8BITMIME\r\n"}),
		says("STARTTLS glued to the code", false, false, ehlo("250STARTTLS")),
		says("STARTTLS after a tab and the code", false, false, ehlo("250\tSTARTTLS")),
		says("mangled", false, false, ehlo("250-XXXXXXXA")),

		// Over TLS.
		says("hangs up after the handshake", false, false, Script{Secure: "-"}),
		says("EHLO over TLS 421", false, false, Script{Secure: "421 go away\r\n"}),
		says("EHLO over TLS 502", true, true, Script{Secure: "502 what?\r\n"}),
		says("EHLO over TLS 502 and HELO too", false, false, Script{Secure: "502 what?\r\n", SecureHELO: "502 what?\r\n"}),
		says("EHLO over TLS 451", true, false, Script{Secure: "451 later\r\n"}),
		says("EHLO over TLS 451 and HELO too", false, false, Script{Secure: "451 later\r\n", SecureHELO: "451 later\r\n"}),
		says("EHLO over TLS 350", true, false, Script{Secure: "350 what?\r\n"}),
		says("EHLO over TLS without a code", false, false, Script{Secure: "hello\r\n"}),
		says("an empty line in EHLO over TLS", true, true, Script{Secure: "250-%\r\n\r\n250 8BITMIME\r\n"}),
		says("STARTTLS over TLS again", true, true, Script{Secure: "250-%\r\n250 STARTTLS\r\n"}),
	}
}
