package sendmail

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"tlsonly/internal/addr"
	"tlsonly/internal/contract"
	"tlsonly/internal/mta"
)

// doctorSenders looks whether senders that Sendmail changes are judged at
// acceptance as what they become. At delivery they are in any case.
func (in Installation) doctorSenders(ctx context.Context, c conf, s Settings) ([]mta.Finding, error) {
	found := check{check: "senders"}
	said, err := in.expand(ctx, nil, senderNames()...)
	if err != nil {
		return nil, err
	}
	senders := in.senders(c, said)
	if !senders.envelope {
		found.add(mta.OK, "senders", "", "senders of envelopes stay as they are")
		return found.all, nil
	}
	const read = `set [forwarding] sendmail to this sendmail.cf, and restart tlsonly`
	if examples := senders.turned(s); len(examples) > 0 && !s.Followed {
		found.add(mta.Hole, "masquerade", c.where("DM"), "the envelope is masqueraded, but the daemon doesn't know it: "+
			"mail is accepted without a decision from %s", strings.Join(examples, ", "))
		found.remedy(read)
	} else if !senders.masquerade.IsZero() {
		found.add(mta.OK, "masquerade", c.where("DM"), "senders are also judged as what they are masqueraded as, %s", senders.masquerade)
	}
	line, there := c.maps["generics"]
	if !there {
		return found.all, nil
	}
	where := c.where("Kgenerics ")
	entries, readable, err := in.genericsEntries(ctx, line)
	if err != nil {
		found.add(mta.Warning, "generics-unread", where, "the genericstable cannot be looked into, so it counts only at delivery: %v", err)
		found.remedy("name the senders that it makes in the rules, too")
		return found.all, nil
	}
	var turned []string
	for _, key := range slices.Sorted(maps.Keys(entries)) {
		if example := senders.turnedBy(s, key, entries[key]); example != "" {
			turned = append(turned, example)
		}
	}
	switch {
	case len(turned) == 0:
		found.add(mta.OK, "generics", where, "the genericstable turns no other sender into a protected one, and no protected sender into another")
	case s.Followed && readable:
		found.add(mta.OK, "generics", where, "senders are also judged as what the genericstable makes of them: %s", some(turned))
	default:
		found.add(mta.Hole, "generics", where, "the genericstable turns other senders into protected ones, or protected senders into others, and the daemon "+
			"can't read it, so mail is accepted without a decision: %s", some(turned))
		found.remedy("keep the text from which the table is made beside it, readable by all; " + read)
	}
	return found.all, nil
}

// some shortens a list.
func some(list []string) string {
	const most = 3
	if len(list) > most {
		return strings.Join(list[:most], ", ") + fmt.Sprintf(" and %d more", len(list)-most)
	}
	return strings.Join(list, ", ")
}

// turned returns senders by which masquerading changes whether they are
// protected, one a domain.
func (s *Senders) turned(settings Settings) []string {
	var found []string
	for _, d := range append(slices.Clone(s.masked), s.local...) {
		from := addr.Address{Local: contract.Doctor, Domain: d}
		for _, to := range s.Written(from) {
			if settings.protects(from) != settings.protects(to) {
				found = append(found, fmt.Sprintf("%s, which becomes %s", from, to))
			}
		}
	}
	return found
}

// turnedBy says whether an entry changes whether a sender is protected, ""
// where it doesn't. A key without a domain is in each domain that the table is
// for.
func (s *Senders) turnedBy(settings Settings, key, value string) string {
	local, domain, qualified := strings.Cut(key, "@")
	if local == "" {
		local = contract.Doctor
	}
	froms := []addr.Address{}
	if d, err := addr.ParseDomain(domain); qualified && err == nil {
		froms = append(froms, addr.Address{Local: local, Domain: d})
	} else if !qualified {
		for _, d := range append(slices.Clone(s.generic), s.hostName) {
			froms = append(froms, addr.Address{Local: local, Domain: d})
		}
	}
	to, err := addr.ParsePath(strings.NewReplacer("%0", key, "%1", local).Replace(value))
	if err != nil || to.IsNull() {
		return ""
	}
	if to.Domain.IsZero() {
		to.Domain = s.hostName
		if !s.masquerade.IsZero() {
			to.Domain = s.masquerade
		}
	}
	for _, from := range froms {
		if settings.protects(from) != settings.protects(to) {
			return fmt.Sprintf("%s becomes %s", from, to)
		}
	}
	return ""
}

func (s Settings) protects(a addr.Address) bool { return s.Protects != nil && s.Protects(a) }

// genericsEntries reads the table, by its text or, as root can, out of the map
// itself; readable is a text that everybody may read, the daemon too.
func (in Installation) genericsEntries(ctx context.Context, line string) (entries map[string]string, readable bool, err error) {
	class, args, _ := strings.Cut(line, " ")
	path, ok := in.sourceOf(class, lastWord(args))
	if ok {
		table := genericsTable{path: path}
		entries, err = table.read()
		if err == nil {
			return entries, table.seen.Mode().Perm()&0o004 != 0, nil
		}
	}
	if class != "hash" && class != "btree" {
		return nil, false, fmt.Errorf("it is of class %s", class)
	}
	program := filepath.Join("/", in.Root, "usr/sbin/makemap")
	if beside := filepath.Join(filepath.Dir(in.program()), "makemap"); in.Program != "" {
		program = beside
	}
	if _, err := os.Stat(path + ".db"); err != nil {
		return nil, false, err
	}
	out, err := in.run(ctx, "", program, "-C", in.cf(), "-u", class, path)
	if err != nil {
		return nil, false, err
	}
	entries = map[string]string{}
	for line := range strings.Lines(string(out)) {
		if key, value, ok := strings.Cut(strings.ReplaceAll(strings.TrimSpace(line), "\t", " "), " "); ok {
			entries[strings.ToLower(key)] = strings.TrimSpace(value)
		}
	}
	return entries, false, nil
}
