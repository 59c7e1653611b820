package forward

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"tlsonly/internal/addr"
	"tlsonly/internal/forward/aliases"
	"tlsonly/internal/forward/sieve"
	"tlsonly/internal/policy"
)

// expansion is one expansion, over what is known in the session.
type expansion struct {
	*session
	job     *job
	last    bool // what is pending now stays unknown
	pending bool
	leaves  map[string]Leaf
	done    map[string]bool // addresses that were followed, by where they came in
	steps   int
}

// cursor is where an expansion stands.
type cursor struct {
	path   []Step
	chain  []string // addresses and names followed on the way here: what comes again is a loop
	levels int
	sender *addr.Address // whose name the mail is sent on in, if not in its sender's: the owner of a list
}

// stage is where addresses come in: what an owner's mail does may be something else.
func (w cursor) stage(name string) string {
	if w.sender == nil {
		return name
	}
	return name + " of " + w.sender.Fold().String()
}

// deepest is how far local(8) follows aliases (100), and more than any Postfix or Sendmail follows virtual ones in earnest.
const deepest = 100

// step notes that from was replaced, by what stands in a setting.
func (w cursor) step(from, setting string) cursor { return w.by(from, policy.Origin{Source: setting}) }

// by notes that from was replaced, and where that is written.
func (w cursor) by(from string, o policy.Origin) cursor {
	w.path = append(slices.Clip(w.path), Step{from, o})
	return w
}

// line notes in which line of the file of the last step it is written; 0 is not
// known better than before.
func (w cursor) line(n int) cursor {
	last := len(w.path) - 1
	if last < 0 || n == 0 || w.path[last].File == "" || w.path[last].Line == n {
		return w
	}
	w.path = slices.Clone(w.path)
	w.path[last].Line = n
	return w
}

// enter notes that name is followed; again says that it was before on the same way.
func (w cursor) enter(name string) (next cursor, again bool) {
	if slices.Contains(w.chain, name) {
		return w, true
	}
	w.chain = append(slices.Clip(w.chain), name)
	w.levels++
	return w, false
}

func (r *expansion) expand() {
	w := cursor{path: r.job.path}
	if r.site != nil {
		r.site.cleanup(r, r.job.to, r.job.external, w)
		if r.job.external {
			r.site.copies(r, w)
		}
		return
	}
	r.plain.recipient(r, r.job.to, w)
}

// finish sorts what was found.
func (r *expansion) finish() Expansion {
	if len(r.leaves) == 0 {
		r.leaf(Unknown, r.job.to, cursor{path: r.job.path}, nil, "no end was found")
	}
	return Expansion{Leaves: slices.SortedFunc(maps.Values(r.leaves), Leaf.compare)}
}

// leaf adds an end. Of two that are alike the one with the shorter path stays.
func (r *expansion) leaf(kind Kind, a addr.Address, w cursor, hops []addr.Destination, format string, args ...any) {
	r.add(Leaf{Kind: kind, Address: a, Hops: hops, Path: w.path, Detail: fmt.Sprintf(format, args...)})
}

func (r *expansion) add(l Leaf) {
	key := fmt.Sprintf("%s\n%s\n%v\n%s", l.Kind, l.Address.Fold(), l.Hops, l.Detail)
	if have, ok := r.leaves[key]; ok && len(have.Path) <= len(l.Path) {
		return
	}
	if len(r.leaves) >= r.most {
		l = Leaf{Kind: Unknown, Address: r.job.to, Detail: fmt.Sprintf("more than %d ends", r.most)}
		key = "more"
	}
	r.leaves[key] = l
}

// unknown adds an end of which err says why it isn't known, unless it will be in the next round.
func (r *expansion) unknown(a addr.Address, w cursor, err error) {
	if errors.Is(err, errPending) {
		r.pending = true
		if !r.last {
			return
		}
		err = errors.New("the tables didn't answer in time")
		if cause := r.ctx.Err(); cause != nil {
			err = fmt.Errorf("%w: %w", err, cause)
		}
	}
	r.leaf(Unknown, a, w, nil, "%v", err)
}

// unread adds an end for a user's own file that can't be read; aside says why
// what it sends on may leave by a way on which tlsonly isn't asked, "" where it
// doesn't.
func (r *expansion) unread(a addr.Address, w cursor, path string, err error, aside string) {
	if w.sender != nil {
		aside = fmt.Sprintf("what it sends on is sent in the name of %s", w.sender)
	}
	l := Leaf{Kind: Unknown, Address: a, Path: w.path, Detail: err.Error(), Unread: path, Enforced: aside == ""}
	if aside != "" {
		l.Detail += "; not held at delivery: " + aside
	}
	r.add(l)
}

// inAddress is the Source of a Step by a route that the address itself has: "user%remote@here".
const inAddress = "route in the address"

// follow reports whether an address that comes in at a place is to be followed: not when it was already. Loops and what is too
// much end here.
func (r *expansion) follow(place string, a addr.Address, w cursor) (cursor, bool) {
	name := place + " " + a.Fold().String()
	next, again := w.enter(name)
	r.steps++
	switch {
	case again:
		r.leaf(Unknown, a, w, nil, "loop: %s is forwarded to itself", a)
		return w, false
	case next.levels > deepest:
		r.leaf(Unknown, a, w, nil, "forwarded more than %d times", deepest)
		return w, false
	case r.steps > 4*r.most:
		r.leaf(Unknown, r.job.to, cursor{}, nil, "more than %d steps", 4*r.most)
		return w, false
	case r.done[name]:
		return w, false
	}
	return next, true
}

// left notes that all behind a place is known: another way there adds nothing.
func (r *expansion) left(place string, a addr.Address) { r.done[place+" "+a.Fold().String()] = true }

// text follows a file, a command and other values that are no addresses. It reports whether it was one.
func (r *expansion) text(t aliases.Target, a addr.Address, w cursor) bool {
	switch t.Kind {
	case aliases.Address, aliases.Name, aliases.Include:
		return false
	case aliases.Command:
		r.leaf(Command, a, w, nil, "|%s", strings.TrimPrefix(t.Text, "|"))
	case aliases.Path:
		if t.Text == "/dev/null" {
			r.leaf(Discard, a, w, nil, "%s", t.Text)
		} else {
			r.leaf(File, a, w, nil, "%s", t.Text)
		}
	case aliases.Error:
		r.leaf(Refused, a, w, nil, "%s", t.Text)
	default:
		r.leaf(Unknown, a, w, nil, "%q isn't understood", t.Text)
	}
	return true
}

// scripts follows the Sieve scripts of whoever a is delivered to; on is where redirected mail comes in again.
func (r *expansion) scripts(a addr.Address, u User, w cursor, on func(addr.Address, cursor)) {
	for _, template := range r.sieve {
		path, ok := scriptPath(template, a, u)
		if !ok {
			continue
		}
		r.script(path, a, w, on, nil)
	}
}

// nested is how deep Sieve scripts may include each other; the including ones come in above.
const nested = 10

func (r *expansion) script(path string, a addr.Address, w cursor, on func(addr.Address, cursor), above []string) {
	if slices.Contains(above, path) || len(above) >= nested {
		r.leaf(Unknown, a, w, nil, "sieve %s: scripts include each other", path)
		return
	}
	forwards, err := r.readScript(path)
	if err != nil {
		r.unknown(a, w, fmt.Errorf("sieve %s: %w", path, err))
		return
	}
	by := w.by(a.String(), policy.Origin{Source: "sieve " + path, File: path})
	for _, f := range forwards {
		w2 := by.line(f.Line)
		switch {
		case f.Unresolved:
			r.leaf(Unknown, a, w2, nil, "sieve %s line %d: %s %q hangs on the message", path, f.Line, f.Kind, f.Text)
		case f.Kind == sieve.Redirect:
			if f.Address.Fold() != a.Fold() {
				on(f.Address, w2)
			}
		case f.Kind == sieve.Notify: // a notice, not the message: RFC 5435
		case f.Kind == sieve.Program:
			r.leaf(Command, a, w2, nil, "|%s", f.Text)
		case f.Kind == sieve.Include:
			r.include(f, path, a, w, on, above)
		default:
			r.leaf(Unknown, a, w2, nil, "sieve %s line %d: %q isn't understood", path, f.Line, f.Text)
		}
	}
}

// include follows an included script (RFC 6609). Personal ones are looked for where Pigeonhole puts them: beside the active one,
// and in the directory sieve there.
func (r *expansion) include(f sieve.Forward, path string, a addr.Address, w cursor, on func(addr.Address, cursor), above []string) {
	if f.Location == sieve.Personal && !strings.ContainsAny(f.Text, "/\x00") {
		dir, _ := cutFile(path)
		for _, candidate := range []string{dir + f.Text + ".sieve", dir + "sieve/" + f.Text + ".sieve"} {
			if forwards, err := r.readScript(candidate); err != nil || forwards != nil {
				r.script(candidate, a, w, on, append(slices.Clip(above), path))
				return
			}
		}
		if f.Optional {
			return
		}
	}
	r.leaf(Unknown, a, w, nil, "sieve %s line %d: included script %q isn't found", path, f.Line, f.Text)
}

func cutFile(path string) (dir, file string) {
	i := strings.LastIndexByte(path, '/')
	return path[:i+1], path[i+1:]
}
