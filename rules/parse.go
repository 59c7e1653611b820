package rules

import (
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
	names := make(value.Names, len(tables))
	for i, t := range tables {
		r := &Rule{
			MinVersion: policy.DefaultDemand().MinVersion,
			MinBits:    policy.DefaultDemand().MinBits,
			Honor:      policy.DefaultDemand().Honor,
			OnFail:     policy.ActionReject,
			OnUnknown:  policy.ActionDefer,
			Pin:        true,
			Mode:       policy.Enforce,

			FallbackElse:  defaultElse,
			FallbackAfter: defaultAfter,

			Line: t.Line,
		}
		label, taken := names.Label("rule", i, t)
		faults = append(faults, taken...)
		faults = append(faults, keys.Read(r, t, label)...)
		if _, ok := t.Keys["on_fail"]; !ok && len(r.Forwarder) > 0 {
			// Who sends to a mailbox that forwards can't mend that; its owner can, and then the mail comes in.
			r.OnFail = policy.ActionDefer
		}
		r.Forever = t.Keys["until"].Any == value.Never
		if match, ok := t.Keys["match"]; ok && len(r.Match) > 0 && r.Level != policy.LevelSecure {
			faults = append(faults, value.Fault{Line: match.Line, Text: label + `match: only for tls = "secure"`})
		}
		faults = append(faults, checkFallback(r, t, label)...)
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

// keysIn says what each key of a rule means.
func keysIn(zone *time.Location) value.Keys[Rule] {
	keys := value.Keys[Rule]{
		"name":        value.Into(func(r *Rule) *string { return &r.Name }, value.RuleName),
		"from":        value.Into(func(r *Rule) *[]addr.Pattern { return &r.From }, value.List(value.Pattern)),
		"user":        value.Into(func(r *Rule) *[]string { return &r.User }, value.List(readUser)),
		"to":          value.Into(func(r *Rule) *[]addr.Pattern { return &r.To }, value.Recipients),
		"forwarder":   value.Into(func(r *Rule) *[]addr.Pattern { return &r.Forwarder }, readForwarder),
		"tls":         value.Into(func(r *Rule) *policy.Level { return &r.Level }, value.Word(policy.Levels()...)),
		"min_version": value.Into(func(r *Rule) *policy.Version { return &r.MinVersion }, value.Version),
		"min_bits":    value.Into(func(r *Rule) *int { return &r.MinBits }, value.Int(0, 256)),
		"honor":       value.Into(func(r *Rule) *policy.Honor { return &r.Honor }, readHonor),
		"match":       value.Into(func(r *Rule) *[]addr.Domain { return &r.Match }, value.List(readMatch)),
		"on_fail":     value.Into(func(r *Rule) *policy.Action { return &r.OnFail }, readOnFail),
		"on_unknown":  value.Into(func(r *Rule) *policy.Action { return &r.OnUnknown }, readOnUnknown),
		"pin":         value.Into(func(r *Rule) *bool { return &r.Pin }, value.Bool),
		"mode":        value.Into(func(r *Rule) *policy.Mode { return &r.Mode }, value.Word(policy.Enforce, policy.Observe)),
		"until":       value.Into(func(r *Rule) *time.Time { return &r.Until }, value.LastDay(zone)),
		"reason":      value.Into(func(r *Rule) *string { return &r.Why }, value.Why),
	}
	maps.Copy(keys, fallbackKeys())
	return keys
}

func readUser(v value.Value) (string, error) {
	s, err := value.Text(v)
	if err == nil && strings.TrimSpace(s) == "" {
		err = value.Wrong(v, `want a login, or "*" for every login`)
	}
	return foldUser(s), err
}

// readForwarder takes addresses that forward.
func readForwarder(v value.Value) ([]addr.Pattern, error) {
	ps, err := value.List(value.Pattern)(v)
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(ps, func(p addr.Pattern) bool { return p.Kind() == addr.Null }); i >= 0 {
		return nil, value.Wrong(v.Any.([]value.Value)[i], "a mailbox can't be empty")
	}
	return ps, nil
}

// readHonor takes the published promises that bind.
func readHonor(v value.Value) (policy.Honor, error) {
	words, err := value.List(value.Word("dane", "mta-sts"))(v)
	return policy.Honor{DANE: slices.Contains(words, "dane"), MTASTS: slices.Contains(words, "mta-sts")}, err
}

// readMatch takes a name that a certificate can bear and Postfix can be told to look for.
func readMatch(v value.Value) (addr.Domain, error) {
	d, err := value.Domain(v)
	if err == nil && d.IsLiteral() {
		err = value.Wrong(v, "want a host name")
	}
	return d, err
}

func readOnFail(v value.Value) (policy.Action, error) {
	return value.Word(policy.ActionReject, policy.ActionDefer, policy.ActionHold, policy.ActionTag, policy.ActionFallback)(v)
}

func readOnUnknown(v value.Value) (policy.Action, error) {
	if v.Any == string(policy.ActionFallback) {
		return "", value.Refuse(v, `is for on_fail: what isn't known is tried again`)
	}
	return value.Word(policy.ActionReject, policy.ActionDefer, policy.ActionHold, policy.ActionTag,
		policy.ActionAccept)(v)
}
