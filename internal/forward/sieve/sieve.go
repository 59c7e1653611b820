// Package sieve answers where a Sieve script may send mail: the addresses of its redirect and notify actions, the scripts it
// includes and the programs it calls, each with its line, and whether it hangs on a condition. It parses the whole
// script by RFC 5228's grammar, with a lexer and recursive descent; extensions need no grammar of their own.
//
// It runs no script, reads no file and follows no include: that, and what an address found here means, is the caller's. What
// answers the sender (vacation, reject) is no forward. Sources: RFC 5228, 3894 (:copy), 5229 (variables), 5435 and 5436 (notify
// by mailto), 6009 (redirect's delivery arguments), 6068 (mailto), 6134 (:list), 6609 (include).
//
// SECURITY: scripts are their users', so size, nesting and time are bounded. Every redirect counts, wherever it stands,
// though it may never run; an action this package doesn't know is reported as Unknown, and an address it can't tell as
// Unresolved, so that a caller never takes "not seen" for "not there".
//
// BUGS: a variable is followed only when it is set once in the script, at the top, to a constant, before its use, and no other
// script is included.
package sieve

import (
	"fmt"

	"tlsonly/internal/addr"
)

// Kind says how an action makes mail leave.
type Kind string

// The kinds. A caller must treat what it doesn't expect as Unknown.
const (
	Redirect Kind = "redirect" // the message is sent to an address
	Notify   Kind = "notify"   // a notice about the message is sent to an address
	Include  Kind = "include"  // another script is run
	Program  Kind = "program"  // the message is handed to a program (pipe, filter, execute)
	Unknown  Kind = "unknown"  // an action this package doesn't know: it may send mail anywhere
)

// Location says where an included script lies.
type Location string

// The locations (RFC 6609, section 3.2).
const (
	Personal Location = "personal"
	Global   Location = "global"
)

// Forward is one action by which mail may leave; an action with several addresses makes several.
type Forward struct {
	Kind        Kind
	Address     addr.Address // of Redirect and Notify, unless Unresolved
	Text        string       // the argument as it stands: address, URI, script's name, program's name; for Unknown the command
	Line        int          // from 1
	Copy        bool         // :copy (RFC 3894): the implicit keep stays
	Conditional bool         // it stands in a block, or behind something that may end the script before
	Unresolved  bool         // the target isn't known: it hangs on variables or on a list, or isn't an address
	List        bool         // :list (RFC 6134): Text is a list's name
	Location    Location     // of Include
	Optional    bool         // of Include: the script may be missing
}

// Error says where and why a script can't be read.
type Error struct {
	Line int // from 1
	Text string
}

// Error returns "line N: text".
func (e *Error) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Text) }

// Script is a parsed script.
type Script struct{ commands []*command }

// Parse parses a script. The error is an *Error: nothing is known of what such a script does, and what an MTA does without it is
// its own affair.
func Parse(script []byte) (*Script, error) {
	commands, err := parse(string(script))
	if err != nil {
		return nil, err
	}
	s := &Script{commands}
	if err := checkAll(commands, true); err != nil {
		return nil, err
	}
	return s, nil
}

// Forwards parses a script and lists the actions by which mail may leave, in the script's order.
func Forwards(script []byte) ([]Forward, error) {
	s, err := Parse(script)
	if err != nil {
		return nil, err
	}
	return s.Forwards(), nil
}

// Forwards lists the actions by which mail may leave, in the script's order.
func (s *Script) Forwards() []Forward {
	w := newWalk(s.commands)
	w.commands(s.commands, false)
	return w.found
}

// String prints the script in one form: a command a line, without comments.
func (s *Script) String() string {
	var p printer
	p.commands(s.commands, "")
	return p.b.String()
}
