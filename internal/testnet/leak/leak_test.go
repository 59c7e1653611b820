package leak

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"strings"
	"testing"
)

// What leaks is seen, in each form and at each offset.
func TestFind(t *testing.T) {
	secret := "The quarterly figures of Müller & Söhne are bad."
	o := New([]byte(secret), []byte("figures.xlsx"))
	for name, wire := range map[string]string{
		"as it is":                "Subject: quarterly\r\n\r\n",
		"a part":                  "xx igures xx",
		"quoted-printable":        "of M=C3=BCller =26 S",
		"quoted-printable broken": "the figu=\r\nres of\r\n",
		"percent":                 "filename*=utf-8''M%C3%BCller%20%26",
		"base64":                  base64.StdEncoding.EncodeToString([]byte(secret)),
		"base64, later":           "x " + base64.StdEncoding.EncodeToString([]byte("a" + secret))[3:],
		"base64, later still":     base64.StdEncoding.EncodeToString([]byte("ab" + secret))[1:],
		"base64url":               base64.URLEncoding.EncodeToString([]byte("?????>" + secret)),
		"base64 in lines": strings.Join(strings.SplitAfter(
			base64.StdEncoding.EncodeToString([]byte(secret)), "R"), "\r\n"),
		"an encoded word": "=?utf-8?B?" + base64.StdEncoding.EncodeToString([]byte(secret)) + "?=",
	} {
		if found := o.Find([]byte(wire)); len(found) == 0 {
			t.Errorf("%s: nothing found in %q", name, wire)
		}
	}
	random := make([]byte, 30000)
	rand.Read(random)
	clean := "From: a@example.org\r\nSubject: [...]\r\n\r\n" + base64.StdEncoding.EncodeToString(random)
	if found := o.Find([]byte(clean)); found != nil {
		t.Errorf("found %v in noise", found)
	}
	o.Allow([]byte("figures"))
	if found := o.Find([]byte("figures")); found != nil {
		t.Errorf("found %v, which is allowed", found)
	}
	if o.Len() == 0 || !bytes.Contains([]byte(secret), []byte("figures")) {
		t.Error("nothing is left to look for")
	}
}
