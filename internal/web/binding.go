package web

import (
	"time"

	"tlsonly/internal/mta"
)

// Binding is what the daemon knows of its hold on the MTA of this host.
type Binding struct {
	MTA   string // "postfix" or "sendmail"
	Known bool   // it has been looked at; else the rest says nothing
	// OK: no mail passes the daemon by, and no setting stops mail. The MTA may
	// not be running.
	OK       bool
	Since    time.Time       // when OK became what it is
	Findings []mta.Finding   // those that fail, the worst first
	Checks   map[string]bool // by Finding.Check: whether all is well
	Problem  string          // why the last look saw nothing, "" for a good one
	Text     string          // the first finding in a line, with what to do
}

// Down reports whether the MTA doesn't run.
func (b Binding) Down() bool {
	for _, f := range b.Findings {
		if f.Severity == mta.Down {
			return true
		}
	}
	return false
}

// binding returns what is known; false for nothing.
func (c *Config) binding() (Binding, bool) {
	if c.Binding == nil {
		return Binding{}, false
	}
	return c.Binding()
}

// bindingCheck is the part of it that readiness depends on. An MTA that doesn't
// run leaks nothing, and may be waiting for the daemon to be ready.
func (c *Config) bindingCheck() (checkState, bool) {
	b, ok := c.binding()
	if !ok || !b.Known {
		return checkState{}, false
	}
	state := checkState{Name: "binding", OK: b.OK}
	if !b.OK {
		state.Error = b.MTA + " isn't bound: " + b.Text
	}
	return state, true
}
