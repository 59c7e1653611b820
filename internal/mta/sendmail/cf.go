package sendmail

import (
	"strings"
	"time"
)

// conf is a sendmail.cf, as far as Doctor reads it.
type conf struct {
	text    string
	filters map[string]map[string]string // by name: S, F, T
	option  map[string]string            // the last one counts
	daemons []string                     // of the option DaemonPortOptions every one counts
	maps    map[string]string            // by name: class and arguments
	sets    map[string]bool              // names of rulesets
	macro   map[string]string            // those of one letter
}

func parseConf(text string) conf {
	c := conf{
		text:    text,
		filters: map[string]map[string]string{},
		option:  map[string]string{},
		maps:    map[string]string{},
		sets:    map[string]bool{},
		macro:   map[string]string{},
	}
	for line := range strings.SplitSeq(strings.ReplaceAll(text, "\n\t", " "), "\n") {
		if len(line) < 2 {
			continue
		}
		rest := strings.TrimSpace(line[1:])
		switch line[0] {
		case 'X':
			name, equates, _ := strings.Cut(rest, ",")
			c.filters[strings.TrimSpace(name)] = parseEquates(equates)
		case 'K':
			name, class, _ := strings.Cut(rest, " ")
			c.maps[name] = strings.Join(strings.Fields(class), " ")
		case 'D':
			if line[1] != '{' {
				c.macro[line[1:2]] = strings.TrimSpace(line[2:])
			}
		case 'S':
			name, _, _ := strings.Cut(rest, "=")
			c.sets[strings.TrimSpace(name)] = true
		case 'O':
			name, value, _ := strings.Cut(rest, "=")
			name, value = strings.TrimSpace(name), strings.TrimSpace(value)
			if strings.EqualFold(name, "DaemonPortOptions") {
				c.daemons = append(c.daemons, value)
			}
			c.option[strings.ToLower(name)] = value
		}
	}
	return c
}

// ruleset returns the rules of a ruleset, as they stand.
func (c conf) ruleset(name string) string {
	var b strings.Builder
	inside := false
	for line := range strings.Lines(c.text) {
		if rest, ok := strings.CutPrefix(line, "S"); ok {
			set, _, _ := strings.Cut(rest, "=")
			inside = strings.TrimSpace(set) == name
		} else if inside {
			b.WriteString(line)
		}
	}
	return b.String()
}

// parseEquates reads "K=value, Key=value": of the key the first letter counts.
func parseEquates(s string) map[string]string {
	found := map[string]string{}
	for part := range strings.SplitSeq(s, ",") {
		key, value, ok := strings.Cut(part, "=")
		if key = strings.TrimSpace(key); ok && key != "" {
			found[key[:1]] = strings.TrimSpace(value)
		}
	}
	return found
}

// names splits a list of filters.
func names(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ';' || r == ' ' || r == '\t' })
}

// wait returns one of a filter's timeouts, T=C:10s;S:10s;R:60s;E:5m.
func wait(timeouts, which string, otherwise time.Duration) time.Duration {
	for _, part := range names(timeouts) {
		if value, ok := strings.CutPrefix(part, which+":"); ok {
			if d, err := time.ParseDuration(value); err == nil {
				return d
			}
			return 0
		}
	}
	return otherwise
}
