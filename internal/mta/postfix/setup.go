package postfix

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Setup is a list of changes to one Postfix.
type Setup struct {
	Dir     string // its configuration directory
	Unit    string // of systemd that runs this Postfix, for Print; "": none
	Changes []Change
	Notes   []string // what an admin should know besides, a sentence each
}

// Change is one thing that becomes another.
type Change struct {
	Kind Kind
	Name string // of the parameter; of the service, "tlsonly1/unix"; the path of the file
	Old  string // what is there; "": nothing
	New  string // what is to be there; "": it goes
}

// Kind says where a Change is made.
type Kind string

// The kinds of Change.
const (
	KindParameter Kind = "main.cf"
	KindService   Kind = "master.cf"
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
	if old == value && (value != "" || !ok || !slices.Contains(ownParameters(), name)) {
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
	add([]string{"-M", "-e"}, s.of(KindService, false), func(c Change) string { return c.Name + "=" + c.New })
	add([]string{"-e"}, s.of(KindParameter, false), func(c Change) string { return c.Name + "=" + c.New })
	add([]string{"-X"}, s.of(KindParameter, true), name)
	add([]string{"-M", "-X"}, s.of(KindService, true), name)
	return calls
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
	return "# a restart, not a reload: where master(8) may not kill processes, as on Debian 13, a reload\n" +
		"# that takes a service away while it is delivering makes Postfix stop answering\n" + command + "\n"
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

// Apply makes the changes: first copies main.cf and master.cf beside themselves as main.cf.tlsonly-YYYYMMDDhhmmss, then
// calls postconf(1). It returns the copies' paths. Without changes it does nothing. Afterwards Postfix's own check must pass, postconf must
// warn of nothing new and what was to change must have; if not, everything is put back and the error says why. The running Postfix isn't
// told: that is Renew.
func (s Setup) Apply(ctx context.Context, i Instance, now time.Time) (copies []string, err error) {
	if s.Empty() {
		return nil, nil
	}
	before, err := Read(ctx, i)
	if err != nil {
		return nil, err
	}
	if before.Dir != s.Dir {
		return nil, fmt.Errorf("apply to %s: the plan is for %s", before.Dir, s.Dir)
	}
	for taken(s.Dir, now) {
		now = now.Add(time.Second)
	}
	saved := make(map[string][]byte)
	for _, name := range []string{"main.cf", "master.cf"} {
		path := filepath.Join(s.Dir, name)
		text, err := os.ReadFile(path)
		if err != nil {
			return copies, err
		}
		copied := path + copySuffix(now)
		if err := copyFile(path, copied, text); err != nil {
			return copies, fmt.Errorf("copy of %s: %w", path, err)
		}
		saved[path] = text
		copies = append(copies, copied)
	}
	err = s.write(ctx, i)
	if err == nil {
		err = s.verify(ctx, i, before)
	}
	if err == nil {
		return copies, nil
	}
	// Put back also when the caller has given up waiting.
	return copies, errors.Join(fmt.Errorf("apply to %s, all put back: %w", s.Dir, err), s.restore(saved))
}

func copySuffix(now time.Time) string { return ".tlsonly-" + now.Format("20060102150405") }

// taken reports whether there are copies of that second, which are never overwritten.
func taken(dir string, now time.Time) bool {
	found, err := filepath.Glob(filepath.Join(dir, "ma*.cf"+copySuffix(now)))
	return err == nil && len(found) > 0
}

// copyFile makes a new file with the text, and the mode and owner of another.
func copyFile(from, to string, text []byte) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, keepOwner(f, info), f.Chmod(info.Mode().Perm()), f.Close())
}

func (s Setup) write(ctx context.Context, i Instance) error {
	for _, c := range s.of(KindFile, false) {
		if err := os.WriteFile(c.Name, []byte(c.New), 0o644); err != nil { // #nosec G306 -- as main.cf is
			return err
		}
		// Postfix's programs read it as another user, whatever our umask says.
		if err := os.Chmod(c.Name, 0o644); err != nil { // #nosec G302 -- no secret is in it
			return err
		}
	}
	for _, call := range s.commands() {
		if _, _, err := i.run(ctx, "", "postconf", call...); err != nil {
			return err
		}
	}
	for _, c := range s.of(KindFile, true) {
		if err := os.Remove(c.Name); err != nil {
			return err
		}
	}
	return nil
}

// verify finds out whether the changes are made and Postfix can live with them.
func (s Setup) verify(ctx context.Context, i Instance, before Facts) error {
	after, err := Read(ctx, i)
	if err != nil {
		return err
	}
	for _, w := range after.Warnings {
		if !slices.Contains(before.Warnings, w) {
			return errors.New(w)
		}
	}
	for _, c := range s.of(KindParameter, false) {
		if got := after.Set[c.Name]; got != c.New {
			return fmt.Errorf("%s is %q after it was made %q", c.Name, got, c.New)
		}
	}
	for _, c := range s.of(KindService, false) {
		if !slices.ContainsFunc(after.Services, func(s Service) bool { return s.String() == c.New }) {
			return fmt.Errorf("%s isn't what it was made: %s", c.Name, c.New)
		}
	}
	if _, _, err := i.run(ctx, "", "postfix", "check"); err != nil {
		// It tells its reason to the log only; postmap trips over the same parameters aloud.
		_, _, reason := i.run(ctx, "", "postmap", "-q", "x", "static:x")
		return errors.Join(err, reason)
	}
	return nil
}

func (s Setup) restore(saved map[string][]byte) error {
	var errs []error
	for _, path := range slices.Sorted(maps.Keys(saved)) {
		errs = append(errs, os.WriteFile(path, saved[path], 0o644)) // #nosec G306 -- it's there and keeps its mode
	}
	for _, c := range s.Changes {
		switch {
		case c.Kind != KindFile:
		case c.Old == "":
			if err := os.Remove(c.Name); !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, err)
			}
		default:
			errs = append(errs, os.WriteFile(c.Name, []byte(c.Old), 0o644)) // #nosec G306 -- the same
		}
	}
	return errors.Join(errs...)
}
