package config

import (
	"fmt"
	"regexp"
	"strings"

	"tlsonly/internal/config/value"
)

// What people write that isn't TOML, and what the library says of it in its own
// words, often of the line after.
var (
	openHeader = regexp.MustCompile(`^\s*(\[{1,2})\s*([\w.-]+)\s*(\]{0,2})\s*(#.*)?$`)
	colonKey   = regexp.MustCompile(`^\s*([\w-]+)\s*:\s*\S`)
	bareValue  = regexp.MustCompile(`^\s*([\w-]+)\s*=\s*([^\s"'\[{#][^#]*?)\s*(#.*)?$`)
	switchWord = regexp.MustCompile(`(?i)^(yes|no|on|off|true|false)$`)
	doubled    = regexp.MustCompile(`^Key '(.+)' has already been defined\.$`)
)

// curly are quotes that word processors and phones write.
const curly = "“”„‟‘’‚«»"

// syntaxFault makes a fault of what the library says of a text that isn't TOML:
// the line that is to be changed, and to what.
func syntaxFault(text string, line int, message string) *value.Error {
	lines := strings.Split(text, "\n")
	at := func(n int) string {
		if n < 1 || n > len(lines) {
			return ""
		}
		return strings.TrimSuffix(lines[n-1], "\r")
	}
	// What is missing at the end of a line is found at the beginning of the next.
	if strings.HasSuffix(message, `but got '\n' instead`) && line > 1 && openHeader.MatchString(at(line-1)) {
		line--
	}
	fault := func(format string, args ...any) *value.Error {
		return &value.Error{Line: line, Text: fmt.Sprintf(format, args...)}
	}
	if m := doubled.FindStringSubmatch(message); m != nil {
		return fault("%s", twice(lines[:min(line-1, len(lines))], m[1]))
	}
	here := at(line)
	if m := openHeader.FindStringSubmatch(here); m != nil && len(m[1]) != len(m[3]) {
		table := m[1] + m[2] + strings.Repeat("]", len(m[1]))
		if m[2] == "rule" || m[2] == "inbound" {
			table = "[[" + m[2] + "]]"
		}
		return fault("%s: want %s", strings.TrimSpace(strings.TrimSuffix(here, m[4])), table)
	}
	if i := strings.IndexAny(here, curly); i >= 0 {
		quote := []rune(here[i:])[0]
		return fault("%c isn't a quote here: use straight quotes, \"", quote)
	}
	if m := colonKey.FindStringSubmatch(here); m != nil {
		return fault("%s: use = and not : between a key and its value", m[1])
	}
	if m := bareValue.FindStringSubmatch(here); m != nil {
		switch {
		case switchWord.MatchString(m[2]):
			return fault("%s = %s: want true or false, or the word in quotes", m[1], m[2])
		case !strings.ContainsAny(m[2], `"'`):
			return fault(`%s = %s: put quotes around it: "%s"`, m[1], m[2], m[2])
		}
	}
	if message == "strings cannot contain newlines" {
		return fault("a quote isn't closed on this line")
	}
	return fault("%s", strings.TrimSuffix(message, "."))
}

// twice says where a table or a key stood first. Before are the lines before the
// second.
func twice(before []string, name string) string {
	table, key := "", name
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		table, key = name[:i], name[i+1:]
	}
	in, first := "", 0
	for i, line := range before {
		if m := openHeader.FindStringSubmatch(line); m != nil {
			if in = m[2]; in == name {
				return fmt.Sprintf("[%s] is already on line %d: put its keys together", name, i+1)
			}
			continue
		}
		k, _, ok := strings.Cut(line, "=")
		if ok && in == table && strings.Trim(k, " \t\"'") == key {
			first = i + 1 // of tables with the same name, the last one's
		}
	}
	if first == 0 {
		return key + " occurs twice"
	}
	return fmt.Sprintf("%s is already on line %d", key, first)
}
