package rules

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// Save returns the rules as a document that Restore takes, and a key that is
// the same for two sets only if they ask the same. What is only for people
// (the reason, the place in the file) is left out.
func (s *Set) Save() (key string, doc []byte, err error) {
	saved := make([]Rule, 0, len(s.all))
	for _, r := range s.all {
		r := *r
		r.Why, r.Line, r.Until = "", 0, r.Until.UTC()
		saved = append(saved, r)
	}
	if doc, err = json.Marshal(saved); err != nil {
		return "", nil, fmt.Errorf("rules: %w", err)
	}
	sum := sha256.Sum256(doc)
	return hex.EncodeToString(sum[:]), doc, nil
}

// Restore makes a Set of what Save returned.
func Restore(doc []byte) (*Set, error) {
	var rs []*Rule
	if err := json.Unmarshal(doc, &rs); err != nil {
		return nil, fmt.Errorf("rules that were saved: %w", err)
	}
	return New(rs), nil
}
