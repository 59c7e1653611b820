// Package sample has messages of every shape that mail takes, for tests of what
// cuts, encrypts and judges them.
package sample

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"
)

// Message is a sample.
type Message struct {
	Name string
	// Text is the message as after DATA, lines mostly ended by CRLF.
	Text []byte
	// Secrets are what must not be seen outside: subjects, words of the content,
	// names of files, as they are and decoded, of at least 8 octets. None where it
	// is encrypted already.
	Secrets []string
	// Encrypted says that the message is encrypted as a whole already.
	Encrypted bool
}

// header is what the samples have in common; the subject is a secret.
const header = "From: Alice <alice@clinic.example>\r\n" +
	"To: Bob <bob@plain.example>\r\n" +
	"Date: Mon, 2 Nov 2026 10:00:00 +0000\r\n" +
	"Message-ID: <m1@clinic.example>\r\n" +
	"Received: from ward7.inner by mx.clinic.example; Mon, 2 Nov 2026 10:00:00 +0000\r\n" +
	"X-Mailer: Clinicware 7.2\r\n"

const subject = "Subject: Findings of patient Lindqvist\r\n"

var always = []string{"Findings of patient Lindqvist", "Clinicware 7.2", "ward7.inner"}

const pdf = "JVBERi0xLjQgQSBmaW5kaW5nIHRoYXQgbm9ib2R5IG1heSByZWFk\r\n"

// All returns the samples, without Large.
func All() []Message {
	var all []Message
	add := func(name, text string, secrets ...string) {
		all = append(all, Message{Name: name, Text: []byte(text), Secrets: append(secrets, always...)})
	}
	mime := header + subject + "MIME-Version: 1.0\r\n"
	text := mime + "Content-Type: text/plain; charset=utf-8\r\n"

	add("plain", header+subject+"\r\nThe biopsy was malignant.\r\n", "The biopsy was malignant.")
	add("7bit", text+"Content-Transfer-Encoding: 7bit\r\n\r\nThe biopsy was malignant.\r\n", "The biopsy was malignant.")
	add("8bit", text+"Content-Transfer-Encoding: 8bit\r\n\r\nDer Befund: bösartig, Größe 3 mm.\r\n", "bösartig, Größe")
	add("binary", text+"Content-Transfer-Encoding: binary\r\n\r\nThe biopsy\x00\xff\xfe was malignant.\r\n", "was malignant.")
	add("undeclared 8bit", header+subject+"\r\nDer Befund: b\xf6sartig.\r\n", "Der Befund: b")
	add("long lines", text+"\r\n"+strings.Repeat("malignant biopsies ", 5000)+"\r\n", "malignant biopsies ")
	add("bare LF", strings.ReplaceAll(text, "\r\n", "\n")+"\nThe biopsy\nwas malignant.\n", "was malignant.")
	add("mixed line ends", text+"\r\nThe biopsy\nwas\rmalignant.\r\r\n\n", "malignant.")
	add("NUL", text+"\r\nThe biopsy \x00 was malignant.\r\n", " was malignant.")
	add("no end of line", text+"\r\nThe biopsy was malignant.", "The biopsy was malignant.")
	add("no content", text+"\r\n")
	add("no empty line", header+subject)
	add("ends in a field", header+"Subject: Findings of patient Lindqvist")
	add("content type at the end", header+subject+"Content-Type: text/plain; name=findings.txt", "findings.txt")
	add("no field", header+subject+"The biopsy was malignant.\r\nMore: of it\r\n\r\nEnd of findings\r\n",
		"The biopsy was malignant.", "More: of it", "End of findings")
	add("second header", header+subject+"\r\nSubject: Another malignant one\r\nTo: x@example.org\r\n\r\nThe biopsy\r\n", "Another malignant one")
	add("blank continuation", header+subject+"Comments: a\r\n \r\n malignant biopsy\r\n\r\nNothing more here.\r\n", "malignant biopsy", "Nothing more here.")
	add("blank continuation of To", header+"To: c@example.org\r\n \t\r\n"+subject+"\r\nThe biopsy was malignant.\r\n", "The biopsy was malignant.")
	add("blanks before colons", strings.NewReplacer("X-Mailer:", "X-Mailer \t:", "To:", "To \t:").Replace(header)+"Subject : Findings of patient Lindqvist\r\n\r\nThe biopsy was malignant.\r\n", "The biopsy was malignant.")
	add("html", mime+"Content-Type: text/html\r\n\r\n<html><title>Biopsy report</title><p>malignant</p></html>\r\n", "Biopsy report", "malignant")
	add("alternative", mime+"Content-Type: multipart/alternative; boundary=alt\r\n\r\n--alt\r\n\r\nThe biopsy was malignant.\r\n--alt\r\n"+
		"Content-Type: text/html\r\n\r\n<p>The <b>biopsy</b> was malignant.</p>\r\n--alt--\r\n", "was malignant.", "<b>biopsy</b>")
	add("related with cid", mime+"Content-Type: multipart/related; boundary=rel\r\n\r\n--rel\r\nContent-Type: text/html\r\n\r\n"+
		"<img src=\"cid:xray-17\">\r\n--rel\r\nContent-Type: image/png; name=\"xray-lindqvist.png\"\r\nContent-ID: <xray-17>\r\n"+
		"Content-Transfer-Encoding: base64\r\n\r\n"+pdf+"--rel--\r\n", "xray-lindqvist.png", "cid:xray-17")
	add("attachment", mime+"Content-Type: multipart/mixed; boundary=\"mix 1\"\r\n\r\npreamble text\r\n--mix 1\r\n\r\nThe biopsy was malignant.\r\n--mix 1\r\n"+
		"Content-Type: application/pdf; name=\"lindqvist.pdf\"\r\nContent-Disposition: attachment; filename=\"lindqvist.pdf\"\r\n"+
		"Content-Transfer-Encoding: base64\r\n\r\n"+pdf+"--mix 1--\r\nepilogue text\r\n", "lindqvist.pdf", "preamble text", "epilogue text", "A finding that nobody may read")
	add("file names of RFC 2231", mime+"Content-Type: application/pdf;\r\n name*0*=utf-8''bef%C3%BCnd;\r\n name*1*=%20lindqvist.pdf\r\n"+
		"Content-Disposition: attachment; filename*=utf-8''bef%C3%BCnd%20lindqvist.pdf\r\nContent-Transfer-Encoding: base64\r\n\r\n"+pdf,
		"befünd lindqvist.pdf", "A finding that nobody may read")
	add("deep", mime+deep(30), "the innermost finding")
	add("calendar", mime+"Content-Type: text/calendar; method=REQUEST; charset=utf-8\r\n\r\nBEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\nBEGIN:VEVENT\r\n"+
		"SUMMARY:Chemotherapy begins\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n", "Chemotherapy begins")
	add("delivery report", mime+"Content-Type: multipart/report; report-type=delivery-status; boundary=rep\r\nAuto-Submitted: auto-replied\r\n\r\n--rep\r\n\r\n"+
		"It could not be delivered.\r\n--rep\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.clinic.example\r\n\r\n"+
		"Final-Recipient: rfc822; bob@plain.example\r\n\r\n--rep\r\nContent-Type: message/rfc822\r\n\r\nSubject: malignant biopsy\r\n\r\nhello\r\n--rep--\r\n",
		"It could not be delivered.", "malignant biopsy")
	add("forwarded", mime+"Content-Type: message/rfc822\r\nContent-Disposition: inline\r\n\r\nFrom: c@example.org\r\nSubject: malignant biopsy\r\n\r\nhello there\r\n", "malignant biopsy", "hello there")
	add("DKIM", "DKIM-Signature: v=1; a=rsa-sha256; d=clinic.example; s=dkimselector;\r\n h=from:to:subject; bh=abc=; b=Zm9vYmFy\r\n"+
		"ARC-Seal: i=1; d=clinic.example; s=arcselector\r\n"+text+"\r\nThe biopsy was malignant.\r\n", "The biopsy was malignant.", "dkimselector", "arcselector")
	add("winmail.dat", mime+"Content-Type: application/ms-tnef; name=\"winmail.dat\"\r\nContent-Transfer-Encoding: base64\r\n\r\n"+
		base64.StdEncoding.EncodeToString([]byte("\x78\x9f\x3e\x22 malignant biopsy"))+"\r\n", "malignant biopsy")
	add("broken content type", mime+"Content-Type: multipart/mixed; boundary=\"unclosed\r\nContent-Type: text/plain; name=lindqvist.txt;;;\r\n\r\n--unclosed\r\nmalignant biopsy\r\n", "lindqvist.txt", "malignant biopsy")
	add("two subjects", header+subject+"Subject: malignant biopsy\r\n\r\nhello there\r\n", "malignant biopsy", "hello there")
	add("folded subject", header+"Subject: Findings of patient\r\n Lindqvist: malignant\r\n\tbiopsy\r\n\r\nhello there\r\n", "Findings of patient", "Lindqvist: malignant", "hello there")
	add("encoded subject", header+"Subject: =?utf-8?B?QmVmdW5kIExpbmRxdmlzdDogYsO2c2FydGln?=\r\n =?iso-8859-1?Q?_Gr=F6=DFe_drei?=\r\n\r\nhello there\r\n", "Befund Lindqvist: bösartig", " Größe drei", "hello there")
	add("no subject", header+"\r\nThe biopsy was malignant.\r\n", "The biopsy was malignant.")
	var many strings.Builder
	for i := range 100 {
		fmt.Fprintf(&many, ",\r\n Person %d <person%d@host%d.example>", i, i, i%3)
	}
	add("100 recipients", strings.Replace(header, "<bob@plain.example>", "<bob@plain.example>"+many.String(), 1)+subject+"\r\nThe biopsy was malignant.\r\n", "The biopsy was malignant.")
	add("Bcc", header+subject+"Bcc: hidden-person@other.example\r\nResent-Bcc: second-person@other.example\r\n\r\nThe biopsy was malignant.\r\n", "hidden-person", "second-person", "The biopsy was malignant.")
	add("list", header+subject+"List-Id: <staff.clinic.example>\r\nList-Topic: oncology ward seven\r\nKeywords: malignant biopsy\r\nComments: see the x-ray\r\nThread-Topic: Findings of patient\r\n\r\nhello there\r\n", "malignant biopsy", "see the x-ray", "oncology ward seven", "hello there")
	add("SMTPUTF8", "From: Jürgen <jürgen@münchen.example>\r\nTo: δοκιμή@παράδειγμα.example\r\nMessage-ID: <m2@clinic.example>\r\nX-Mailer: Clinicware 7.2\r\n"+
		"Received: from ward7.inner by mx.clinic.example with UTF8SMTP; Mon, 2 Nov 2026 10:00:00 +0000\r\n"+
		"Subject: Findings of patient Lindqvist: bösartig\r\n\r\nDie Biopsie ist bösartig.\r\n", "Lindqvist: bösartig", "Die Biopsie ist")
	add("words that look encrypted", text+"\r\n-----BEGIN PGP MESSAGE-----\r\n\r\nThe biopsy was malignant.\r\n-----END PGP MESSAGE-----\r\n", "The biopsy was malignant.")
	add("encrypted part beside a clear one", mime+"Content-Type: multipart/mixed; boundary=mix\r\n\r\n--mix\r\nContent-Type: text/plain\r\n\r\n"+PGP+
		"\r\n--mix\r\nContent-Type: text/plain; name=\"lindqvist.txt\"\r\n\r\nThe biopsy was malignant.\r\n--mix--\r\n", "The biopsy was malignant.", "lindqvist.txt")
	add("signed by PGP", mime+"Content-Type: multipart/signed; protocol=\"application/pgp-signature\"; micalg=pgp-sha256; boundary=sig\r\n\r\n--sig\r\n"+
		"Content-Type: text/plain\r\n\r\nThe biopsy was malignant.  \r\n--sig\r\nContent-Type: application/pgp-signature; name=\"signature.asc\"\r\n\r\n"+
		"-----BEGIN PGP SIGNATURE-----\r\n\r\nabcd\r\n-----END PGP SIGNATURE-----\r\n--sig--\r\n", "The biopsy was malignant.")
	all = append(all,
		Message{Name: "encrypted by PGP", Encrypted: true, Text: []byte(header + "Subject: hello\r\nMIME-Version: 1.0\r\n" +
			"Content-Type: multipart/encrypted; protocol=\"application/pgp-encrypted\"; boundary=enc\r\n\r\n--enc\r\n" +
			"Content-Type: application/pgp-encrypted\r\n\r\nVersion: 1\r\n\r\n--enc\r\nContent-Type: application/octet-stream\r\n\r\n" +
			PGP + "\r\n--enc--\r\n")},
		Message{Name: "encrypted by S/MIME", Encrypted: true, Text: []byte(header + "Subject: hello\r\nMIME-Version: 1.0\r\n" +
			"Content-Type: application/pkcs7-mime; smime-type=enveloped-data; name=smime.p7m\r\nContent-Transfer-Encoding: base64\r\n\r\n" + CMS)})
	return all
}

// deep returns a multipart/mixed in multipart/mixed, so many levels.
func deep(levels int) string {
	inner := "Content-Type: text/plain\r\n\r\nthe innermost finding"
	for i := range levels {
		inner = fmt.Sprintf("Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n%s\r\n--b%d--\r\n", i, i, inner, i)
	}
	return inner
}

// Large is a message with an attachment of so many octets, before base64. The
// attachment is the repeated word "lindqvist" with numbers between.
func Large(octets int) Message {
	var b bytes.Buffer
	b.Grow(octets*138/100 + 4096)
	b.WriteString(header + subject + "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=big\r\n\r\n--big\r\n\r\n" +
		"The biopsy was malignant.\r\n--big\r\nContent-Type: application/octet-stream; name=\"lindqvist.bin\"\r\n" +
		"Content-Transfer-Encoding: base64\r\n\r\n")
	line := make([]byte, 0, 57)
	for i, n := 0, 0; n < octets; i++ {
		line = fmt.Appendf(line[:0], "lindqvist %d %x %o %b ", i, i*2654435761, i*40503, i*97)[:min(57, octets-n)]
		n += len(line)
		b.WriteString(base64.StdEncoding.EncodeToString(line))
		b.WriteString("\r\n")
	}
	b.WriteString("--big--\r\n")
	return Message{Name: "large", Text: b.Bytes(), Secrets: append([]string{"The biopsy was malignant.", "lindqvist.bin"}, always...)}
}
