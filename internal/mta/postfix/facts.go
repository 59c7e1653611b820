package postfix

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Postconf is what postconf(1) says.
type Postconf struct {
	All      string // all parameters, defaults too
	Expanded string // -x: the same, with what they refer to put in
	Set      string // -n: those that main.cf sets
	Services string // -M
	Options  string // -P
	Warnings string // on standard error
}

// Facts is what is known of a Postfix.
type Facts struct {
	Dir          string // its configuration directory
	Major, Minor int
	Set          map[string]string // parameters in main.cf, as written there, without defaults
	all          map[string]string // these and the defaults
	expanded     map[string]string // the same, as Postfix reads them
	Services     []Service         // without those that are there for the gateway
	forGateway   []Service
	Files        map[string]string // those of our own files that exist, by path
	Warnings     []string          // of postconf, about this configuration
	Bundle       string            // the system's file of authorities, "" for none
	main, master string            // the texts of the two files
	record       *record           // what setup has written before; nil: nobody knows
	SiteSenders  SiteSenders       // what the site's own tables of senders name
}

// Service is an entry of master.cf.
type Service struct {
	Name, Type string
	Columns    [5]string         // private, unpriv, chroot, wakeup, maxproc
	Command    string            // "smtp"
	Options    map[string]string // -o
	line       string            // as postconf -M has it
}

// ID is what postconf -M calls the service.
func (s Service) ID() string { return s.Name + "/" + s.Type }

// Facts makes sense of the texts.
func (p Postconf) Facts() (Facts, error) {
	f := Facts{all: parameters(p.All), expanded: parameters(p.Expanded), Set: parameters(p.Set), Files: make(map[string]string)}
	for name, value := range f.Set {
		f.all[name] = value
	}
	var err error
	if f.Major, f.Minor, err = parseVersion(f.all["mail_version"]); err != nil {
		return Facts{}, err
	}
	f.Dir = f.value("config_directory")
	options := make(map[string]map[string]string)
	for line := range strings.Lines(p.Options) {
		path, value, ok := strings.Cut(strings.TrimRight(line, "\n"), " =")
		slash := strings.LastIndexByte(path, '/')
		if !ok || slash < 0 {
			return Facts{}, fmt.Errorf("master.cf: option %q", line)
		}
		id := path[:slash]
		if options[id] == nil {
			options[id] = make(map[string]string)
		}
		options[id][path[slash+1:]] = strings.TrimSpace(value)
	}
	for line := range strings.Lines(p.Services) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if len(words) < 8 {
			return Facts{}, fmt.Errorf("master.cf: service %q", line)
		}
		s := Service{Name: words[0], Type: words[1], Columns: [5]string(words[2:7]), Command: words[7], line: strings.TrimSpace(line)}
		s.Options = options[s.ID()]
		if isGateway(s) {
			f.forGateway = append(f.forGateway, s)
			continue
		}
		f.Services = append(f.Services, s)
	}
	for line := range strings.Lines(p.Warnings) {
		if line = strings.TrimSpace(line); !slices.Contains(f.Warnings, line) {
			f.Warnings = append(f.Warnings, line)
		}
	}
	return f, nil
}

// parameters reads lines "name = value".
func parameters(text string) map[string]string {
	found := make(map[string]string)
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(line, "="); ok {
			found[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
	}
	return found
}

// parseVersion takes "3.7.11" and the "3.11-20250717" of snapshots.
func parseVersion(s string) (major, minor int, err error) {
	a, b, _ := strings.Cut(s, ".")
	if i := strings.IndexAny(b, ".-"); i >= 0 {
		b = b[:i]
	}
	major, err = strconv.Atoi(a)
	if err == nil {
		minor, err = strconv.Atoi(b)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("mail_version %q: %w", s, err)
	}
	return major, minor, nil
}

func (f Facts) atLeast(major, minor int) bool {
	return f.Major > major || f.Major == major && f.Minor >= minor
}

// value returns a parameter of main.cf or its default, with what it refers to put in.
func (f Facts) value(name string) string {
	if v, ok := f.expanded[name]; ok {
		return v
	}
	return f.expand(f.all[name], nil)
}

// option returns what a parameter is for a service.
func (f Facts) option(s Service, name string) string {
	if v, ok := s.Options[name]; ok {
		return f.expand(v, s.Options)
	}
	if v := f.expand(f.all[name], s.Options); v != f.expand(f.all[name], nil) {
		return v
	}
	return f.value(name)
}

// heedsTLSRequired reports whether a message can ask Postfix to do without TLS (RFC 8689).
func (f Facts) heedsTLSRequired() bool { return f.atLeast(3, 10) }

// reference is $name, ${name} or $(name); postconf(5). The conditional forms stay as they are.
var reference = regexp.MustCompile(`\$(?:(\w+)|\{(\w+)\}|\((\w+)\))`)

func (f Facts) expand(value string, options map[string]string) string {
	const deepest = 20 // a parameter that refers to itself would not end
	for range deepest {
		next := reference.ReplaceAllStringFunc(value, func(r string) string {
			name := strings.Trim(r, "${}()")
			if v, ok := options[name]; ok {
				return v
			}
			if v, ok := f.all[name]; ok {
				return v
			}
			return r
		})
		if next == value {
			break
		}
		value = next
	}
	return value
}

// refersTo reports whether a value contains a reference to the parameter, directly or through others.
func (f Facts) refersTo(value, name string) bool {
	without := Facts{all: make(map[string]string, len(f.all))}
	for k, v := range f.all {
		if k != name {
			without.all[k] = v
		}
	}
	for _, m := range reference.FindAllStringSubmatch(without.expand(value, nil), -1) {
		if m[1] == name || m[2] == name || m[3] == name {
			return true
		}
	}
	return false
}

// chrooted reports whether a service runs in the queue directory as its root.
func (f Facts) chrooted(s Service) bool {
	switch s.Columns[2] {
	case "y":
		return true
	case "n":
		return false
	}
	// COMPATIBILITY_README: from level 1 on the default is no.
	level, _, _ := strings.Cut(f.value("compatibility_level"), ".")
	n, err := strconv.Atoi(level)
	return err == nil && n == 0
}

func (f Facts) service(name, kind string) (Service, bool) {
	i := slices.IndexFunc(f.Services, func(s Service) bool { return s.Name == name && s.Type == kind })
	if i < 0 {
		return Service{}, false
	}
	return f.Services[i], true
}

// anyService is service for all of them, those too that are there for the
// gateway.
func (f Facts) anyService(name, kind string) (Service, bool) {
	f.Services = slices.Concat(f.Services, f.forGateway)
	return f.service(name, kind)
}

// socket returns an endpoint as Postfix is to be told: a path below the queue directory is made relative to it, for that
// is right for processes in the chroot and for those outside.
func (f Facts) socket(endpoint string) (string, error) {
	scheme, rest, _ := strings.Cut(endpoint, ":")
	switch {
	case scheme == "inet" && strings.LastIndexByte(rest, ':') > 0 && !strings.ContainsAny(rest, " ,{}$"):
		return endpoint, nil
	case scheme != "unix" || rest == "":
		return "", fmt.Errorf(`endpoint %q: want "inet:host:port" or "unix:path"`, endpoint)
	case strings.ContainsAny(rest, " \t,:{}$"):
		return "", fmt.Errorf("endpoint %q: postfix takes no path with a blank or any of , : { } $", endpoint)
	}
	queue := f.value("queue_directory")
	if in, err := filepath.Rel(queue, rest); filepath.IsAbs(rest) && err == nil && filepath.IsLocal(in) {
		rest = in
	}
	return "unix:" + rest, nil
}

// splitList splits a list at blanks and commas outside braces.
func splitList(value string) []string {
	var items []string
	for _, at := range spans(value) {
		items = append(items, value[at.from:at.to])
	}
	return items
}

// span is where an item stands in a list.
type span struct{ from, to int }

func spans(value string) []span { return split(value, ", \t\r\n") }

// split finds what stands between separators outside braces.
func split(value, separators string) []span {
	var found []span
	depth, start := 0, -1
	for i, c := range value {
		switch {
		case c == '{':
			depth++
		case c == '}' && depth > 0:
			depth--
		case depth == 0 && strings.ContainsRune(separators, c):
			if start >= 0 {
				found = append(found, span{start, i})
			}
			start = -1
			continue
		}
		if start < 0 {
			start = i
		}
	}
	if start >= 0 {
		found = append(found, span{start, len(value)})
	}
	return found
}

// parseTime takes Postfix's times: a number and s, m, h, d or w; without a unit, seconds.
func parseTime(s string) (time.Duration, error) {
	units := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour}
	unit := time.Second
	number := s
	if n := len(s) - 1; n > 0 && units[s[n]] != 0 {
		unit, number = units[s[n]], s[:n]
	}
	n, err := strconv.ParseUint(number, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("time %q: %w", s, err)
	}
	return time.Duration(n) * unit, nil
}
