package forward

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"tlsonly/internal/addr"
)

// errPending says that a table must be asked before an expansion can go on.
var errPending = errors.New("not asked yet")

// job is one address to expand. An expansion itself never waits: it runs over what is known, notes what it would have to
// ask, and runs again when that was asked, for all jobs together.
type job struct {
	to, from addr.Address
	external bool // new mail, of which copies are made; not mail that is sent on
	path     []Step
	result   Expansion
}

// session is what jobs that are done together share: each source is looked at once, each key asked once.
type session struct {
	*sources
	ctx    context.Context
	most   int
	site   *postfixConfig // nil without a Postfix
	plain  *fileRules
	memo   map[string]map[string]answer // by table and key
	want   map[string]map[string]bool
	lists  map[string]listing
	seen   map[string]any    // files
	states map[string]string // of tables of patterns: their files
	users  map[string]account
}

type answer struct {
	value string
	found bool
	err   error
}

type listing struct {
	entries map[string]string
	err     error // errUnlistable: ask
}

type account struct {
	user User
	err  error
}

func (e *Expander) newSession(ctx context.Context) *session {
	return &session{sources: e.sources, ctx: ctx, most: e.cfg.Most, memo: map[string]map[string]answer{},
		want: map[string]map[string]bool{}, lists: map[string]listing{}, seen: map[string]any{}, users: map[string]account{},
		states: map[string]string{}}
}

// rounds is how often tables are asked for a set of jobs; each round gets every chain one table further.
const rounds = 200

// work fills the jobs' results.
func (e *Expander) work(ctx context.Context, jobs []*job) {
	s := e.newSession(ctx)
	if e.cfg.Tables != nil {
		settings, err := s.settings(ctx)
		if err != nil {
			for _, j := range jobs {
				j.result = Expansion{Leaves: []Leaf{{Kind: Unknown, Address: j.to, Path: j.path, Detail: err.Error()}}}
			}
			return
		}
		s.site = settings
	} else {
		s.plain = s.readPlain()
	}
	for round := 0; len(jobs) > 0; round++ {
		var waiting []*job
		for _, j := range jobs {
			r := &expansion{session: s, job: j, last: round == rounds || ctx.Err() != nil, leaves: map[string]Leaf{}, done: map[string]bool{}}
			r.expand()
			if r.pending && !r.last {
				waiting = append(waiting, j)
				continue
			}
			j.result = r.finish()
		}
		s.flushLookups()
		jobs = waiting
	}
}

// flushLookups asks the tables for all that is wanted.
func (s *session) flushLookups() {
	for table, keys := range s.want {
		if s.memo[table] == nil {
			s.memo[table] = make(map[string]answer, len(keys))
		}
		got, err := s.tables.Lookup(s.ctx, table, slices.Sorted(maps.Keys(keys)))
		s.remember(table, keys, got, err)
		for key := range keys {
			value, found := got[key]
			s.memo[table][key] = answer{value, found && err == nil, err}
		}
	}
	clear(s.want)
}

// lookup finds a key in one table.
func (s *session) lookup(table, key string) (value string, found bool, err error) {
	l, ok := s.lists[table]
	if !ok {
		l.entries, l.err = s.list(s.ctx, table)
		s.lists[table] = l
	}
	switch {
	case l.err == nil:
		value, found = l.entries[lower(key)]
		return value, found, nil
	case !errors.Is(l.err, errUnlistable):
		return "", false, fmt.Errorf("%s: %w", table, l.err)
	}
	if value, found, known := s.remembered(table, key); known {
		return value, found, nil
	}
	if a, ok := s.memo[table][key]; ok {
		if a.err != nil {
			a.err = fmt.Errorf("%s: %w", table, a.err)
		}
		return a.value, a.found, a.err
	}
	if s.want[table] == nil {
		s.want[table] = map[string]bool{}
	}
	s.want[table][key] = true
	return "", false, errPending
}

// remembered finds what a table of patterns answered before, as long as its file is the same: it can't change otherwise.
func (s *session) remembered(table, key string) (value string, found, known bool) {
	kind, name := kindOf(table)
	if kind != "regexp" && kind != "pcre" && kind != "cidr" {
		return "", false, false
	}
	state, ok := s.states[table]
	if !ok {
		var settled bool
		s.fileStates.watch([]string{name})
		if state, settled = s.fileStates.check([]string{name}); !settled {
			state = ""
		}
		s.states[table] = state
	}
	if state == "" {
		return "", false, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	answers := s.patterns[table]
	if answers.state != state {
		return "", false, false
	}
	value, known = answers.found[key]
	return value, known && value != "", known // a table has no empty values: postmap(1)
}

// remember keeps the answers of a table of patterns.
func (s *session) remember(table string, keys map[string]bool, got map[string]string, err error) {
	state := s.states[table]
	if err != nil || state == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	answers := s.patterns[table]
	if answers.state != state || len(answers.found) > mostAnswers {
		answers = patternAnswers{state, make(map[string]string, len(keys))}
	}
	for key := range keys {
		answers.found[key] = got[key]
	}
	s.patterns[table] = answers
}

// match is what find found.
type match struct {
	table, key, value string
}

// find asks tables as maps_find does: each key of all tables, then the next key. Only the first key, the whole address, is
// asked of tables of patterns and of those that ask programs which want it whole: regexp_table(5), "TABLE LOOKUP".
// As typed, for patterns and programs see the case; lookup folds it for what is listed.
func (s *session) find(tables, keys []string, typed string) (match, bool, error) {
	var pending error
	for i, key := range keys {
		asked := key
		if i == 0 {
			asked = typed
		}
		for _, t := range tables {
			if i > 0 && !partial(t) {
				continue
			}
			value, found, err := s.lookup(t, asked)
			if errors.Is(err, errPending) {
				pending = err // the other keys are wanted in the same round
				continue
			}
			if err != nil && pending == nil {
				return match{}, false, err
			}
			if found && pending == nil {
				return match{t, key, value}, true, nil
			}
		}
	}
	return match{}, false, pending
}

// user finds a user of this host.
func (s *session) user(name string) (User, error) {
	if a, ok := s.users[name]; ok {
		return a.user, a.err
	}
	u, err := s.findUser(name)
	s.users[name] = account{u, err}
	return u, err
}
