package postfix

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// keptCopies is how many copies of each file Apply leaves.
const keptCopies = 3

// Apply makes the changes: first copies main.cf and master.cf beside themselves
// as main.cf.tlsonly-YYYYMMDDhhmmss, of which it leaves the newest three, and
// writes down what stands where it changes something. Then it puts each file in
// its place whole, so that there is always one that Postfix can read;
// transports come before what names them, and go after it. It returns the
// copies' paths. Without changes it does nothing.
//
// Afterwards postconf must warn of nothing new, what was to change must have,
// and Postfix's own check must pass if it did before; if not, everything is put
// back and the error says why. The running Postfix isn't told: that is `postfix
// reload`.
func (s *Setup) Apply(ctx context.Context, i Instance, now time.Time) (copies []string, err error) {
	if s.Empty() {
		return nil, nil
	}
	before, err := readSettings(ctx, i)
	if err != nil {
		return nil, err
	}
	if before.Dir != s.Dir {
		return nil, fmt.Errorf("apply to %s: the plan is for %s", before.Dir, s.Dir)
	}
	for _, c := range s.Changes {
		if c.Kind == KindParameter && folded(before.Set[c.Name]) != folded(c.Old) {
			return nil, fmt.Errorf("apply to %s: %s was changed meanwhile: run setup again", s.Dir, c.Name)
		}
	}
	texts, err := s.texts(before)
	if err != nil {
		return nil, err
	}
	unchecked := s.check(ctx, i)
	for taken(s.Dir, now) {
		now = now.Add(time.Second)
	}
	for _, name := range []string{mainFile, masterFile} {
		path := before.path(name)
		copied := path + copySuffix(now)
		if err := copyFile(path, copied); err != nil {
			return nil, errors.Join(fmt.Errorf("copy of %s: %w", path, err), removeAll(copies))
		}
		copies = append(copies, copied)
	}
	written, err := s.write(before, texts)
	if err == nil {
		err = s.verify(ctx, i, before)
	}
	if err == nil {
		switch failed := s.check(ctx, i); {
		case failed != nil && unchecked == nil:
			err = failed
		case failed != nil:
			s.note("`postfix check` failed before, too: %v", unchecked)
		}
	}
	if err != nil {
		// Also when the caller has given up waiting.
		if back := restore(written); back != nil {
			return copies, errors.Join(fmt.Errorf("apply to %s: %w", s.Dir, err), back)
		}
		return nil, errors.Join(fmt.Errorf("apply to %s, all put back: %w", s.Dir, err), removeAll(copies))
	}
	return copies, s.tidy()
}

const (
	mainFile   = "main.cf"
	masterFile = "master.cf"
)

// texts are what the files become. Adding is master.cf with all that is added
// and nothing taken out.
type texts struct{ record, adding, main, master string }

func (s *Setup) texts(before Facts) (texts, error) {
	t := texts{adding: before.master, main: before.main}
	r := before.record.clone()
	for _, c := range s.of(KindService, false) {
		t.adding = withService(t.adding, c.Name, c.New)
	}
	for _, c := range s.Changes {
		if c.Kind == KindOption {
			id, name := c.option()
			changed, ok := withOption(t.adding, id, name, c.New)
			if !ok {
				return t, fmt.Errorf("%s: there is no such option in %s", c.Name, before.path(masterFile))
			}
			t.adding = changed
		}
	}
	if before.record != nil && !r.Limits {
		for _, name := range before.limitsSet() {
			if before.limitSetByUs(name) {
				r.Parameters[name] = written{After: folded(before.Set[name])}
			}
		}
	}
	t.master = t.adding
	for _, c := range s.of(KindService, true) {
		t.master = withoutService(t.master, c.Name)
	}
	for _, c := range s.Changes {
		if c.Kind == KindParameter {
			t.main = s.parameterText(t.main, before, c, r)
		}
	}
	if s.undo {
		t.main = s.earlierText(t.main)
		t.main = ended(t.main, before.record, mainFile)
		t.master = ended(t.master, before.record, masterFile)
		return t, nil
	}
	r.Limits = true
	for name, text := range map[string]string{mainFile: before.main, masterFile: before.master} {
		if before.record == nil && text != "" && !strings.HasSuffix(text, "\n") {
			r.Unended[name] = endOf(text)
		}
	}
	for kind, entry := range s.entries {
		// Former ones stay known: a list that is put back from a copy may have
		// them.
		if entry != "" {
			r.Entries[unblanked(entry)] = kind
		}
	}
	var err error
	t.record, err = r.text()
	return t, err
}

// ended takes the end off the last line of a file if it is the one that had
// none.
func ended(text string, r *record, name string) string {
	if r == nil {
		return text
	}
	cut := strings.TrimSuffix(text, "\n")
	if line, ok := r.Unended[name]; ok && endOf(cut) == line {
		return cut
	}
	return text
}

func endOf(text string) string { return text[strings.LastIndexByte(text, '\n')+1:] }

// parameterText makes one change in main.cf, and remembers what was there.
func (s *Setup) parameterText(text string, before Facts, c Change, r *record) string {
	raw, there := rawParameter(text, c.Name)
	was, known := r.Parameters[c.Name]
	single := isSingle(c.Name) || isOurParameter(c.Name)
	_, untouched := before.before(c.Name)
	if untouched {
		old := ""
		if was.Before != nil {
			old = *was.Before
		}
		if alike(blockValue(old), c.New) && (single || c.New == "") {
			delete(r.Parameters, c.Name)
			return withBlock(text, c.Name, old)
		}
	}
	if _, _, limit := limitOf(c.Name); limit {
		delete(r.Parameters, c.Name)
		if c.New != "" {
			r.Parameters[c.Name] = written{After: folded(c.New)}
		}
	}
	if !isOurParameter(c.Name) && c.New != "" {
		switch {
		case untouched, known && !single:
		case !there, s.onlyOurs(c.Name, c.Old):
			was.Before = nil
		default:
			was.Before = &raw
		}
		r.Parameters[c.Name] = written{Before: was.Before, After: folded(c.New)}
	}
	switch {
	case c.New != "":
		return withValue(text, c.Name, c.New, !single)
	case known && was.Before != nil && alike(blockValue(*was.Before), ""): // it was there, with nothing in it
		return withBlock(text, c.Name, *was.Before)
	case len(parametersIn(text, c.Name)) > 1: // the one before would count
		return withValue(text, c.Name, "", false)
	}
	return withBlock(text, c.Name, "")
}

// alike reports whether two values say the same: what separates the entries of
// a list doesn't matter.
func alike(a, b string) bool {
	same := func(x, y string) bool { return folded(x) == folded(y) }
	return slices.EqualFunc(splitList(a), splitList(b), same)
}

// onlyOurs reports whether a value has nothing of the site's in it.
func (s *Setup) onlyOurs(name, value string) bool {
	for _, single := range singles {
		if single.parameter == name {
			return slices.Contains(references(single.reference), value)
		}
	}
	items := splitList(value)
	return s.ours != nil && len(items) > 0 && !slices.ContainsFunc(items, func(item string) bool { return !s.ours(item) })
}

// earlierText takes entries of ours out of what main.cf sets and sets again
// further down.
func (s *Setup) earlierText(text string) string {
	for _, b := range slices.Backward(blocks(text)) {
		raw := text[b.from:b.to]
		name, _, ok := strings.Cut(raw, "=")
		name = strings.TrimSpace(name)
		if !ok || isSingle(name) || isOurParameter(name) || len(parametersIn(text, name)) < 2 {
			continue
		}
		value := blockValue(raw)
		kept := slices.DeleteFunc(splitList(value), s.ours)
		if len(kept) == len(splitList(value)) {
			continue
		}
		if len(kept) == 0 {
			raw = ""
		} else {
			raw = withValue(raw, name, strings.Join(kept, ", "), true)
		}
		text = text[:b.from] + raw + text[b.to:]
	}
	return text
}

func copySuffix(now time.Time) string { return ".tlsonly-" + now.Format("20060102150405") }

// taken reports whether there are copies of that second, which are never
// overwritten.
func taken(dir string, now time.Time) bool {
	found, err := filepath.Glob(filepath.Join(dir, "ma*.cf"+copySuffix(now)))
	return err == nil && len(found) > 0
}

// tidy leaves the newest copies.
func (s *Setup) tidy() error {
	var old []string
	for _, name := range []string{mainFile, masterFile} {
		found, err := filepath.Glob(filepath.Join(s.Dir, name+".tlsonly-[0-9]*"))
		if err != nil {
			return err
		}
		stamp := regexp.MustCompile(`\.tlsonly-\d{14}$`)
		found = slices.DeleteFunc(found, func(path string) bool { return !stamp.MatchString(path) })
		slices.Sort(found)
		old = append(old, found[:max(0, len(found)-keptCopies)]...)
	}
	// What a setup left that was killed.
	found, err := filepath.Glob(filepath.Join(s.Dir, ".*.tlsonly-[0-9]*"))
	if err != nil {
		return err
	}
	old = append(old, found...)
	return removeAll(old)
}

func removeAll(paths []string) error {
	var errs []error
	for _, path := range paths {
		errs = append(errs, os.Remove(path))
	}
	return errors.Join(errs...)
}

// copyFile makes a new file with the text, the mode and the owner of another.
func copyFile(from, to string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(from)
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

// A step puts one file in its place.
type step struct {
	path, text string
	like       string // has the mode and owner of a new file; "": all may read it
	goes       bool   // the file, instead
	ready      string // the new file beside it
	old        string // what it replaces
	was        bool   // there was one
}

// steps returns what puts the files in their places, in this order.
func (s *Setup) steps(before Facts, t texts) []step {
	var steps []step
	if t.record != "" {
		steps = append(steps, step{path: before.path(recordFile), text: t.record, like: before.path(mainFile)})
	}
	for _, c := range s.of(KindFile, false) {
		steps = append(steps, step{path: c.Name, text: c.New})
	}
	if t.adding != before.master {
		steps = append(steps, step{path: before.path(masterFile), text: t.adding})
	}
	if t.main != before.main {
		steps = append(steps, step{path: before.path(mainFile), text: t.main})
	}
	if t.master != t.adding {
		steps = append(steps, step{path: before.path(masterFile), text: t.master})
	}
	for _, c := range s.of(KindFile, true) {
		steps = append(steps, step{path: c.Name, goes: true})
	}
	return steps
}

// write makes the changes and returns the steps that were made, also with an
// error.
func (s *Setup) write(before Facts, t texts) (made []step, err error) {
	steps := s.steps(before, t)
	// All that can fail for want of room or rights does before anything is
	// changed.
	defer func() {
		for _, step := range steps {
			if step.ready != "" {
				_ = os.Remove(step.ready) // that of a step made isn't there any more
			}
		}
	}()
	planned := map[string]string{before.path(mainFile): before.main, before.path(masterFile): before.master}
	for n := range steps {
		was, known := planned[steps[n].path]
		if err := steps[n].prepare(); err != nil {
			return nil, byHand(err)
		}
		if known && steps[n].old != was {
			return nil, changedMeanwhile(steps[n].path)
		}
	}
	for n, step := range steps {
		if !standing(steps[:n], step) {
			return made, changedMeanwhile(step.path)
		}
		if err := step.make(); err != nil {
			return made, byHand(err)
		}
		made = append(made, step)
	}
	return made, nil
}

// errMeanwhile is that of a file which somebody else has written since it was
// read: what they wrote must not be lost.
var errMeanwhile = errors.New("changed meanwhile: run setup again")

func changedMeanwhile(path string) error { return fmt.Errorf("%s %w", path, errMeanwhile) }

// standing reports whether a step's file is as it was when the step was
// prepared, or as the steps before it have made it.
func standing(made []step, next step) bool {
	text, there := next.old, next.was
	for _, p := range made {
		if p.path == next.path {
			text, there = p.text, !p.goes
		}
	}
	return isText(next.path, text, there)
}

// isText reports whether a file is there with that text, or isn't there.
func isText(path, text string, there bool) bool {
	now, err := os.ReadFile(path)
	if !there {
		return errors.Is(err, os.ErrNotExist)
	}
	return err == nil && string(now) == text
}

// byHand adds the way out where a file can't be replaced.
func byHand(err error) error {
	for _, kind := range []error{syscall.EROFS, syscall.EBUSY, syscall.EPERM, syscall.EACCES} {
		if errors.Is(err, kind) {
			return fmt.Errorf("%w: write the settings where these files come from; "+
				"without --apply, setup prints them", err)
		}
	}
	return err
}

// prepare writes the new file beside the one that it is to replace, also where
// a link leads elsewhere, with its mode and owner.
func (p *step) prepare() error {
	text, err := os.ReadFile(p.path)
	if err == nil {
		p.old, p.was = string(text), true
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if p.goes {
		return nil
	}
	if real, err := filepath.EvalSymlinks(p.path); err == nil {
		p.path = real
	}
	f, err := os.CreateTemp(filepath.Dir(p.path), "."+filepath.Base(p.path)+".tlsonly-")
	if err != nil {
		return err
	}
	p.ready = f.Name()
	_, err = f.WriteString(p.text)
	like := p.like
	if p.was || like == "" {
		like = p.path
	}
	if info, missing := os.Stat(like); missing == nil {
		err = errors.Join(err, keepOwner(f, info), f.Chmod(info.Mode().Perm()))
	} else {
		// Postfix's programs read it as another user, whatever our umask says.
		err = errors.Join(err, f.Chmod(0o644))
	}
	return errors.Join(err, f.Sync(), f.Close())
}

func (p step) make() error {
	if p.goes {
		return os.Remove(p.path)
	}
	return os.Rename(p.ready, p.path)
}

// restore takes back what was made. A file that somebody else has written since
// is left as it is, which is an error.
func restore(made []step) error {
	var errs []error
	done := make(map[string]bool)
	for n, last := range slices.Backward(made) {
		if done[last.path] {
			continue
		}
		done[last.path] = true
		if !isText(last.path, last.text, !last.goes) {
			errs = append(errs, fmt.Errorf("%s was changed meanwhile, so it stays as it is", last.path))
			continue
		}
		first := made[slices.IndexFunc(made[:n+1], func(p step) bool { return p.path == last.path })]
		if !first.was {
			errs = append(errs, os.Remove(first.path))
			continue
		}
		back := step{path: first.path, text: first.old}
		err := back.prepare()
		if err == nil {
			err = back.make()
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// verify finds out whether the changes are made and nothing is worse than
// before.
func (s *Setup) verify(ctx context.Context, i Instance, before Facts) error {
	after, err := readSettings(ctx, i)
	if err != nil {
		return err
	}
	if w := worse(before.Warnings, after.Warnings); w != "" {
		return errors.New(w)
	}
	for _, c := range s.Changes {
		got, is := "", true
		switch c.Kind {
		case KindParameter:
			got = after.Set[c.Name]
			is = folded(got) == folded(c.New)
		case KindOption:
			id, name := c.option()
			j := slices.IndexFunc(after.Services, func(s Service) bool { return s.ID() == id })
			if is = j >= 0; is {
				got = after.Services[j].Options[name]
				is = folded(got) == folded(c.New)
			}
		case KindService:
			is = c.New == ""
			for _, s := range slices.Concat(after.Services, after.forGateway) {
				if s.ID() == c.Name {
					is = c.New != "" && s.String() == c.New
				}
			}
		}
		if !is {
			return fmt.Errorf("%s is %q, not %q as it was set",
				c.Name, got, c.New)
		}
	}
	return nil
}

var (
	lineNumber = regexp.MustCompile(`, line \d+`)
	overriding = regexp.MustCompile(`(overriding earlier entry: [^=]*)=.*`)
)

// worse returns a warning that wasn't there before, "" for none. Those that
// were may have moved to another line, and of a parameter that stands twice
// they tell the value.
func worse(before, after []string) string {
	known := make(map[string]bool)
	key := func(w string) string { return overriding.ReplaceAllString(lineNumber.ReplaceAllString(w, ""), "$1") }
	for _, w := range before {
		known[key(w)] = true
	}
	for _, w := range after {
		_, unused, _ := strings.Cut(w, "unused parameter: ")
		name, _, _ := strings.Cut(unused, "=")
		// Referred to from within a table, or a limit that the site has set for a
		// transport of ours.
		if !known[key(w)] && !isOurParameter(name) {
			return w
		}
	}
	return ""
}

// check runs Postfix's own check.
func (s *Setup) check(ctx context.Context, i Instance) error {
	_, _, err := i.run(ctx, "", "postfix", "check")
	if err == nil {
		return nil
	}
	// It tells its reason to the log only; postmap trips over the same
	// parameters aloud.
	_, _, reason := i.run(ctx, "", "postmap", "-q", "x", "static:x")
	return errors.Join(err, reason)
}
