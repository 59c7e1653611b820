package policy

import "fmt"

// Step is one line of how an answer came about.
type Step struct {
	Stage string `json:"stage"` // a word of the package that answers
	Text  string `json:"text"`
}

// Trace is how an answer came about, in the order of the steps.
type Trace []Step

// Add appends a step.
func (t *Trace) Add(stage, format string, args ...any) {
	*t = append(*t, Step{stage, fmt.Sprintf(format, args...)})
}

// Words says in words what a demand asks.
func (d Demand) Words() string {
	if d.Level == "" {
		return "nothing"
	}
	if !d.Level.Enforces() {
		return fmt.Sprintf("nothing (tls = %q)", d.Level)
	}
	text := string(d.Level)
	if d.MinVersion != 0 {
		text += fmt.Sprintf(", TLS %s", d.MinVersion)
	}
	if d.MinBits != 0 {
		text += fmt.Sprintf(", %d bits", d.MinBits)
	}
	before := ", a certificate for "
	for _, name := range d.Match {
		text += before + name.String()
		before = " or "
	}
	return text
}
