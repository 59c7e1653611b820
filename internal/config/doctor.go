package config

import (
	"strings"

	"tlsonly/internal/config/value"
	"tlsonly/internal/mta"
)

// Doctor is the table [doctor].
type Doctor struct {
	Accept []Acceptance // findings that the site has judged
}

// Acceptance says that a finding of doctor's is as it is meant to be.
type Acceptance struct {
	Code   string // of the finding
	Where  string // the place; "": any
	Reason string
}

// String returns what the finding is named by: CODE or CODE:WHERE.
func (a Acceptance) String() string {
	if a.Where == "" {
		return a.Code
	}
	return a.Code + ":" + a.Where
}

// readAcceptance takes "CODE reason" and "CODE:WHERE reason".
func readAcceptance(v value.Value) (Acceptance, error) {
	s, err := value.Text(v)
	if err != nil {
		return Acceptance{}, err
	}
	name, reason, _ := strings.Cut(strings.TrimSpace(s), " ")
	a := Acceptance{Reason: strings.TrimSpace(reason)}
	a.Code, a.Where, _ = strings.Cut(name, ":")
	switch _, known := mta.CheckOf(a.Code); {
	case !known:
		return Acceptance{}, value.Wrong(v, `%q is no code of a finding: want "CODE reason" or "CODE:WHERE reason", as tlsonly doctor shows them`, a.Code)
	case strings.HasSuffix(name, ":"):
		return Acceptance{}, value.Wrong(v, "no place after the colon: want CODE alone, or CODE:WHERE")
	case a.Reason == "":
		return Acceptance{}, value.Wrong(v, `no reason: want "%s reason"`, name)
	}
	return a, nil
}
