package postfix

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
)

// entry is a line of a table. Where says which: FILE:LINE, or the setting whose
// value has the table in it.
type entry struct {
	key, value, where string
	pattern           bool // the key is a regular expression
}

// queriedTypes are the types of tables that can only be asked.
var queriedTypes = []string{"socketmap", "tcp", "ldap", "mysql", "pgsql", "sqlite", "memcache", "mongodb", "nis", "nisplus", "netinfo", "environ", "unix"}

// entries reads a whole table, named by the setting where. The error is for
// what of it can only be asked, or not read; the entries are those of the rest.
func (d *doctor) entries(ctx context.Context, table, where string) ([]entry, error) {
	table = strings.TrimPrefix(table, "proxy:")
	kind, path, _ := strings.Cut(table, ":")
	inner, inline := braced(path)
	switch {
	case slices.Contains(queriedTypes, kind):
		return nil, fmt.Errorf("table %s: can only be asked", table)
	case kind == "fail", kind == "internal":
		return nil, nil
	case kind == "static":
		if inline {
			path = inner
		}
		return []entry{{key: "*", value: path, where: where}}, nil
	case kind == "unionmap" || kind == "pipemap":
		return d.together(ctx, splitList(inner), where)
	case kind == "randmap":
		var found []entry
		for _, value := range splitList(inner) {
			found = append(found, entry{key: "*", value: value, where: where})
		}
		return found, nil
	case kind == "inline":
		return inlineEntries(inner, where), nil
	case kind == "regexp" || kind == "pcre" || kind == "cidr":
		return patternEntries(kind, path, where)
	case kind == "texthash":
		lines, err := logicalLines(path)
		var found []entry
		for _, l := range lines {
			key, value := cutKey(l.text)
			found = append(found, entry{key: key, value: value, where: l.where})
		}
		return found, err
	}
	return d.compiled(ctx, table, path)
}

// together joins tables of which one after the other is asked.
func (d *doctor) together(ctx context.Context, tables []string, where string) (found []entry, err error) {
	for _, table := range tables {
		more, failed := d.entries(ctx, table, where)
		found, err = append(found, more...), errors.Join(err, failed)
	}
	return found, err
}

// compiled lists a table that postmap(1) has made. Its lines are those of the
// text it was made from, where that is still there.
func (d *doctor) compiled(ctx context.Context, table, path string) ([]entry, error) {
	out, _, err := d.instance.run(ctx, d.value("queue_directory"), "postmap", "-s", table)
	if err != nil {
		return nil, err
	}
	lines, _ := logicalLines(path) // without the text there are no numbers
	places := make(map[string]string)
	for _, l := range lines {
		key, _ := cutKey(l.text)
		places[strings.ToLower(strings.TrimSuffix(key, ":"))] = l.where
	}
	var found []entry
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimRight(line, "\n"), "\t")
		key = strings.Trim(key, "\"\x00")
		e := entry{key: key, value: strings.Trim(value, " \t\x00"), where: path}
		if at, ok := places[strings.ToLower(strings.TrimSuffix(key, ":"))]; ok {
			e.where = at
		}
		found = append(found, e)
	}
	return found, nil
}

// braced takes the braces off a value that has them.
func braced(s string) (string, bool) {
	s = strings.TrimSpace(s)
	if strings.HasPrefix(s, "{") && strings.HasSuffix(s, "}") {
		return strings.TrimSpace(s[1 : len(s)-1]), true
	}
	return s, false
}

// inlineEntries reads what stands in "inline:{ key=value, { key = text with
// blanks } }".
func inlineEntries(inner, where string) (found []entry) {
	for _, item := range splitList(inner) {
		item, _ = braced(item)
		key, value, ok := strings.Cut(item, "=")
		if ok {
			found = append(found, entry{key: strings.TrimSpace(key), value: strings.TrimSpace(value), where: where})
		}
	}
	return found
}

// patternEntries reads a table of patterns: a file, or since Postfix 3.7 rules
// in braces.
func patternEntries(kind, path, where string) (found []entry, err error) {
	var lines []logicalLine
	if inner, inline := braced(path); inline {
		for _, rule := range splitList(inner) {
			rule, _ = braced(rule)
			lines = append(lines, logicalLine{rule, where})
		}
	} else if lines, err = logicalLines(path); err != nil {
		return nil, err
	}
	for _, l := range lines {
		key, value, ok := cutPattern(kind, l.text)
		if ok {
			found = append(found, entry{key, value, l.where, kind != "cidr"})
		}
	}
	return found, nil
}

// cutPattern splits a rule into pattern and result; false for what is none,
// "if" and "endif".
func cutPattern(kind, text string) (pattern, result string, ok bool) {
	if kind == "cidr" {
		key, value := cutKey(text)
		return key, value, value != "" && key != "if"
	}
	rest := strings.TrimLeft(text, "! \t")
	if rest == "" || unicode.IsLetter(rune(rest[0])) {
		return "", "", false
	}
	delimiter, end := rest[0], 0
	for end = 1; end < len(rest) && rest[end] != delimiter; end++ {
		if rest[end] == '\\' {
			end++
		}
	}
	if end >= len(rest) {
		return "", "", false
	}
	// Flags follow at once, the result after a blank.
	after := rest[end+1:]
	blank := strings.IndexAny(after, " \t")
	if blank < 0 {
		return "", "", false
	}
	return rest[1:end], strings.TrimSpace(after[blank:]), true
}

// cutKey splits a line of a table of keys. A key with blanks stands in quotes.
func cutKey(text string) (key, value string) {
	if rest, ok := strings.CutPrefix(text, `"`); ok {
		if end := strings.IndexByte(rest, '"'); end >= 0 {
			return rest[:end], strings.TrimLeft(rest[end+1:], ": \t")
		}
	}
	blank := strings.IndexAny(text, " \t")
	if blank < 0 {
		return text, ""
	}
	return text[:blank], strings.TrimSpace(text[blank:])
}

// logicalLine is a line with those that continue it, and where it begins.
type logicalLine struct{ text, where string }

// logicalLines reads a file as Postfix reads its tables: postmap(1), "TABLE
// FORMAT".
func logicalLines(path string) ([]logicalLine, error) {
	text, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		return nil, err
	}
	var found []logicalLine
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		trimmed := strings.TrimSpace(line)
		switch {
		case trimmed == "" || trimmed[0] == '#':
		case (line[0] == ' ' || line[0] == '\t') && len(found) > 0:
			found[len(found)-1].text += " " + trimmed
		default:
			found = append(found, logicalLine{trimmed, fmt.Sprintf("%s:%d", path, number)})
		}
	}
	return found, nil
}
