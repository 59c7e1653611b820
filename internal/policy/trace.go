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
