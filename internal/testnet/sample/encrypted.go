package sample

// PGP is an OpenPGP message, made by GnuPG 2.2 for a key that is no more.
const PGP = "" +
	"-----BEGIN PGP MESSAGE-----\r\n" +
	"\r\n" +
	"hF4Dwv4ZIEBw4OwSAQdAfx3j45Cg1v/WWpxNeryBlV+Fdz2Ha93OP+so1Do57yow\r\n" +
	"YlJWrIYF5S8hYkobIQGlbPVvn7XiHBkGXSCO7W5XDXrc3yY0c3TXbFujVRkCufZd\r\n" +
	"0l4BFYwucwrA1+NRKHTUsK4i8pgRUb7iqdSvm6ATut7EL8jxloWymPMdZHAEQ3ng\r\n" +
	"4aV14Sn8qXyl2+nM5Ex2ExvUQU/em5BD/xtRZtb0Qxz6kLFbECqwUmtf4m1s9gJg\r\n" +
	"=zmvG\r\n" +
	"-----END PGP MESSAGE-----"

// CMS is an EnvelopedData in base64, made by OpenSSL 3.0 for a key that is no
// more.
const CMS = "" +
	"MIIBugYJKoZIhvcNAQcDoIIBqzCCAacCAQAxggFCMIIBPgIBADAmMA4xDDAKBgNV\r\n" +
	"BAMMA2JvYgIUalnaQDbnW0rrdMId9wJxec+PaHYwDQYJKoZIhvcNAQEBBQAEggEA\r\n" +
	"r5FmxQbQG93hinxSGoZ95vow6kA6w2d6D6yNJH0vBDGkGHe1Y/5Zcdj5q13+oLyo\r\n" +
	"YM8J3SjZ3R60TtwIENePPhmfBfe0C3fl00z6syOefW8UvaJMDEQeujfJx9VukrGZ\r\n" +
	"kYq4V37fZWD4A2WP/0Dg+mT11Ww4rdYoCLGjMIumMNaOPu7shfbAVIDpTuGFsX//\r\n" +
	"W96CH3Q6WI+JwaPFghgZwCCUnv/k0ht69g53z38Yy+PwQjxdPjXULU848uCsRUYf\r\n" +
	"EwhdIsIGnuDcW068GEELVYRrmPIpDKjw54gFXPayr133PZc9VZ96n1xif70rfpau\r\n" +
	"pFCSKOrwOLPEaHECbnOF+zBcBgkqhkiG9w0BBwEwHQYJYIZIAWUDBAEqBBDj47az\r\n" +
	"9GKxEY4IekL7je+EgDCifud7ONaRmJGTAmE/i+tSBe5wMz4N4UJBMeKVn2rpjNQb\r\n" +
	"ObM2HIGka5fWWYQdZs0=\r\n"
