// Package mta holds the words in which the packages below it speak of a running
// MTA: what doctor finds. It answers nothing by itself; what is looked at, and
// what it means, belongs to internal/mta/postfix and internal/mta/sendmail.
package mta

import "slices"

// Severity says how much a finding matters.
type Severity string

// The levels of findings, least first.
const (
	OK       Severity = "ok"
	Accepted Severity = "accepted"    // it was more, and the site has judged it
	Warning  Severity = "warning"     // an operator should look: mail may wait longer than it must, or a promise rests on one thing alone
	Broken   Severity = "broken"      // mail stops: it is refused for now, or waits in the queue
	Down     Severity = "not running" // the MTA or the daemon
	Hole     Severity = "hole"        // protected mail can leave in the clear
)

// Finding is one thing doctor looked at, in one line.
type Finding struct {
	Severity Severity `json:"level"`
	Code     string   `json:"code"`             // which finding it is, stable: "route-explicit"
	Where    string   `json:"where,omitempty"`  // the setting, service or FILE:LINE, without blanks; "" for none
	Check    string   `json:"check"`            // what was looked at, one word or two: "filter", "ruleset"
	Text     string   `json:"text"`             // what was found
	Remedy   string   `json:"remedy,omitempty"` // what to do about it; "" where nothing is to be done
	Reason   string   `json:"reason,omitempty"` // why the site has accepted it
}

// Inspection is what a look at an MTA's own configuration found.
type Inspection struct {
	Findings []Finding
	// Files are those that were read, absolute: when one changes, what was found
	// may be wrong.
	Files []string
}

// Fails reports whether a level says that mail leaks or stops.
func (l Severity) Fails() bool { return l == Hole || l == Broken || l == Down }

// Fails reports whether any finding says that mail leaks or stops.
func Fails(fs []Finding) bool {
	return slices.ContainsFunc(fs, func(f Finding) bool { return f.Severity.Fails() })
}

// Holes reports whether any finding is a hole.
func Holes(fs []Finding) bool {
	return slices.ContainsFunc(fs, func(f Finding) bool { return f.Severity == Hole })
}
