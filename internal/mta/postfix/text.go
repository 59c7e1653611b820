package postfix

import (
	"slices"
	"strings"
)

// The texts of main.cf and master.cf. They are changed here, not by
// postconf(1), because that joins the lines of a value and sets it off anew:
// what isn't ours stays as it is, octet for octet.

// A block is a logical line with its line ends: postconf(5), master(5).
// Comments and empty lines may stand within it; those after it aren't part of
// it.
type block struct{ from, to int }

// blocks finds the logical lines of a text.
func blocks(text string) []block {
	var found []block
	at := 0
	for line := range strings.Lines(text) {
		from := at
		at += len(line)
		switch first := strings.TrimLeft(line, " \t\r\n\v\f"); {
		case first == "" || first[0] == '#':
		case (line[0] == ' ' || line[0] == '\t') && len(found) > 0:
			found[len(found)-1].to = at
		default:
			found = append(found, block{from, at})
		}
	}
	return found
}

// plain returns a block with its comments blanked out, so that places in it are
// places in the text.
func plain(raw string) string {
	var b strings.Builder
	for line := range strings.Lines(raw) {
		if strings.HasPrefix(strings.TrimLeft(line, " \t"), "#") {
			line = strings.Repeat(" ", len(line))
		}
		b.WriteString(line)
	}
	return b.String()
}

// folded returns a value with white space as postconf may or may not give it:
// one blank for any.
func folded(value string) string { return strings.Join(strings.Fields(value), " ") }

// parametersIn returns the places in main.cf that set a parameter. The last one
// counts.
func parametersIn(text, name string) []block {
	return slices.DeleteFunc(blocks(text), func(b block) bool {
		got, _, ok := strings.Cut(text[b.from:b.to], "=")
		return !ok || strings.TrimSpace(got) != name
	})
}

// valueOf returns where the value stands in a block of main.cf.
func valueOf(raw string) span {
	from := strings.IndexByte(raw, '=') + 1
	text := plain(raw)
	return span{from + len(text[from:]) - len(strings.TrimLeft(text[from:], " \t\r\n")),
		max(from, len(strings.TrimRight(text, " \t\r\n")))}
}

// rawParameter returns the last block that sets a parameter.
func rawParameter(text, name string) (string, bool) {
	found := parametersIn(text, name)
	if len(found) == 0 {
		return "", false
	}
	last := found[len(found)-1]
	return text[last.from:last.to], true
}

// blockValue returns the value that a block of main.cf sets.
func blockValue(raw string) string {
	at := valueOf(raw)
	if at.from > at.to {
		return ""
	}
	return plain(raw)[at.from:at.to]
}

// withBlock puts raw in the place of the last block that sets a parameter, or
// at the end. "" takes the block out.
func withBlock(text, name, raw string) string {
	found := parametersIn(text, name)
	if len(found) == 0 {
		if raw != "" && text != "" && !strings.HasSuffix(text, "\n") {
			text += "\n"
		}
		return text + raw
	}
	last := found[len(found)-1]
	if raw != "" && !strings.HasSuffix(raw, "\n") && last.to < len(text) {
		raw += "\n" // it was the end of the file once
	}
	return text[:last.from] + raw + text[last.to:]
}

// withValue gives the last block that sets a parameter another value, or adds
// one. Of a list only the entries that differ are touched.
func withValue(text, name, value string, list bool) string {
	raw, ok := rawParameter(text, name)
	if !ok {
		return withBlock(text, name, name+" = "+value+"\n")
	}
	at := valueOf(raw)
	if at.from >= at.to { // "name =", with whatever follows
		eq := strings.IndexByte(raw, '=') + 1
		rest := raw[eq:]
		return withBlock(text, name, raw[:eq]+" "+value+rest[len(rest)-len(strings.TrimLeft(rest, " \t")):])
	}
	if list {
		old := plain(raw)[at.from:at.to]
		return withBlock(text, name, raw[:at.from]+relisted(raw[at.from:at.to], old, value, ", ")+raw[at.to:])
	}
	return withBlock(text, name, raw[:at.from]+value+raw[at.to:])
}

// relisted makes a list that is written as raw into another one by the fewest
// changes. Old is raw with its comments blanked out.
func relisted(raw, old, value, separator string) string {
	was, will := spans(old), splitList(value)
	same := func(i, j int) bool { return folded(old[was[i].from:was[i].to]) == folded(will[j]) }
	first, last := 0, 0 // how many are the same, from either end
	for first < len(was) && first < len(will) && same(first, first) {
		first++
	}
	for last < len(was)-first && last < len(will)-first && same(len(was)-1-last, len(will)-1-last) {
		last++
	}
	gone, come := was[first:len(was)-last], strings.Join(will[first:len(will)-last], separator)
	switch {
	case len(gone) == 0 && come == "":
		return raw
	case len(gone) > 0 && come != "":
		return raw[:gone[0].from] + come + raw[gone[len(gone)-1].to:]
	case come != "" && first < len(was):
		return raw[:was[first].from] + come + separator + raw[was[first].from:]
	case come != "" && first > 0:
		return raw[:was[first-1].to] + separator + come + raw[was[first-1].to:]
	case come != "":
		return come
	case last > 0:
		return raw[:gone[0].from] + raw[was[len(was)-last].from:]
	case first > 0:
		return raw[:was[first-1].to] + raw[gone[len(gone)-1].to:]
	}
	return raw[:gone[0].from] + raw[gone[len(gone)-1].to:]
}

// servicesIn returns the places in master.cf that define a service,
// "name/type".
func servicesIn(text, id string) []block {
	return slices.DeleteFunc(blocks(text), func(b block) bool {
		words := strings.Fields(plain(text[b.from:b.to]))
		return len(words) < 2 || words[0]+"/"+words[1] != id
	})
}

// withoutService takes a service out of master.cf.
func withoutService(text, id string) string {
	for _, b := range slices.Backward(servicesIn(text, id)) {
		text = text[:b.from] + text[b.to:]
	}
	return text
}

// withService puts a service into master.cf, where it stood or at the end. Line
// is as Service.String writes it.
func withService(text, id, line string) string {
	raw := strings.ReplaceAll(line, " -o ", "\n    -o ") + "\n"
	found := servicesIn(text, id)
	if len(found) == 0 {
		if text != "" && !strings.HasSuffix(text, "\n") {
			text += "\n"
		}
		return text + raw
	}
	last := found[len(found)-1]
	return withoutService(text[:last.from], id) + raw + text[last.to:]
}

// withOption gives an option of a service in master.cf, or in a line of
// `postconf -M`, another value, a list of which only the entries that differ
// are touched. It reports whether the option is there.
func withOption(text, id, name, value string) (string, bool) {
	found := servicesIn(text, id)
	if len(found) == 0 {
		return text, false
	}
	last := found[len(found)-1]
	raw := text[last.from:last.to]
	at, ok := optionIn(raw, name)
	if !ok {
		return text, false
	}
	old := plain(raw)[at.from:at.to]
	raw = raw[:at.from] + relisted(raw[at.from:at.to], old, value, ",") + raw[at.to:]
	return text[:last.from] + raw + text[last.to:], true
}

// optionIn returns where the value of the last "-o name=value" stands in a
// service's block: master(5).
func optionIn(raw, name string) (at span, ok bool) {
	text := plain(raw)
	words := wordsOf(text)
	for i, word := range words {
		from, to := word.from, word.to
		switch arg := text[from:to]; {
		case arg == "-o":
			continue
		case strings.HasPrefix(arg, "-o"): // getopt(3)
			from += len("-o")
		case i == 0 || text[words[i-1].from:words[i-1].to] != "-o":
			continue
		}
		if text[from] == '{' && text[to-1] == '}' {
			from, to = from+1, to-1
		}
		got, _, is := strings.Cut(text[from:to], "=")
		if !is || strings.TrimSpace(got) != name {
			continue
		}
		from += len(got) + 1
		value := text[from:to]
		from += len(value) - len(strings.TrimLeft(value, " \t\r\n"))
		to = max(from, to-len(value)+len(strings.TrimRight(value, " \t\r\n")))
		at, ok = span{from, to}, true
	}
	return at, ok
}

// wordsOf splits a line of master.cf at blanks outside braces.
func wordsOf(text string) []span { return split(text, " \t\r\n") }
