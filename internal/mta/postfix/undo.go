package postfix

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

// PlanUndo says what must change for nothing of ours to be left. What setup
// remembers of a parameter, and nobody has changed since, becomes what it was.
// Without that memory the entries of lists that are ours by their shape go, and
// single values stay, of which nobody knows then whose they are.
func PlanUndo(s Settings, f Facts) Setup {
	setup := Setup{Dir: f.Dir, undo: true, lines: f.lines(), unended: f.unended()}
	milter, _ := f.socket(s.Milter) // "" for none: the record and the references are left to go by
	smap, _ := f.socket(s.Socketmap)
	setup.ours = func(item string) bool { return f.kindOf(item, milter, smap) != "" }
	site := func(value string) string {
		theirs := func(item string) bool { return !setup.ours(item) }
		return without(value, slices.DeleteFunc(splitList(value), theirs)...)
	}
	if value, changed := f.probesUndone(site); changed {
		setup.parameter(f, verifyMaps, value)
	}
	first := []string{smtpdMilters, otherMilters, senderMaps, policyMaps}
	for _, name := range append(first, slices.Sorted(maps.Keys(f.Set))...) {
		value, ok := f.Set[name]
		done := slices.ContainsFunc(setup.Changes, func(c Change) bool { return c.Name == name })
		if ok && !done && !isOurParameter(name) && !isSingle(name) && site(value) != value {
			setup.parameter(f, name, site(value))
		}
	}
	for _, name := range singles {
		if before, ours := f.setByUs(name.parameter, name.reference); ours && name.parameter != verifyMaps {
			setup.parameter(f, name.parameter, before)
		}
	}
	for _, name := range ourParameters() {
		setup.parameter(f, name, "")
	}
	for _, name := range f.limitsSet() {
		if f.limitSetByUs(name) {
			setup.parameter(f, name, "")
		} else {
			setup.note("%s = %s stays: setup didn't write it", name, f.Set[name])
		}
	}
	for _, s := range slices.Concat(f.Services, f.forGateway) {
		if isOurs(s) || isGateway(s) {
			setup.Changes = append(setup.Changes, Change{Kind: KindService, Name: s.ID(), Old: s.String()})
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(s.Options)) {
			if value := s.Options[name]; site(value) != value {
				setup.Changes = append(setup.Changes,
					Change{Kind: KindOption, Name: s.ID() + "/" + name, Old: value, New: site(value)})
			}
		}
	}
	setup.leftovers(f)
	for _, name := range append(ourFiles(), recordFile) {
		setup.file(f, filepath.Join(f.Dir, name), "")
	}
	return setup
}

// leftovers notes what is left that refers to us, or may be from us.
func (s *Setup) leftovers(f Facts) {
	for _, name := range ourParameters() {
		for _, other := range slices.Sorted(maps.Keys(f.Set)) {
			kept := f.Set[other]
			for _, c := range s.Changes {
				if c.Kind == KindParameter && c.Name == other {
					kept = c.New
				}
			}
			if !isOurParameter(other) && refersByName(kept, name) {
				s.note("%s refers to $%s, which is empty now: change it yourself", other, name)
			}
		}
	}
	if f.record != nil || len(s.Changes) == 0 {
		return
	}
	for _, name := range singles {
		changes := slices.ContainsFunc(s.Changes, func(c Change) bool { return c.Name == name.parameter })
		if value := f.Set[name.parameter]; value != "" && !changes && name.parameter != verifyMaps {
			s.note("%s = %s stays, because without %s it is not known whether setup wrote it",
				name.parameter, value, recordFile)
		}
	}
}

// probesUndone returns what the list for probes was before setup changed it, ""
// for nothing, and reports whether it has.
func (f Facts) probesUndone(site func(string) string) (value string, changed bool) {
	if before, ok := f.before(verifyMaps); ok {
		return before, true
	}
	value, set := f.Set[verifyMaps]
	if !set {
		return "", false
	}
	if f.refersTo(value, verifyParameter) {
		for _, r := range references(verifyParameter) {
			if value == r {
				return "", true // its default
			}
			value = strings.ReplaceAll(value, r, "$"+senderMaps)
		}
		return value, true
	}
	if f.record != nil {
		return value, false
	}
	// Nobody remembers: what is as setup writes it says the same as the
	// default.
	tables := f.expand(f.all[senderMaps], nil)
	if site(tables) != tables && folded(value) == strings.Join(f.siteTables(site), ", ") {
		return "", true
	}
	return value, false
}

// siteTables returns the tables of senders without ours, as the list for probes
// is made of them.
func (f Facts) siteTables(site func(string) string) []string {
	tables := splitList(site(f.expand(f.all[senderMaps], nil)))
	if len(tables) == 0 {
		return []string{"static:DUNNO"} // a list of no table, with a value to refer to
	}
	return tables
}
