package received

import (
	"regexp"
	"slices"
	"strings"

	"tlsonly/internal/policy"
)

// tlsWords is what a text names of a TLS session.
type tlsWords struct {
	version policy.Version
	suite   string
	bits    int
}

// versionNamed finds TLSv1.3, TLS1_3, TLS 1.2, TLSv1 and SSLv3 as words.
var versionNamed = regexp.MustCompile(`(?i)(?:^|[^A-Z0-9])((TLS|SSL)[ _-]?v?([0-3](?:[._][0-3])?))(?:$|[^A-Z0-9_.]|\.(?:$|\s))`)

// Suites by the names of IANA, of OpenSSL (LibreSSL has AEAD before some), and of
// GnuTLS.
var (
	suiteIANA    = regexp.MustCompile(`^TLS_[A-Za-z0-9]+(?:_[A-Za-z0-9]+)*_(?:SHA[0-9]*|MD5|CCM|CCM_8|NULL)$`)
	suiteOpenSSL = regexp.MustCompile(`^(?:[A-Z0-9a-z]+-)*(?:AES(?:128|256)?|CAMELLIA(?:128|256)|ARIA(?:128|256)?|CHACHA20|DES|RC4|RC2|SEED|IDEA|NULL|GOST[0-9]+)(?:-[A-Z0-9]+)*-(?:SHA[0-9]*|MD5|POLY1305|CCM8?)$`)
	suiteGnuTLS  = regexp.MustCompile(`^[A-Z0-9]+(?:_+[A-Z0-9]+)*_+(?:AES_(?:128|256)|CHACHA20|CAMELLIA_(?:128|256)|3DES|ARCFOUR)(?:_[A-Z0-9]+)*$`)
)

// suite reports whether a word is the name of a cipher suite.
func suite(word string) bool {
	return suiteIANA.MatchString(word) || suiteOpenSSL.MatchString(word) || suiteGnuTLS.MatchString(word)
}

// null reports whether a suite encrypts nothing.
func null(suite string) bool {
	return slices.ContainsFunc(strings.FieldsFunc(strings.ToUpper(suite), func(r rune) bool { return r == '-' || r == '_' }),
		func(part string) bool { return part == "NULL" || part == "ENULL" })
}

// tlsIn finds what a text names of TLS. It is true for the words TLS, SSL and STARTTLS
// alone, too.
func tlsIn(text string) (tlsWords, bool) {
	var t tlsWords
	found := false
	// An address is what a client says.
	text = strings.Join(slices.DeleteFunc(strings.Fields(text), func(w string) bool { return strings.ContainsAny(w, "@<>\"") }), " ")
	if m := versionNamed.FindStringSubmatch(text); m != nil {
		if v, ok := tlsVersion(m[2] + m[3]); ok {
			t.version, found = v, true
		}
	}
	words := strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" \t,;:/=()[]{}<>\"'", r) })
	for i, w := range words {
		switch {
		case t.suite == "" && suite(w):
			t.suite, found = w, true
			if i+1 < len(words) {
				t.bits = strength(strings.TrimSuffix(words[i+1], "bits"))
			}
		case strings.EqualFold(w, "TLS"), strings.EqualFold(w, "SSL"), strings.EqualFold(w, "STARTTLS"):
			found = true
		}
	}
	// "SMTP-TLS", "ESMTP+TLS"
	for _, end := range []string{"-TLS", "+TLS", "-SSL", "+SSL"} {
		found = found || slices.ContainsFunc(words, func(w string) bool { return strings.HasSuffix(strings.ToUpper(w), end) })
	}
	return t, found
}

// denies reports whether a text says that there was no TLS.
func denies(text string) bool { return denial.MatchString(text) }

var denial = regexp.MustCompile(`(?i)\b(?:no|non|not|without|never|isn't|wasn't)\b[ -]+(?:\w+[ -]+){0,2}(?:(?:tls|ssl)(?:v?[0-9._]+)?|starttls|encrypt\w*)\b` +
	`|\b(?:(?:tls|ssl)(?:v?[0-9._]+)?|starttls|encryption)\b[ =:]*(?:was |is )?(?:not|no|none|off|failed|disabled|unavailable|isn't|wasn't)\b` +
	`|\bunencrypted\b|\b(?:clear|plain)[ -]?text\b`)

// told are the comments that are the server's word, and not the client's: in the from
// clause a client says its name, and who has its address gives it another one.
func (f field) told() []string {
	theirs := map[string]bool{}
	for _, c := range f.from.comments() {
		theirs[c] = theirs[c] || clientSays(c)
	}
	return slices.DeleteFunc(slices.Clone(f.all), func(c string) bool { return theirs[c] })
}

// clientSays reports whether a comment of the from clause has a name or an address of
// the client: one that says which, or a word that could be a name.
func clientSays(c string) bool {
	return !strings.ContainsAny(c, " :=") || helo.MatchString(c) || ehlo.MatchString(c) || clientAddress(clause{{kind: comment, text: c}}).IsValid()
}

var ehlo = regexp.MustCompile("(?i)ehlo|ident|account|authenticated")
