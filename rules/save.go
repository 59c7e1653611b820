package rules

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"tlsonly/internal/addr"
)

// Save returns the rules as a document that Restore takes, and a key that is
// the same for two sets only if they ask the same. What is only for people
// (the reason, the place in the file) is left out.
func (s *Set) Save() (key string, doc []byte, err error) {
	saved := savedSet{Forms: s.forms, Rules: make([]Rule, 0, len(s.all))}
	for _, r := range s.all {
		r := *r
		r.Why, r.Line, r.Until = "", 0, r.Until.UTC()
		saved.Rules = append(saved.Rules, r)
	}
	if doc, err = json.Marshal(saved); err != nil {
		return "", nil, fmt.Errorf("rules: %w", err)
	}
	sum := sha256.Sum256(doc)
	return hex.EncodeToString(sum[:]), doc, nil
}

// savedSet is the document of a Set.
type savedSet struct {
	Forms addr.Forms `json:"forms"`
	Rules []Rule     `json:"rules"`
}

// Restore makes a Set of what Save returned.
func Restore(doc []byte) (*Set, error) {
	var saved struct {
		Forms addr.Forms `json:"forms"`
		Rules []*Rule    `json:"rules"`
	}
	at := any(&saved)
	if bytes.HasPrefix(doc, []byte("[")) {
		// Of an earlier version, by which a rewritten address counted as it stood, too.
		saved.Forms.SRS = addr.SRSMatch
		at = &saved.Rules
	}
	if err := json.Unmarshal(doc, at); err != nil {
		return nil, fmt.Errorf("rules that were saved: %w", err)
	}
	return newSet(saved.Rules, saved.Forms), nil
}
