// Package store answers what was known before this process began, and keeps what it learns: assessments and the
// mail hosts they share, MTA-STS policies, pins, demands, the schedule of looks and the history of changes. It
// keeps them in SQLite (one host) or PostgreSQL (a fleet), with one schema and one code path.
//
// It doesn't decide what is worth keeping. A caller that hands over a failed
// look replaces a good assessment with it; that it mustn't do so before the
// good one's end is the caller's to know. Two things never get weaker here,
// whoever asks: a demand only rises, and a mail host that showed TLS isn't
// replaced, before its end, by one that didn't because some other destination's
// look failed (Assessment.Replace overrides). Certificates are kept as
// policy.Certificate is written in JSON, without their DER.
//
// SECURITY: what a method acknowledged is on disk (SQLite: WAL with synchronous=FULL; PostgreSQL:
// synchronous_commit is never off), so a demand is stored before a recipient is accepted. A damaged file is
// refused and never touched.
//
// Methods are safe for concurrent use. The caller holds the decisions in memory: Load once, then Watch for what
// other processes change; a decision asks no database.
package store

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"sync"
	"time"
)

// What a caller can branch on with errors.Is.
var (
	// ErrNewer: a later version of the program has written the database; nothing was changed.
	ErrNewer = errors.New("database was written by a newer version of tlsonly: upgrade this one")
	// ErrDamaged: the database can't be read. A daemon must not start on it; nothing was changed.
	ErrDamaged = errors.New("database is damaged")
	// ErrInUse: another daemon holds the SQLite file.
	ErrInUse = errors.New("in use by another tlsonly daemon")
	// ErrUnknown: nothing is kept about this.
	ErrUnknown = errors.New("not in the store")
)

// Config says where the store is and who uses it.
type Config struct {
	// URL is "sqlite:///absolute/path" or "postgres://…" as libpq takes it.
	URL string
	// Daemon takes a SQLite file for this process alone among daemons; commands open it beside. It has no effect on
	// PostgreSQL, which daemons share.
	Daemon bool
	// Host names this daemon in leases and history; default: the host's name.
	Host string
	Log  *slog.Logger     // default: none
	Now  func() time.Time // default: time.Now
}

// Store is an open database.
type Store struct {
	c      Config
	engine engine
	writer int64 // this Store among the writers of the change log
	silent bool  // nobody else reads the change log
	poll   time.Duration
	missed time.Duration // how long a Watch can be away and still trust the log

	closing sync.Once
	queue   *commitQueue // nil: transactions run beside each other

	mu       sync.Mutex
	readErr  error
	writeErr error
}

// engine is what differs between SQLite and PostgreSQL.
type engine interface {
	// begin starts a transaction; one that doesn't write sees a single snapshot.
	begin(ctx context.Context, write bool) (tx, error)
	// dialect fills the tokens of a migration, and lock is what makes a SELECT lock its rows.
	dialect() dialect
	// changes returns the change log after the position of the last call, which starts at the end.
	changes(ctx context.Context, t tx) ([]logged, error)
	// wait returns when there may be changes, and after d at the latest.
	wait(ctx context.Context, d time.Duration)
	// explain wraps what the engine's errors mean to an administrator.
	explain(err error) error
	// again reports whether a transaction that failed so is to be tried again.
	again(err error) bool
	close() error
}

type dialect struct {
	serial, transaction string // column types
	guard               string // taken before a migration, or ""
	lock, skip          string // suffixes of SELECT
	notify              string // run before the commit of a transaction that logged changes, or ""
}

// tx is a transaction. Parameters are written ?1, ?2, …
type tx interface {
	exec(ctx context.Context, query string, args ...any) error
	query(ctx context.Context, query string, args ...any) (rows, error)
	commit(ctx context.Context) error
	rollback()
}

type rows interface {
	Next() bool
	Scan(...any) error
	Err() error
	Close()
}

// Open opens the database, making it or bringing its schema up to date. Errors: ErrNewer, ErrDamaged, ErrInUse.
func Open(ctx context.Context, c Config) (*Store, error) {
	return openWith(ctx, c, migrations)
}

func openWith(ctx context.Context, c Config, schema fs.FS) (*Store, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Host == "" {
		c.Host, _ = os.Hostname()
	}
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, errors.New("store: url can't be parsed") // it may hold a password
	}
	var id [8]byte
	rand.Read(id[:])
	s := &Store{c: c, missed: missedAfter, writer: int64(binary.BigEndian.Uint64(id[:]) >> 1)}
	switch u.Scheme {
	case "sqlite":
		if u.Host != "" || len(u.Path) < 2 || u.RawQuery != "" {
			return nil, fmt.Errorf("store: url %q: want sqlite:///absolute/path", c.URL)
		}
		s.engine, err = openSQLite(ctx, u.Path, c.Daemon)
		s.queue = &commitQueue{}
		// Commands change things beside the daemon, and don't watch.
		s.silent, s.poll = c.Daemon, time.Second/2
	case "postgres", "postgresql":
		s.engine, err = openPostgres(ctx, c.URL, c.Log)
		s.poll = 4 * time.Second
	default:
		return nil, fmt.Errorf("store: url scheme %q: want sqlite or postgres", u.Scheme)
	}
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", u.Redacted(), err)
	}
	if err = s.migrate(ctx, schema); err == nil {
		_, err = s.changes(ctx) // Watch tells what happens from now on
	}
	if err != nil {
		s.engine.close()
		return nil, fmt.Errorf("store %s: %w", u.Redacted(), err)
	}
	return s, nil
}

// Close gives the database back when what is under way has ended; Watch must have. A second Close does nothing.
func (s *Store) Close() error {
	var err error
	s.closing.Do(func() {
		if s.queue != nil {
			s.queue.workers.Wait()
		}
		err = s.engine.close()
	})
	return err
}

// Healthy returns the error of the last read or write when it failed, nil when all is well. It asks nothing: Watch
// reads every few seconds, Ping writes.
func (s *Store) Healthy() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.writeErr, s.readErr)
}

// Ping writes a row, so that Healthy notices a full disk, a read-only file or a lost server, and their end.
func (s *Store) Ping(ctx context.Context) error {
	return s.update(ctx, "ping", func(t *work) error {
		return t.exec(ctx, `INSERT INTO pulse (one, at) VALUES (1, ?1) ON CONFLICT (one) DO UPDATE SET at = excluded.at`,
			micros(s.c.Now()))
	})
}

// work is a transaction that may change things.
type work struct {
	tx
	s      *Store
	now    time.Time
	logged bool
}

// attempts is how often a transaction is tried that lost against another one.
const attempts = 5

// update runs fn in a transaction that is durable when update returns nil. fn may run more than once, and where ctx has ended
// still when update has returned: what it makes, the caller looks at only where there was no error.
func (s *Store) update(ctx context.Context, act string, fn func(*work) error) error {
	transact := s.transact
	if s.queue != nil {
		transact = s.join
	}
	var err error
	for range attempts {
		if err = transact(ctx, fn); err == nil || !s.engine.again(err) {
			break
		}
	}
	s.note(&s.writeErr, err)
	if err != nil {
		return fmt.Errorf("store: %s: %w", act, s.engine.explain(err))
	}
	return nil
}

func (s *Store) transact(ctx context.Context, fn func(*work) error) error {
	t, err := s.engine.begin(ctx, true)
	if err != nil {
		return err
	}
	defer t.rollback()
	w := &work{tx: t, s: s, now: s.c.Now()}
	if err := fn(w); err != nil {
		return err
	}
	if notify := s.engine.dialect().notify; w.logged && notify != "" {
		if err := t.exec(ctx, notify); err != nil {
			return err
		}
	}
	return t.commit(ctx)
}

// view runs fn in a transaction that sees one snapshot and writes nothing.
func (s *Store) view(ctx context.Context, act string, fn func(tx) error) error {
	t, err := s.engine.begin(ctx, false)
	if err == nil {
		err = fn(t)
		t.rollback()
	}
	s.note(&s.readErr, err)
	if err != nil {
		return fmt.Errorf("store: %s: %w", act, s.engine.explain(err))
	}
	return nil
}

// note keeps the outcome for Healthy. A caller that went away says nothing about the database.
func (s *Store) note(kept *error, err error) {
	if errors.Is(err, ErrUnknown) || errors.Is(err, errCaller) {
		err = nil
	}
	if errors.Is(err, context.Canceled) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	*kept = err
}

// errCaller marks errors of what was handed over, not of the database.
var errCaller = errors.New("refused")

// scan calls each for every row of a query.
func scan(ctx context.Context, t tx, each func(rows) error, query string, args ...any) error {
	r, err := t.query(ctx, query, args...)
	if err != nil {
		return err
	}
	defer r.Close()
	for r.Next() {
		if err := each(r); err != nil {
			return err
		}
	}
	return r.Err()
}

func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromMicros(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMicro(n).UTC()
}
