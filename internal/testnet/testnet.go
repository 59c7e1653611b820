// Package testnet is an internet of its own on loopback, for tests and for the demonstration: mail hosts with every
// fault a mail host can have, DNS zones, and a certificate authority. It answers how the program behaves against a
// given world; nothing in it judges that world, and nothing in it is used when real mail is handled.
//
// A mail host (StartSMTP) really receives mail (RFC 5321, RFC 3207) and remembers what it was sent: messages,
// command lines and every octet that reached it outside TLS, so that a test can prove what was never sent. Each
// Fault is one deviation, chosen at the start or switched while the host runs. A CA issues certificates, the right
// ones and the wrong ones; ServerTLS makes the servers' configurations from them. StartDNS answers as a resolver would,
// and StartSigned serves zones that are really signed, well or badly, to a real one.
//
// The caller closes what it started: Close ends all connections and goroutines. Listen addresses are meant to be in
// 127.0.0.0/8, port 0 unless a test needs one port on several addresses. No type here needs a testing.T.
package testnet
