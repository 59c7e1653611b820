package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"tlsonly/internal/forward/aliases"
	"tlsonly/internal/forward/sieve"
	"tlsonly/internal/place"
)

// sources reads what forwards are written in, and again when it has changed.
type sources struct {
	tables     Tables
	dialect    aliases.Dialect
	sieve      []string
	files      Config // the plain files
	findUser   func(string) (User, error)
	moreUsers  func() bool // there are users that Config.List doesn't list
	fileStates *fileStates

	slow *slow

	mu    sync.Mutex
	cache map[string]*source
	dir   string // of the settings, once known

	patterns map[string]patternAnswers // by table
	lines    *lineIndex
}

// patternAnswers are what a table of patterns answered; "" is not found.
type patternAnswers struct {
	state string // of its file
	found map[string]string
}

// mostAnswers bounds what is remembered of a table: keys are strangers' to choose.
const mostAnswers = 100_000

// errUnlistable says that a table can only be asked.
var errUnlistable = errors.New("can only be asked, not listed")

// source is one thing read.
type source struct {
	files []string
	lock  chan struct{} // has one element while somebody reads
	state string        // of its files when it was read; "": read it again
	value any
	err   error
	until time.Time // an error is tried again from then on, for not all come from the file
}

func newSources(cfg Config, moreUsers func() bool) *sources {
	return &sources{tables: cfg.Tables, dialect: cfg.Dialect, sieve: cfg.Sieve, files: cfg, findUser: cfg.User, moreUsers: moreUsers,
		fileStates: newFileStates(), slow: newSlow(), cache: map[string]*source{}, patterns: map[string]patternAnswers{}, lines: newLineIndex()}
}

const (
	largest  = 16 << 20 // of a file that users write: a list with half a million members
	remember = 200_000  // sources; then all are read again
)

// again is how long an error serves.
const again = 5 * time.Second

// read returns what load makes of files, from memory as long as none of them has changed.
func (s *sources) read(ctx context.Context, key string, files []string, load func() (any, error)) (any, error) {
	s.mu.Lock()
	c, ok := s.cache[key]
	if !ok {
		if len(s.cache) >= remember {
			clear(s.cache)
		}
		c = &source{files: files, lock: make(chan struct{}, 1)}
		s.cache[key] = c
	}
	s.mu.Unlock()
	select { // somebody else's reading may take longer than our caller has
	case c.lock <- struct{}{}:
		defer func() { <-c.lock }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if !ok {
		s.fileStates.watch(files) // before the first look: what comes later is seen
	}
	state, settled := s.fileStates.check(files)
	if c.state != "" && c.state == state && (c.err == nil || time.Now().Before(c.until)) {
		return c.value, c.err
	}
	c.value, c.err = load()
	c.until = time.Now().Add(again)
	if c.state = state; !settled || errors.Is(c.err, context.Canceled) || errors.Is(c.err, context.DeadlineExceeded) {
		c.state = ""
	}
	return c.value, c.err
}

// unsettled is how long a file may change without its time telling: longer than any file system's clock tick.
const unsettled = time.Second

// stateOf tells files' times, sizes and inodes. settled is false when one changed a moment ago and could again without showing.
func stateOf(files []string) (state string, settled bool) {
	var b strings.Builder
	settled = true
	for _, path := range files {
		for _, stat := range []func(string) (fs.FileInfo, error){os.Lstat, os.Stat} {
			info, err := stat(path)
			if err != nil {
				fmt.Fprintf(&b, "%v;", err)
				break
			}
			id, _ := info.Sys().(*syscall.Stat_t)
			fmt.Fprintf(&b, "%d %d %d %d %o %d %d;", info.ModTime().UnixNano(), info.Size(), id.Ino, id.Dev, info.Mode(), id.Uid,
				place.Changed(id).UnixNano())
			settled = settled && time.Since(info.ModTime()) > unsettled && time.Since(place.Changed(id)) > unsettled
			if info.Mode()&fs.ModeSymlink == 0 {
				break
			}
		}
	}
	b.WriteString(".")
	return b.String(), settled
}

// settings returns Postfix's.
func (s *sources) settings(ctx context.Context) (*postfixConfig, error) {
	s.mu.Lock()
	dir := s.dir
	s.mu.Unlock()
	key := "settings"
	if dir == "" {
		key = "settings at first" // whose files aren't known yet
	}
	v, err := s.read(ctx, key, []string{filepath.Join(dir, "main.cf"), filepath.Join(dir, "master.cf")}, func() (any, error) {
		parameters, transports, err := s.tables.Settings(ctx)
		if err != nil {
			return nil, fmt.Errorf("settings of postfix: %w", err)
		}
		s.mu.Lock()
		s.dir = parameters["config_directory"]
		s.mu.Unlock()
		return newPostfixConfig(parameters, transports)
	})
	if err != nil {
		return nil, err
	}
	return v.(*postfixConfig), nil
}

// list returns a table's whole content in memory, or errUnlistable.
func (s *sources) list(ctx context.Context, table string) (map[string]string, error) {
	files, ok := tableFiles(table)
	if !ok {
		return nil, errUnlistable
	}
	v, err := s.read(ctx, "table "+table, files, func() (any, error) {
		entries, err := s.tables.List(ctx, table)
		if err != nil {
			return nil, err
		}
		folded := make(map[string]string, len(entries))
		for key, value := range entries {
			folded[lower(key)] = value
		}
		return folded, nil
	})
	if err != nil {
		return nil, err
	}
	return v.(map[string]string), nil
}

// kindOf takes a table's name apart; a proxymap(8) reads the same file.
func kindOf(table string) (kind, name string) {
	kind, name, _ = strings.Cut(strings.TrimPrefix(table, "proxy:"), ":")
	return kind, name
}

// tableFiles returns the files that a table is in effect from, and false for one that isn't to be had whole. What was edited
// without postmap(1) isn't in effect.
func tableFiles(table string) ([]string, bool) {
	kind, name := kindOf(table)
	switch kind {
	case "hash", "btree":
		return []string{name + ".db"}, true
	case "lmdb":
		return []string{name + ".lmdb"}, true
	case "texthash":
		return []string{name}, true
	case "inline":
		return nil, true
	}
	return nil, false
}

// partial reports whether a table is asked for parts of an address too. DATABASE_README and the manual of each kind: patterns,
// and programs behind a socket, get it whole.
func partial(table string) bool {
	kind, name := kindOf(table)
	switch kind {
	case "regexp", "pcre", "cidr", "socketmap", "tcp", "randmap", "fail":
		return false
	case "unionmap", "pipemap":
		return slices.ContainsFunc(splitList(strings.Trim(name, "{}")), partial)
	}
	return true
}

// User is who a local name stands for.
type User struct {
	Name     string
	UID, GID uint32
	Home     string
}

var errIgnored = errors.New("ignored by the MTA")

// forwardFile reads a user's file. Its error is fs.ErrNotExist when there is none and errIgnored when local(8) delivers to the
// mailbox as if it weren't there.
func (s *session) forwardFile(path string, u User) ([]aliases.Target, error) {
	return once(s, "forward "+u.Name+" "+path, func() ([]aliases.Target, error) {
		return soon(s.ctx, s.slow, path, func() ([]aliases.Target, error) { return s.readForward(path, u) })
	})
}

func (s *session) readForward(path string, u User) ([]aliases.Target, error) {
	v, err := s.read(s.ctx, "forward "+u.Name+" "+path, []string{path}, func() (any, error) {
		info, err := os.Lstat(path)
		if s.plain != nil && err == nil {
			info, err = os.Stat(path)
		}
		if err != nil {
			return nil, err
		}
		owner, _ := info.Sys().(*syscall.Stat_t)
		// local(8), dotforward: no regular file (links neither), a wrong owner, or writable by the world.
		if !info.Mode().IsRegular() || s.plain == nil && (owner.Uid != 0 && owner.Uid != u.UID || info.Mode()&0o002 != 0 ||
			!mayRead(info.Mode(), owner, u)) {
			return nil, errIgnored
		}
		return s.parseList(path)
	})
	targets, _ := v.([]aliases.Target)
	return targets, err
}

// parseList reads a list of targets.
func (s *session) parseList(path string) ([]aliases.Target, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, err
	}
	targets, _ := aliases.ParseList(text, path, s.dialect)
	return targets, nil
}

// mayRead reports whether the user may read the file, as local(8) does with the user's own group alone.
func mayRead(mode fs.FileMode, owner *syscall.Stat_t, u User) bool {
	switch {
	case u.UID == 0:
		return true
	case owner.Uid == u.UID:
		return mode&0o400 != 0
	case owner.Gid == u.GID:
		return mode&0o040 != 0
	}
	return mode&0o004 != 0
}

// included reads a list of :include:.
func (s *session) included(path string) ([]aliases.Target, error) {
	return once(s, "include "+path, func() ([]aliases.Target, error) {
		v, err := s.read(s.ctx, "include "+path, []string{path}, func() (any, error) {
			return s.parseList(path)
		})
		targets, _ := v.([]aliases.Target)
		return targets, err
	})
}

// readScript reads a Sieve script. Of one that doesn't exist it returns nil.
func (s *session) readScript(path string) ([]sieve.Forward, error) {
	return once(s, "sieve "+path, func() ([]sieve.Forward, error) {
		v, err := s.read(s.ctx, "sieve "+path, []string{path}, func() (any, error) {
			text, err := readFile(path)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
				return []sieve.Forward(nil), nil
			}
			if err != nil {
				return nil, err
			}
			forwards, err := sieve.Forwards([]byte(text))
			return append([]sieve.Forward{}, forwards...), err
		})
		forwards, _ := v.([]sieve.Forward)
		return forwards, err
	})
}

// once looks at a source once in a session.
func once[T any](s *session, key string, read func() (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	if have, ok := s.seen[key].(result); ok {
		return have.v, have.err
	}
	v, err := read()
	s.seen[key] = result{v, err}
	return v, err
}

// readFile reads a regular file of moderate size, and doesn't wait for a pipe that a user has put in its place.
func readFile(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return "", err
	} else if !info.Mode().IsRegular() {
		return "", fmt.Errorf("read %s: not a regular file", path)
	}
	text, err := io.ReadAll(io.LimitReader(f, largest+1))
	if err == nil && len(text) > largest {
		err = fmt.Errorf("read %s: larger than %d MiB", path, largest>>20)
	}
	return string(text), err
}
