package rules

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

// Parse makes rules of the [[rule]] tables of a file and returns everything that is wrong with them, in no order.
// The rules are good for New only when there is no fault. Of now, the location says which time zone a rule's last
// day is meant in, and the time which rules are over: those shadow nothing.
func Parse(tables []value.Table, now time.Time) ([]*Rule, []value.Fault) {
	var faults []value.Fault
	rs := make([]*Rule, 0, len(tables))
	keys := keysIn(now.Location())
	named := make(map[string]int, len(tables))
	for i, t := range tables {
		r := &Rule{
			MinVersion: policy.DefaultDemand().MinVersion,
			MinBits:    policy.DefaultDemand().MinBits,
			OnFail:     policy.ActionReject,
			OnUnknown:  policy.ActionDefer,
			Pin:        true,
			Mode:       policy.Enforce,
			Line:       t.Line,
		}
		label := fmt.Sprintf("rule %d: ", i+1)
		if name, err := readName(t.Keys["name"]); err == nil {
			label = fmt.Sprintf("rule %q: ", name)
			if first, ok := named[name]; ok {
				faults = append(faults, value.Fault{Line: t.Keys["name"].Line,
					Text: fmt.Sprintf("%sname is taken by the rule of line %d", label, first)})
			} else {
				named[name] = t.Line
			}
		}
		faults = append(faults, keys.Read(r, t, label)...)
		for _, key := range []string{"name", "tls"} {
			if _, ok := t.Keys[key]; !ok {
				faults = append(faults, value.Fault{Line: t.Line, Text: label + "no " + key})
			}
		}
		rs = append(rs, r)
	}
	if len(faults) == 0 {
		faults = shadowed(rs, now)
	}
	return rs, faults
}

// Keys lists the keys that a rule can have, sorted.
func Keys() []string { return slices.Sorted(maps.Keys(keysIn(time.UTC))) }

// keysIn says what each key of a rule means. A key moves from NotYet to Into when its work is built.
func keysIn(zone *time.Location) value.Keys[Rule] {
	return value.Keys[Rule]{
		"name":        value.Into(func(r *Rule) *string { return &r.Name }, readName),
		"from":        value.Into(func(r *Rule) *[]addr.Pattern { return &r.From }, value.List(value.Pattern)),
		"user":        value.Into(func(r *Rule) *[]string { return &r.User }, value.List(readUser)),
		"to":          value.Into(func(r *Rule) *[]addr.Pattern { return &r.To }, readTo),
		"forwarder":   value.NotYet[Rule](value.List(value.Pattern), value.None),
		"tls":         readLevel,
		"min_version": value.Into(func(r *Rule) *policy.Version { return &r.MinVersion }, readVersion),
		"min_bits":    value.Into(func(r *Rule) *int { return &r.MinBits }, value.Int(0, 256)),
		"honor":       value.NotYet[Rule](value.List(value.Word("dane", "mta-sts")), value.None),
		"match":       value.NotYet[Rule](value.List(value.Domain), value.None),
		"on_fail":     value.Into(func(r *Rule) *policy.Action { return &r.OnFail }, readOnFail),
		"on_unknown":  value.Into(func(r *Rule) *policy.Action { return &r.OnUnknown }, readOnUnknown),
		"pin":         value.Into(func(r *Rule) *bool { return &r.Pin }, value.Bool),
		"mode":        value.Into(func(r *Rule) *policy.Mode { return &r.Mode }, value.Word(policy.Enforce, policy.Observe)),
		"until":       value.Into(func(r *Rule) *time.Time { return &r.Until }, readUntil(zone)),
		"reason":      value.Into(func(r *Rule) *string { return &r.Why }, readReason),
	}
}

// readName takes what can stand in a header, a metric's label and a log line without quoting.
func readName(v value.Value) (string, error) {
	s, ok := v.Any.(string)
	if !ok || s == "" || len(s) > 64 || s != strings.TrimSpace(s) ||
		strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' || strings.ContainsRune(`";\`, r) }) {
		return "", value.Wrong(v, `want 1 to 64 printable ASCII characters without ", \ and ;`)
	}
	return s, nil
}

func readUser(v value.Value) (string, error) {
	s, err := value.Text(v)
	if err == nil && strings.TrimSpace(s) == "" {
		err = value.Wrong(v, `want a login, or "*" for every login`)
	}
	return foldUser(s), err
}

func readTo(v value.Value) ([]addr.Pattern, error) {
	ps, err := value.List(value.Pattern)(v)
	if err != nil {
		return nil, err
	}
	if len(ps) == 0 {
		return nil, value.Refuse(v, `names nobody: want recipients, or ["*"]`)
	}
	if i := slices.IndexFunc(ps, func(p addr.Pattern) bool { return p.Kind() == addr.Null }); i >= 0 {
		return nil, value.Wrong(v.Any.([]value.Value)[i], "no recipient is empty")
	}
	return ps, nil
}

// readLevel takes all five words, and those this version can't make true it refuses.
func readLevel(r *Rule, v value.Value) error {
	level := value.Word(policy.Levels()...)
	switch l, err := level(v); {
	case err != nil:
		_, err = value.Word(policy.LevelNone, policy.LevelMay, policy.LevelEncrypt)(v)
		return err
	case l.Rank() <= policy.LevelEncrypt.Rank():
		r.Level = l
		return nil
	}
	return value.NotYet[Rule](level, func(policy.Level) bool { return false })(r, v)
}

func readVersion(v value.Value) (policy.Version, error) {
	s, ok := v.Any.(string)
	version, err := policy.ParseVersion(s)
	if !ok || err != nil {
		return 0, value.Wrong(v, `want "1.0", "1.1", "1.2" or "1.3", in quotes`)
	}
	return version, nil
}

func readOnFail(v value.Value) (policy.Action, error) {
	if v.Any == string(policy.ActionFallback) {
		return "", value.Refuse(v, "is reserved and not supported yet")
	}
	return value.Word(policy.ActionReject, policy.ActionDefer, policy.ActionHold, policy.ActionTag)(v)
}

func readOnUnknown(v value.Value) (policy.Action, error) {
	if v.Any == string(policy.ActionFallback) {
		return "", value.Refuse(v, "is reserved and not supported yet")
	}
	return value.Word(policy.ActionReject, policy.ActionDefer, policy.ActionHold, policy.ActionTag,
		policy.ActionAccept)(v)
}

// readUntil takes a date, or a date with a time, of which the date counts: a rule ends with its last day, not in
// the middle of it. A date without an offset is meant here, one with an offset is a day here, too.
func readUntil(zone *time.Location) func(value.Value) (time.Time, error) {
	return func(v value.Value) (time.Time, error) {
		t, ok := v.Any.(time.Time)
		if !ok || t.Location().String() == "time-local" {
			return time.Time{}, value.Wrong(v, "want a date, without quotes, as 2027-01-31")
		}
		if l := t.Location().String(); l != "date-local" && l != "datetime-local" {
			t = t.In(zone)
		}
		year, month, day := t.Date()
		return time.Date(year, month, day+1, 0, 0, 0, 0, zone), nil
	}
}

func readReason(v value.Value) (string, error) {
	s, err := value.Text(v)
	if err == nil && len(s) > 500 {
		err = value.Refuse(v, "is longer than 500 octets")
	}
	return s, err
}
