// Package fallback says what becomes of a message that the MTA could not
// deliver over TLS as its rule asks. It has the words that the gateway, the
// judge and the methods of encryption have in common, and no code of theirs:
//
//   - the gateway (package gateway) is the last host of the MTA's route. It
//     takes the message and asks the judge about each recipient.
//   - the judge assesses the destination anew and goes by the rules.
//   - a method makes a message that only the recipient can read.
//
// A message is never sent in the clear because something failed: whatever is
// not certain is Again.
package fallback

import (
	"context"
	"io"

	"tlsonly/internal/addr"
	"tlsonly/internal/policy"
)

// Action is what becomes of a message to one recipient.
type Action int

// The actions. The zero Action is Again, so that what nobody has set waits.
const (
	Again   Action = iota // 451: the MTA tries again
	Refuse                // 550: the MTA returns it to its sender
	Encrypt               // a copy that Way.Method encrypts leaves over ordinary TLS
	Open                  // as it is, over ordinary TLS: nothing is asked of this mail
)

// String returns the action in one word of the log.
func (a Action) String() string {
	switch a {
	case Refuse:
		return "refuse"
	case Encrypt:
		return "encrypt"
	case Open:
		return "open"
	}
	return "again"
}

// Way is the outcome for one sender and recipient.
type Way struct {
	Action Action
	// Cause is why the destination can't have the message as it is, or why
	// nothing is decided: one line for people, without a final full stop, as in
	// "mx.example.org does not offer STARTTLS". Never empty but with Open.
	Cause string
	// Code is the enhanced status code (RFC 3463) of Again and Refuse: "4.7.10".
	Code string
	// Reason is why, in the word that goes to log and metrics.
	Reason policy.Reason
	// Rule is the name of the rule that decides, "" for none.
	Rule string
	// Method is what encrypts, with Encrypt.
	Method Method
	// Passes are the names of the methods by which a message may be encrypted
	// already ("openpgp", "smime"): such a message leaves as it is, whatever
	// the Action is but for Again.
	Passes []string
}

// State is what is known of a method for one recipient.
type State int

// The states. The zero State is Unknown.
const (
	Unknown State = iota // it could not be found out: try again
	None                 // there is none, for certain
	Certain              // it can encrypt to this recipient now
)

// String returns the state in one word.
func (s State) String() string {
	switch s {
	case None:
		return "none"
	case Certain:
		return "certain"
	}
	return "unknown"
}

// Copy says which message a method is to make.
type Copy struct {
	Sender, Recipient addr.Address // of the envelope
	// MessageID is what the copy has in place of the original's Message-ID, in
	// angle brackets: the same each time that the same message comes.
	MessageID string
	// Extra are fields for the outside: "Name: value", one line each, without
	// line ends.
	Extra []string
}

// Method is a way to protect a message without TLS. It is safe for concurrent
// use.
type Method interface {
	// Name is the word of the rules and the log: "openpgp", "smime".
	Name() string
	// Known says whether the method can be used for this mail, and why not.
	// Cause is nil with Certain and never nil otherwise.
	Known(ctx context.Context, sender, recipient addr.Address) (state State, cause error)
	// Encrypt reads a message, octets as after DATA without the dots of SMTP,
	// and writes the one that is to leave in its place: header and content, all
	// lines with CRLF. It works as a stream.
	//
	// After an error what was written is no message and must not be sent. It
	// never writes what is to be encrypted in the clear.
	Encrypt(ctx context.Context, w io.Writer, message io.Reader, c Copy) error
}

// Judge judges mail that the MTA could not deliver, anew: by the rules now in
// force and an assessment of the destination that is not older than the
// question. It is safe for concurrent use.
type Judge interface {
	// Judge returns the way of a message to one recipient. An error is a fault
	// of our own, and is Again.
	Judge(ctx context.Context, sender, recipient addr.Address) (Way, error)
}
