package forward

import (
	"context"
	"hash/maphash"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"tlsonly/internal/addr"
)

// settle is how long Run waits for more after a change: editors and postmap(1) write in several steps.
const settle = 500 * time.Millisecond

// mostWatched bounds the watched directories; what is beyond, and where users have their files, is looked at every Recheck.
const mostWatched = 500

// Run watches the sources and tells of changes by Changed, until ctx ends. It tells of those since a source was first read, even
// before Run began.
func (e *Expander) Run(ctx context.Context) error {
	k := e.sources.fileStates
	var events chan fsnotify.Event
	var faults chan error
	if notify, err := fsnotify.NewWatcher(); err != nil {
		e.cfg.Log.Warn("forwards are only checked periodically", "every", e.cfg.Recheck, "err", err)
	} else {
		defer notify.Close()
		events, faults = notify.Events, notify.Errors
		k.begin(notify)
		defer k.begin(nil)
	}
	e.checkFiles(ctx)
	tick := time.NewTicker(e.cfg.Recheck)
	defer tick.Stop()
	var soon <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case ev := <-events:
			if soon == nil && k.has(ev.Name) {
				soon = time.After(settle)
			}
		case err := <-faults: // an overflow, say: something was missed
			e.cfg.Log.Warn("watch of forwards", "err", err)
			soon = time.After(settle)
		case <-soon:
			soon = nil
			e.checkFiles(ctx)
		case <-tick.C:
			e.checkFiles(ctx)
		}
	}
}

// checkFiles looks at all that is known, and at who has files.
func (e *Expander) checkFiles(ctx context.Context) {
	s := e.sources
	files := s.fileStates.all()
	if e.cfg.Tables != nil {
		n, err := s.settings(ctx)
		if err != nil {
			e.cfg.Log.Warn("checking forwards", "err", err)
			return
		}
		files = append(files, n.patternFiles()...)
	}
	files = slices.Concat(files, s.files.Aliases, s.files.Virtual, s.files.Mailertables)
	s.fileStates.watch(files) // again: a directory may not have been there
	s.fileStates.check(files)
	l := &lister{sources: s, ctx: ctx, cfg: e.cfg, yield: func(Forwarder) bool { return true }}
	if err := l.users(); err != nil {
		e.cfg.Log.Warn("checking users' forwards", "err", err)
	}
}

// fileStates is what every file was like when somebody looked at it. Whoever
// finds another state tells of it, so that no change is missed between the
// first who read a file and the next.
type fileStates struct {
	changed chan struct{}
	seed    maphash.Seed

	mu    sync.Mutex
	files map[string]seen
	users map[string]bool // the users' files at the last listing; nil before the first

	notifying sync.Mutex
	notify    *fsnotify.Watcher // nil without Run
	dirs      map[string]bool   // watched, or soon to be: those of before Run
}

type seen struct {
	state   uint64
	settled bool
}

func newFileStates() *fileStates {
	return &fileStates{changed: make(chan struct{}, 1), seed: maphash.MakeSeed(), files: map[string]seen{}, dirs: map[string]bool{}}
}

func (k *fileStates) tell() {
	select {
	case k.changed <- struct{}{}:
	default:
	}
}

// check returns the state of files, and tells of one that isn't as it was. Of
// one that had just been written it is told once more when it has settled: what
// came after it was first read may not show in its times.
func (k *fileStates) check(files []string) (state string, settled bool) {
	var b strings.Builder
	settled = true
	for _, path := range files {
		one, calm := stateOf([]string{path})
		b.WriteString(one)
		settled = settled && calm
		if !filepath.IsAbs(path) {
			continue
		}
		path, now := filepath.Clean(path), seen{maphash.String(k.seed, one), calm}
		k.mu.Lock()
		before, was := k.files[path]
		differs := was && (before.state != now.state || now.settled && !before.settled)
		if !was && len(k.files) >= 2*remember {
			clear(k.files)
			differs = true
		}
		k.files[path] = now
		k.mu.Unlock()
		if differs {
			k.tell()
		}
	}
	return b.String(), settled
}

// listed notes which files users have, and tells when others had some before.
func (k *fileStates) listed(users map[string]bool) {
	k.mu.Lock()
	differs := k.users != nil && !maps.Equal(k.users, users)
	k.users = users
	k.mu.Unlock()
	if differs {
		k.tell()
	}
}

func (k *fileStates) has(path string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, ok := k.files[filepath.Clean(path)]
	return ok
}

func (k *fileStates) all() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Collect(maps.Keys(k.files))
}

// begin has directories watched by notify, those known before, too; nil: by nobody.
func (k *fileStates) begin(notify *fsnotify.Watcher) {
	k.notifying.Lock()
	defer k.notifying.Unlock()
	k.notify = notify
	for dir := range k.dirs {
		k.add(dir)
	}
}

// watch watches the directories of files: a file itself won't do, for editors put another in its place. What can't be watched
// is looked at every Recheck.
func (k *fileStates) watch(files []string) {
	for _, path := range files {
		_, _ = os.Stat(filepath.Dir(path)) // a file server that doesn't answer must not keep the lock
	}
	k.notifying.Lock()
	defer k.notifying.Unlock()
	for _, path := range files {
		if dir := filepath.Dir(path); filepath.IsAbs(path) && !k.dirs[dir] && len(k.dirs) < mostWatched {
			k.add(dir)
		}
	}
}

func (k *fileStates) add(dir string) {
	k.dirs[dir] = true
	if k.notify != nil && k.notify.Add(dir) != nil {
		delete(k.dirs, dir)
	}
}

// patternFiles lists the files of tables that aren't read but by Postfix's own programs.
func (n *postfixConfig) patternFiles() []string {
	var found []string
	for name, tables := range n.lists {
		if !strings.HasSuffix(name, "_maps") {
			continue
		}
		for _, table := range tables {
			switch kind, path := kindOf(table); kind {
			case "regexp", "pcre", "cidr":
				found = append(found, path)
			}
		}
	}
	return found
}

// users goes through the files that users have: .forward and Sieve scripts.
func (l *lister) users() error {
	var home addr.Domain
	var templates []string
	if l.tables != nil {
		n, err := l.settings(l.ctx)
		if err != nil {
			return err
		}
		home = n.home()
		templates = n.maps("forward_path")
	} else {
		templates = l.cfg.Forward
		if len(l.cfg.Local) > 0 {
			home = l.cfg.Local[0]
		}
	}
	l.userFiles = map[string]bool{}
	if err := l.homes(home, templates); err != nil {
		return err
	}
	if err := l.scripts(); err != nil {
		return err
	}
	l.fileStates.listed(l.userFiles)
	return nil
}
