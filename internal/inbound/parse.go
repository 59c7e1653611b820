package inbound

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"tlsonly/internal/addr"
	"tlsonly/internal/config/value"
	"tlsonly/internal/policy"
)

// Parse makes rules of the [[inbound]] tables of a file and returns everything that is wrong with them, in no order.
// The rules are good for New only when there is no fault. Of now, the location says which time zone a rule's last
// day is meant in, and the time which rules are over: those shadow nothing.
func Parse(tables []value.Table, now time.Time) ([]*Rule, []value.Fault) {
	var faults []value.Fault
	rs := make([]*Rule, 0, len(tables))
	keys := keysIn(now.Location())
	names := make(value.Names, len(tables))
	for i, t := range tables {
		r := &Rule{
			Level:      Encrypt,
			MinVersion: policy.DefaultDemand().MinVersion,
			MinBits:    policy.DefaultDemand().MinBits,
			OnFail:     policy.ActionReject,
			Mode:       policy.Enforce,
			Line:       t.Line,
		}
		label, taken := names.Label("inbound rule", i, t)
		faults = append(faults, taken...)
		faults = append(faults, keys.Read(r, t, label)...)
		if cert, ok := t.Keys["cert"]; ok && len(r.Cert) > 0 && r.Level != Verified {
			faults = append(faults, value.Fault{Line: cert.Line, Text: label + `cert: only for tls = "verified"`})
		}
		faults = append(faults, value.Needs(t, label, "name", "tls")...)
		rs = append(rs, r)
	}
	if len(faults) == 0 {
		faults = shadowed(rs, now)
	}
	return rs, faults
}

// Keys lists the keys that a rule can have, sorted.
func Keys() []string { return slices.Sorted(maps.Keys(keysIn(time.UTC))) }

func keysIn(zone *time.Location) value.Keys[Rule] {
	return value.Keys[Rule]{
		"name":        value.Into(func(r *Rule) *string { return &r.Name }, value.RuleName),
		"client":      value.Into(func(r *Rule) *[]Client { return &r.Client }, value.List(readClient)),
		"from":        value.Into(func(r *Rule) *[]addr.Pattern { return &r.From }, value.List(value.Pattern)),
		"to":          value.Into(func(r *Rule) *[]addr.Pattern { return &r.To }, value.Recipients),
		"tls":         value.Into(func(r *Rule) *Level { return &r.Level }, value.Word(May, Encrypt, Verified)),
		"min_version": value.Into(func(r *Rule) *policy.Version { return &r.MinVersion }, value.Version),
		"min_bits":    value.Into(func(r *Rule) *int { return &r.MinBits }, value.Int(0, 256)),
		"cert":        value.Into(func(r *Rule) *[]string { return &r.Cert }, value.List(readCert)),
		"on_fail": value.Into(func(r *Rule) *policy.Action { return &r.OnFail },
			value.Word(policy.ActionReject, policy.ActionDefer, policy.ActionHold, policy.ActionTag)),
		"mode":   value.Into(func(r *Rule) *policy.Mode { return &r.Mode }, value.Word(policy.Enforce, policy.Observe)),
		"until":  value.Into(func(r *Rule) *time.Time { return &r.Until }, value.LastDay(zone)),
		"reason": value.Into(func(r *Rule) *string { return &r.Why }, value.Why),
	}
}

func readClient(v value.Value) (Client, error) {
	s, err := value.Text(v)
	if err != nil {
		return Client{}, err
	}
	c, err := ParseClient(s)
	if err != nil {
		// What is parsed stands before the text already.
		return c, value.Wrong(v, "%s", strings.TrimPrefix(err.Error(), fmt.Sprintf("domain %q: ", s)))
	}
	return c, nil
}

func readCert(v value.Value) (string, error) {
	s, err := value.Text(v)
	if err == nil && foldName(s) == "" {
		err = value.Wrong(v, "want the common name of a certificate")
	}
	return foldName(s), err
}

// maxCompared is how long the lists of an earlier rule may be for it to be looked at: a start must not wait for a search
// through products of long lists.
const maxCompared = 100

// shadowed returns a fault for every rule that can never decide, because one earlier rule selects all that it does. Rules
// that are over don't count, nor does an earlier rule that will be: what it shadows comes into its own then.
func shadowed(rs []*Rule, now time.Time) []value.Fault {
	var faults []value.Fault
	for i, r := range rs {
		if !r.Active(now) {
			continue
		}
		for _, e := range rs[:i] {
			if e.Until.IsZero() && e.covers(r) {
				faults = append(faults, value.Fault{Line: r.Line, Text: fmt.Sprintf(
					"inbound rule %q: unreachable: rule %q on line %d decides before it", r.Name, e.Name, e.Line)})
				break
			}
		}
	}
	return faults
}

// covers reports whether r selects whatever s does.
func (r *Rule) covers(s *Rule) bool {
	addresses := func(p, q addr.Pattern) bool { return p.Covers(q) }
	everybody := addr.MustPattern("*")
	return allCovered(r.Client, s.Client, Client{any: true}, Client.covers) &&
		allCovered(r.From, s.From, everybody, addresses) && allCovered(r.To, s.To, everybody, addresses)
}

// allCovered reports whether each of the narrow is covered by one of the wide; an empty list stands for everybody.
func allCovered[T any](wide, narrow []T, everybody T, covers func(w, n T) bool) bool {
	if len(wide) == 0 {
		return true
	}
	if len(narrow) == 0 {
		narrow = []T{everybody}
	}
	return len(wide) <= maxCompared && !slices.ContainsFunc(narrow, func(n T) bool {
		return !slices.ContainsFunc(wide, func(w T) bool { return covers(w, n) })
	})
}
