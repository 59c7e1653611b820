package main

import (
	"fmt"
	"strings"
	"testing"

	"tlsonly/internal/contract"
	"tlsonly/internal/policy"
)

// TestMTAAgreementLevels is TestMTAAgreement at each level that enforces, for the
// destinations of the matrix: DANE, MTA-STS and certificates, in signed zones.
func TestMTAAgreementLevels(t *testing.T) {
	long(t)
	isolated(t)
	m := newMatrixWorld(t)
	w := &agreeWorld{own: "127.0.9.1", probe: fmt.Sprintf("ca_file = %q\n", m.caFile)}
	var placed []*matrixLine
	for i, c := range matrixCases() {
		if c.more.direct || c.more.match != "" {
			continue // no domain of a recipient, or a rule of its own
		}
		l := m.place(i, c)
		placed = append(placed, l)
		for _, level := range matrixLevels() {
			tag := contract.TagName
			if level == policy.LevelEncrypt {
				tag = contract.TagEncrypt
			}
			w.lines = append(w.lines, &agreeLine{agreeCase: agreeCase{name: c.name + ", " + string(level), differs: atLevel(c, level)},
				domain: l.mail, user: string(level), from: "doctor@" + string(level) + "clinic.test", tag: tag})
		}
	}
	for _, level := range matrixLevels() {
		w.rules += ruleOf(string(level)+"clinic.test", string(level))
	}
	m.serve()
	for _, l := range placed {
		if f := l.more.fault; f.fault != "" {
			m.signed.SetFault(strings.ReplaceAll(f.name, "@", l.mail), f.qtype, f.fault)
		}
	}
	// All at once are more questions than the resolver has time for.
	few := map[string]string{"default_process_limit": "10"}
	t.Run("Postfix", func(t *testing.T) { w.postfix(t, "", few) })
	t.Run("Postfix 3.10", func(t *testing.T) { w.postfix(t, needPostfix310(t), few) })
	t.Run("Sendmail", func(t *testing.T) { w.sendmail(t) })
}

// atLevel says why we and an MTA differ about a case of the matrix at a level.
func atLevel(c matrixCase, level policy.Level) map[string]string {
	switch why := c.differs[level]; why {
	case "", onePolicy: // the answer of the daemon is made of what it knows of both hosts
		return nil
	case insecureMX:
		return onBoth(why)
	default:
		return map[string]string{onPostfix: why}
	}
}
