// Package contract holds what two sides must spell alike: the daemon, and the
// MTA as setup binds it. Who writes one of these words, and who reads it, does it
// here.
//
// There are five. The transports that setup gives to Postfix (Transport). The
// maps that both MTAs ask, whose names say something themselves (Map, SenderMap,
// ForcedMap). The question that Sendmail puts and the answers to it (Question).
// The tag by which a message says in Sendmail's queue what it is held to (Tag).
// And the words of the configuration that setup, doctor and the daemon each act
// by (Others, Bounces and so on).
//
// Sendmail's side of the question and of the tag is written in Sendmail's own
// language, in package internal/mta/sendmail. A test there compares it with what
// is here.
//
// It decides nothing, and knows neither rules nor settings of an MTA.
package contract

// Header is the field that the milter adds to protected mail. Setup takes it off
// where that is asked for.
const Header = "TLS-Only"

// Doctor is the local part of senders, and with ".invalid" the domain, that
// doctor asks for in the MTA's place. No real mail has them, so the daemon
// counts no question about them.
const Doctor = "tlsonly-doctor"

// DoctorDomain is the domain that doctor asks about: nobody can have it
// (RFC 2606, section 2).
const DoctorDomain = Doctor + ".invalid"
