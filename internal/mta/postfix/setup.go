package postfix

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// Setup is a list of changes to one Postfix.
type Setup struct {
	Dir     string // its configuration directory
	Unit    string // of systemd that runs this Postfix, for Print; "": none
	Changes []Change
	Notes   []string // what an admin should know besides, a sentence each

	undo    bool
	entries map[entryKind]string   // what is written into lists
	ours    func(item string) bool // whether an entry of a list is ours
	lines   map[string]string      // the services as postconf -M has them
	unended []string               // files whose last line has no end
}

// Change is one thing that becomes another.
type Change struct {
	Kind Kind
	Name string // of the parameter; of the service, "tlsonly1/unix"; of its option, "smtps/inet/smtpd_milters"; the path of the file
	Old  string // what is there; "": nothing
	New  string // what is to be there; "": it goes, but for an option, which is empty then
}

// Kind says where a Change is made.
type Kind string

// The kinds of Change.
const (
	KindParameter Kind = "main.cf"
	KindService   Kind = "master.cf"
	KindOption    Kind = "option in master.cf"
	KindFile      Kind = "file"
)

// Empty reports whether there's nothing to change.
func (s Setup) Empty() bool { return len(s.Changes) == 0 }

func (s *Setup) note(format string, args ...any) {
	s.Notes = append(s.Notes, fmt.Sprintf(format, args...))
}

// parameter adds the change that gives main.cf the value; "" takes the parameter out, for all of those we touch are empty by
// default.
func (s *Setup) parameter(f Facts, name, value string) {
	old, ok := f.Set[name]
	if folded(old) == folded(value) && (value != "" || !ok || !isOurParameter(name)) {
		return
	}
	s.Changes = append(s.Changes, Change{Kind: KindParameter, Name: name, Old: old, New: value})
}

func (s *Setup) file(f Facts, path, text string) {
	if old := f.Files[path]; old != text {
		s.Changes = append(s.Changes, Change{Kind: KindFile, Name: path, Old: old, New: text})
	}
}

func (s Setup) of(kind Kind, goes bool) []Change {
	var found []Change
	for _, c := range s.Changes {
		if c.Kind == kind && (c.New == "") == goes {
			found = append(found, c)
		}
	}
	return found
}

// commands returns the calls of postconf(1) that make the changes, without the program's name.
func (s Setup) commands() [][]string {
	var calls [][]string
	add := func(flags []string, changes []Change, format func(Change) string) {
		if len(changes) == 0 {
			return
		}
		call := slices.Clone(flags)
		for _, c := range changes {
			call = append(call, format(c))
		}
		calls = append(calls, call)
	}
	name := func(c Change) string { return c.Name }
	// Transports come before what names them, and go after it.
	assign := func(c Change) string { return c.Name + "=" + c.New }
	add([]string{"-M", "-e"}, s.of(KindService, false), assign)
	plain, lines := s.optionCalls()
	add([]string{"-P"}, plain, assign)
	add([]string{"-M", "-e"}, lines, assign)
	add([]string{"-e"}, s.of(KindParameter, false), assign)
	add([]string{"-X"}, s.of(KindParameter, true), name)
	add([]string{"-M", "-X"}, s.of(KindService, true), name)
	return calls
}

// optionCalls returns the changes to options: those that postconf -P can make,
// and the services that have to be written anew, because it takes no value with
// a blank.
func (s Setup) optionCalls() (plain, services []Change) {
	lines := make(map[string]string)
	for _, c := range s.Changes {
		if c.Kind != KindOption {
			continue
		}
		if !strings.ContainsAny(c.New, " \t") && !strings.ContainsAny(c.Old, " \t") {
			plain = append(plain, c)
			continue
		}
		id, name := c.option()
		line, ok := lines[id]
		if !ok {
			line = s.lines[id]
		}
		lines[id], _ = withOption(line, id, name, c.New)
	}
	for _, id := range slices.Sorted(maps.Keys(lines)) {
		services = append(services, Change{Kind: KindService, Name: id, New: lines[id]})
	}
	return plain, services
}

// option returns the service and the parameter that a change of an option is for.
func (c Change) option() (id, name string) {
	slash := strings.LastIndexByte(c.Name, '/')
	return c.Name[:slash], c.Name[slash+1:]
}

// Print writes the changes as commands for a shell, with what was there before as comments.
func (s Setup) Print(w io.Writer) error {
	var b strings.Builder
	if s.Empty() {
		fmt.Fprintf(&b, "# %s: nothing to change\n", s.Dir)
	}
	for _, c := range s.Changes {
		if c.Old != "" && c.Kind != KindFile {
			fmt.Fprintf(&b, "# %s %s was: %s\n", c.Kind, c.Name, c.Old)
		}
	}
	for _, c := range s.of(KindFile, false) {
		fmt.Fprintf(&b, "cat >%s <<'END'\n%sEND\n", quote(c.Name), c.New)
	}
	for _, path := range s.unended {
		if !s.Empty() {
			fmt.Fprintf(&b, "echo >>%s\n", quote(path)) // postconf would add to the last line
		}
	}
	for _, call := range s.commands() {
		b.WriteString("postconf -c " + quote(s.Dir))
		for _, arg := range call {
			if !strings.HasPrefix(arg, "-") {
				b.WriteString(" \\\n    ")
			} else {
				b.WriteByte(' ')
			}
			b.WriteString(quote(arg))
		}
		b.WriteByte('\n')
	}
	for _, c := range s.of(KindFile, true) {
		fmt.Fprintf(&b, "rm %s\n", quote(c.Name))
	}
	if !s.Empty() {
		b.WriteString(s.renewal())
	}
	for _, note := range s.Notes {
		fmt.Fprintf(&b, "# note: %s\n", note)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// renewal is what makes a running Postfix use the files, for a shell.
func (s Setup) renewal() string {
	postfix := "postfix -c " + quote(s.Dir) + " "
	if len(s.of(KindService, true)) == 0 {
		return postfix + "reload\n"
	}
	command := postfix + "stop; " + postfix + "start"
	if s.Unit != "" {
		command = "systemctl restart " + s.Unit
	}
	return "# a restart, not a reload: if master(8) may not kill processes, as on Debian 13, a reload\n" +
		"# that removes a service while it is delivering makes Postfix stop answering\n" + command + "\n"
}

// quote quotes a word for the shell where it must be.
func quote(s string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=@,+"
	if s != "" && strings.Trim(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// String returns the service as a line of master.cf, the options in order of their names.
func (s Service) String() string {
	b := strings.Join(append([]string{s.Name, s.Type}, s.Columns[:]...), " ") + " " + s.Command
	for _, name := range slices.Sorted(maps.Keys(s.Options)) {
		option := name + "=" + s.Options[name]
		if strings.ContainsAny(option, " \t{}") {
			option = "{ " + option + " }" // master(5), Postfix 3.0 and later
		}
		b += " -o " + option
	}
	return b
}
