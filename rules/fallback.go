package rules

import (
	"slices"
	"time"

	"tlsonly/internal/config/value"
	"tlsonly/internal/policy"
)

// A rule with on_fail = "fallback" lets a message go to a destination that
// doesn't satisfy it, encrypted by a method that only its recipient can undo.
// What isn't so encrypted has FallbackElse as its on_fail.

// Never is the value of Rule.FallbackAfter for a pinned destination that is
// waited for without end.
const Never time.Duration = -1

// The defaults of a rule that falls back.
const (
	defaultElse  = policy.ActionReject
	defaultAfter = 4 * time.Hour
	longestAfter = 30 * 24 * time.Hour
)

// FallsBack reports whether the rule lets messages go that are encrypted
// without TLS.
func (r *Rule) FallsBack() bool { return r.OnFail == policy.ActionFallback }

// fallbackKeys are the keys of a rule about methods without TLS.
func fallbackKeys() value.Keys[Rule] {
	return value.Keys[Rule]{
		"fallback":       value.Into(func(r *Rule) *[]policy.Method { return &r.Fallback }, readMethods),
		"fallback_else":  value.Into(func(r *Rule) *policy.Action { return &r.FallbackElse }, value.Word(policy.ActionReject, policy.ActionDefer, policy.ActionHold)),
		"fallback_after": value.Into(func(r *Rule) *time.Duration { return &r.FallbackAfter }, readAfter),
		"content":        readContent,
		"raise":          readRaise,
	}
}

// readMethods takes the methods that this version has, each once.
func readMethods(v value.Value) ([]policy.Method, error) {
	read := func(v value.Value) (policy.Method, error) {
		s, _ := v.Any.(string)
		if policy.Method(s).Planned() {
			return "", value.Refuse(v, "is not supported yet: want openpgp or smime")
		}
		return value.Word(policy.Methods()...)(v)
	}
	found, err := value.List(read)(v)
	if err != nil {
		return nil, err
	}
	for i, m := range found {
		if slices.Contains(found[:i], m) {
			return nil, value.Refuse(v.Any.([]value.Value)[i], "is there twice")
		}
	}
	return found, nil
}

// readAfter takes a duration, "0s" for at once, or "never".
func readAfter(v value.Value) (time.Duration, error) {
	if v.Any == value.Never {
		return Never, nil
	}
	d, err := value.Duration(0, longestAfter)(v)
	if err != nil {
		return 0, value.Wrong(v, `want a duration from "0s" to "30d", or "never"`)
	}
	return d, nil
}

// readContent takes what this version does anyway.
func readContent(_ *Rule, v value.Value) error {
	on, err := value.Bool(v)
	if err == nil && on {
		err = value.Refuse(v, "is not supported yet: content is encrypted only where TLS is missing")
	}
	return err
}

// readRaise takes what this version does anyway.
func readRaise(_ *Rule, v value.Value) error {
	words, err := value.List(value.Text)(v)
	if err == nil && len(words) > 0 {
		err = value.Refuse(v, "is not supported yet: want []")
	}
	return err
}

// checkFallback says what of a rule's keys doesn't go together, and takes out
// of a rule that doesn't fall back what it would say if it did.
func checkFallback(r *Rule, t value.Table, label string) (faults []value.Fault) {
	fault := func(key, text string) {
		faults = append(faults, value.Fault{Line: t.Keys[key].Line, Text: label + text})
	}
	if r.FallsBack() {
		methods, _ := t.Keys["fallback"].Any.([]value.Value)
		switch {
		case len(methods) == 0:
			fault("on_fail", `on_fail "fallback" needs the key fallback, as ["openpgp", "smime"]`)
		case len(r.Forwarder) > 0:
			fault("on_fail", `on_fail "fallback" is not supported yet for what is forwarded: want reject, defer, hold or tag`)
		case len(r.User) > 0:
			fault("on_fail", `on_fail "fallback" is not supported yet for logins, which delivery doesn't see: name senders by from`)
		}
		return faults
	}
	if len(r.Fallback) > 0 {
		fault("fallback", `fallback: only for on_fail = "fallback"`)
	}
	if r.FallbackElse != defaultElse {
		fault("fallback_else", `fallback_else: only for on_fail = "fallback"`)
	}
	if r.FallbackAfter != defaultAfter {
		fault("fallback_after", `fallback_after: only for on_fail = "fallback"`)
	}
	r.Fallback, r.FallbackElse, r.FallbackAfter = nil, "", 0
	return faults
}

// joinFallback returns the stricter rule of two with what both let go without
// TLS: the methods of either, or none where one of them doesn't fall back. What
// becomes of the rest is what the stricter word of both says, and the longer
// wait. Where that is what the stricter rule says anyway it is returned itself.
func joinFallback(stricter, other *Rule) *Rule {
	fallback := slices.Index(mildest, policy.ActionFallback)
	switch {
	case stricter == nil || other == nil || !stricter.FallsBack(),
		!other.Enforcing() && stricter.Enforcing(),
		slices.Index(mildest, other.OnFail) < fallback:
		return stricter
	}
	joined := *stricter
	joined.Fallback = slices.DeleteFunc(slices.Clone(stricter.Fallback), func(m policy.Method) bool {
		return !slices.Contains(other.Fallback, m)
	})
	otherwise := other.FallbackElse
	if !other.FallsBack() {
		otherwise = other.OnFail
	} else if other.FallbackAfter == Never || joined.FallbackAfter != Never && other.FallbackAfter > joined.FallbackAfter {
		joined.FallbackAfter = other.FallbackAfter
	}
	if slices.Index(mildest, otherwise) > slices.Index(mildest, joined.FallbackElse) {
		joined.FallbackElse = otherwise
	}
	if slices.Equal(joined.Fallback, stricter.Fallback) && joined.FallbackElse == stricter.FallbackElse &&
		joined.FallbackAfter == stricter.FallbackAfter {
		return stricter
	}
	return &joined
}
