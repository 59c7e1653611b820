package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	driver "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// sqlite is the engine for one host. The daemon and commands beside it share the file; SQLite's locks order them.
type sqlite struct {
	db      *sql.DB
	writing chan struct{} // one writer at a time: within the process none has to poll for SQLite's lock
	lock    *os.File      // held by a daemon
	last    int64         // of the change log

	// Statements of transactions that write: kept, and to be kept. They belong to who is writing.
	kept   map[string]*sql.Stmt
	wanted []string
}

// Every connection of the pool gets these: a pragma on one connection of many is none. FULL makes a commit in WAL
// mode durable when it returns; NORMAL would lose the last ones with the power.
var sqlitePragmas = url.Values{
	"_txlock":    {"immediate"},
	"_defensive": {"1"},
	"_dqs":       {"0"},
	"_pragma":    {"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(ON)"},
}.Encode()

// openSQLite opens or makes the file. It is never opened but through SQLite: to close another descriptor of it would
// drop this process's locks on it (POSIX advisory locks are the process's).
func openSQLite(ctx context.Context, path string, daemon bool) (*sqlite, error) {
	if err := makeFile(path); err != nil {
		return nil, err
	}
	e := &sqlite{writing: make(chan struct{}, 1), kept: map[string]*sql.Stmt{}}
	if daemon {
		var err error
		if e.lock, err = lockFile(path + ".lock"); err != nil {
			return nil, err
		}
	}
	dsn := url.URL{Scheme: "file", Path: path, RawQuery: sqlitePragmas}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		e.close()
		return nil, err
	}
	db.SetMaxOpenConns(4)
	e.db = db
	if daemon {
		err = e.check(ctx)
	} else {
		err = db.PingContext(ctx)
	}
	if err != nil {
		e.close()
		return nil, e.explain(err)
	}
	return e, nil
}

// makeFile makes the file and its directory where they aren't there yet. SQLite gives its journals the file's mode
// and owner. A command that root runs first must not lock the daemon's user out.
func makeFile(path string) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	f, err := createFile(path, os.O_EXCL)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return f.Close()
}

// createFile makes a file of mode 0640, whatever the umask, that belongs to the owner of its directory.
func createFile(path string, flag int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|flag, 0o640) // #nosec G302 -- for a group that may read it
	if err != nil {
		return nil, err
	}
	if os.Geteuid() == 0 {
		if info, err := os.Stat(filepath.Dir(path)); err == nil {
			if owner, ok := info.Sys().(*syscall.Stat_t); ok {
				err = f.Chown(int(owner.Uid), int(owner.Gid))
			}
			if err != nil {
				return nil, errors.Join(err, f.Close())
			}
		}
	}
	if err := f.Chmod(0o640); err != nil && flag != 0 {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// lockFile takes path for this process until the file is closed, and leaves its process id there for the other one's
// error. The kernel drops the lock with the process, so that nothing stale remains.
func lockFile(path string) (*os.File, error) {
	f, err := createFile(path, 0)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock of %s: %w", path, err)
		}
		pid := make([]byte, 20)
		n, _ := f.ReadAt(pid, 0)
		if id := strings.TrimSpace(string(pid[:n])); id != "" {
			return nil, fmt.Errorf("%w (process %s)", ErrInUse, id)
		}
		return nil, ErrInUse
	}
	if err = f.Truncate(0); err == nil {
		_, err = fmt.Fprintln(f, os.Getpid())
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// check looks for damage in the structure of the tables that decide about mail. Load reads their rows anyway; the
// history, which can be large, is left to the day somebody asks for it.
func (e *sqlite) check(ctx context.Context) error {
	rows, err := e.db.QueryContext(ctx, `SELECT name FROM sqlite_schema WHERE type = 'table' AND name IN ('destination', 'host', 'mtasts')`)
	if err != nil {
		return err
	}
	var tables []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return errors.Join(err, rows.Close())
		}
		tables = append(tables, name)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return err
	}
	for _, name := range tables {
		var result string
		if err := e.db.QueryRowContext(ctx, `PRAGMA quick_check(`+name+`)`).Scan(&result); err != nil {
			return err
		}
		if result != "ok" {
			return fmt.Errorf("%w: table %s: %s", ErrDamaged, name, strings.TrimSpace(result))
		}
	}
	return nil
}

func (e *sqlite) dialect() dialect {
	return dialect{
		serial:      "INTEGER PRIMARY KEY AUTOINCREMENT",
		transaction: "BIGINT NOT NULL DEFAULT 0",
	}
}

func (e *sqlite) begin(ctx context.Context, write bool) (tx, error) {
	if !write {
		t, err := e.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
		if err != nil {
			return nil, err
		}
		return &sqliteTx{Tx: t, release: func() {}}, nil
	}
	select {
	case e.writing <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	e.prepareAll(ctx)
	t, err := e.db.BeginTx(ctx, nil)
	if err != nil {
		<-e.writing
		return nil, err
	}
	return &sqliteTx{Tx: t, engine: e, release: func() { <-e.writing }}, nil
}

// mostKept bounds the statements that are kept; there are fewer.
const mostKept = 100

// prepareAll prepares what the last transaction had to prepare for itself, so that the next ones needn't: it costs more than
// running most statements. It comes before a transaction begins, for it may need a connection of its own. A statement that fails
// fails again, with its error, in the transaction that uses it.
func (e *sqlite) prepareAll(ctx context.Context) {
	for _, query := range e.wanted {
		if s, err := e.db.PrepareContext(ctx, query); err == nil {
			e.kept[query] = s
		}
	}
	e.wanted = nil
}

// changes relies on one writer at a time: a lower number is never committed after a higher one.
func (e *sqlite) changes(ctx context.Context, t tx) ([]logged, error) {
	if e.last == 0 {
		return nil, scan(ctx, t, func(r rows) error { return r.Scan(&e.last) }, `SELECT coalesce(max(seq), 0) + 1 FROM change`)
	}
	var found []logged
	err := scan(ctx, t, func(r rows) error {
		var l logged
		var seq int64
		if err := r.Scan(&seq, &l.writer, &l.kind, &l.name); err != nil {
			return err
		}
		e.last = seq + 1
		found = append(found, l)
		return nil
	}, `SELECT seq, writer, kind, name FROM change WHERE seq >= ?1 ORDER BY seq`, e.last)
	return found, err
}

func (e *sqlite) wait(ctx context.Context, d time.Duration) { sleep(ctx, d) }

func (e *sqlite) again(error) bool { return false }

// explain says what an administrator can do. The codes are SQLite's primary result codes.
func (e *sqlite) explain(err error) error {
	var failed *driver.Error
	if !errors.As(err, &failed) {
		if errors.Is(err, ErrDamaged) {
			return fmt.Errorf("%w: %s", err, remedy)
		}
		return err
	}
	switch failed.Code() & 0xff {
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return fmt.Errorf("%w: %w: %s", ErrDamaged, err, remedy)
	case sqlite3.SQLITE_FULL:
		return fmt.Errorf("disk full: %w", err)
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM:
		return fmt.Errorf("file or directory can't be opened for writing: %w", err)
	case sqlite3.SQLITE_BUSY:
		return fmt.Errorf("another process writes for too long: %w", err)
	}
	return err
}

const remedy = "restore a backup, or move the file away with its -wal and -shm to start without what was known " +
	"(pins and demands would be lost); nothing was changed"

func (e *sqlite) close() error {
	var errs []error
	if e.db != nil {
		errs = append(errs, e.db.Close())
	}
	if e.lock != nil {
		errs = append(errs, e.lock.Close())
	}
	return errors.Join(errs...)
}

type sqliteTx struct {
	*sql.Tx
	engine   *sqlite // nil: this one only reads, beside others
	prepared map[string]*sql.Stmt
	release  func()
}

func (t *sqliteTx) prepare(ctx context.Context, query string) (*sql.Stmt, error) {
	if s, ok := t.prepared[query]; ok {
		return s, nil
	}
	s, err := t.statement(ctx, query)
	if err != nil {
		return nil, err
	}
	if t.prepared == nil {
		t.prepared = map[string]*sql.Stmt{}
	}
	t.prepared[query] = s
	return s, nil
}

// statement is the one that is kept for a query, or a new one.
func (t *sqliteTx) statement(ctx context.Context, query string) (*sql.Stmt, error) {
	if e := t.engine; e != nil {
		if kept, ok := e.kept[query]; ok {
			return t.StmtContext(ctx, kept), nil
		}
		if len(e.kept)+len(e.wanted) < mostKept {
			e.wanted = append(e.wanted, query)
		}
	}
	return t.PrepareContext(ctx, query)
}

func (t *sqliteTx) exec(ctx context.Context, query string, args ...any) error {
	s, err := t.prepare(ctx, query)
	if err != nil {
		return err
	}
	_, err = s.ExecContext(ctx, args...)
	return err
}

func (t *sqliteTx) query(ctx context.Context, query string, args ...any) (rows, error) {
	s, err := t.prepare(ctx, query)
	if err != nil {
		return nil, err
	}
	r, err := s.QueryContext(ctx, args...)
	if err != nil {
		return nil, err
	}
	return sqliteRows{r}, nil
}

func (t *sqliteTx) commit(context.Context) error { return t.Commit() }

func (t *sqliteTx) rollback() {
	_ = t.Rollback() // sql.ErrTxDone after a commit
	t.release()
}

type sqliteRows struct{ *sql.Rows }

func (r sqliteRows) Close() { _ = r.Rows.Close() }

// sleep waits for d, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
