package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	pgConns       = 4
	pgConnectTime = 5 * time.Second
	pgOldest      = 130000 // xid8 and pg_current_xact_id
	pgMaxGap      = time.Minute
)

// postgres is the engine for a fleet.
type postgres struct {
	config *pgx.ConnConfig
	log    *slog.Logger
	slots  chan *pgx.Conn // pgConns of them; nil is one not connected now
	closed chan struct{}

	// Used by Watch alone:
	listener *pgx.Conn
	gap      time.Duration // before the next attempt to listen
	attempt  time.Time
	horizon  string             // every transaction below is finished and was seen
	told     map[int64]struct{} // changes at or above it that were told
}

func openPostgres(ctx context.Context, connString string, log *slog.Logger) (*postgres, error) {
	config, err := pgx.ParseConfig(connString)
	if err != nil {
		return nil, err // pgx leaves the password out
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = pgConnectTime
	}
	if _, ok := config.RuntimeParams["application_name"]; !ok {
		config.RuntimeParams["application_name"] = "tlsonly"
	}
	config.OnNotice = func(*pgconn.PgConn, *pgconn.Notice) {}
	e := &postgres{config: config, log: log, slots: make(chan *pgx.Conn, pgConns), closed: make(chan struct{})}
	for range pgConns {
		e.slots <- nil
	}
	c, err := e.connect(ctx)
	if err != nil {
		return nil, err
	}
	var version int
	err = c.QueryRow(ctx, `SELECT current_setting('server_version_num')::int`).Scan(&version)
	if err == nil && version < pgOldest {
		err = fmt.Errorf("PostgreSQL %d: want 13 or later", version/10000)
	}
	if err != nil {
		c.Close(ctx)
		return nil, err
	}
	<-e.slots
	e.slots <- c
	return e, nil
}

// connect makes a connection whose commits are durable when they return, whatever the server's default; a stricter
// setting (remote_apply) stays.
func (e *postgres) connect(ctx context.Context) (*pgx.Conn, error) {
	c, err := pgx.ConnectConfig(ctx, e.config)
	if err != nil {
		return nil, err
	}
	_, err = c.Exec(ctx, `SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'`)
	if err != nil {
		c.Close(ctx)
		return nil, err
	}
	return c, nil
}

func (e *postgres) dialect() dialect {
	return dialect{
		serial:      "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
		transaction: "XID8 NOT NULL DEFAULT pg_current_xact_id()",
		guard:       `SELECT pg_advisory_xact_lock(8461086980)`, // a number of our own
		lock:        " FOR UPDATE",
		skip:        " FOR UPDATE SKIP LOCKED",
		notify:      `SELECT pg_notify('tlsonly', '')`,
	}
}

// begin takes a connection. One that the server has closed meanwhile is replaced: nothing was asked over it yet.
func (e *postgres) begin(ctx context.Context, write bool) (tx, error) {
	var c *pgx.Conn
	select {
	case c = <-e.slots:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-e.closed:
		return nil, errors.New("closed")
	}
	options := pgx.TxOptions{}
	if !write {
		options = pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	}
	if c != nil && !c.IsClosed() {
		if t, err := c.BeginTx(ctx, options); err == nil {
			return &postgresTx{Tx: t, release: func() { e.release(c) }}, nil
		}
		e.drop(c)
	}
	c, err := e.connect(ctx)
	if err != nil {
		e.slots <- nil
		return nil, err
	}
	t, err := c.BeginTx(ctx, options)
	if err != nil {
		e.drop(c)
		e.slots <- nil
		return nil, err
	}
	return &postgresTx{Tx: t, release: func() { e.release(c) }}, nil
}

func (e *postgres) release(c *pgx.Conn) {
	if c.IsClosed() {
		c = nil
	}
	e.slots <- c
}

func (e *postgres) drop(c *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.Close(ctx)
}

// changes finds every committed change once. Numbers of a sequence are committed in any order, so a position in it
// would miss some; but all transactions below a snapshot's xmin are finished.
func (e *postgres) changes(ctx context.Context, t tx) ([]logged, error) {
	var horizon string
	err := scan(ctx, t, func(r rows) error { return r.Scan(&horizon) }, `SELECT pg_snapshot_xmin(pg_current_snapshot())::text`)
	if err != nil {
		return nil, err
	}
	var found []logged
	told := map[int64]struct{}{}
	first := e.told == nil
	err = scan(ctx, t, func(r rows) error {
		var l logged
		var seq int64
		if err := r.Scan(&seq, &l.writer, &l.kind, &l.name); err != nil {
			return err
		}
		if _, ok := e.told[seq]; !ok && !first {
			found = append(found, l)
		}
		told[seq] = struct{}{}
		return nil
	}, `SELECT seq, writer, kind, name FROM change WHERE tx >= CAST(CAST(?1 AS text) AS xid8) ORDER BY seq`, e.start(horizon))
	if err != nil {
		return nil, err
	}
	e.horizon, e.told = horizon, told
	return found, nil
}

// start is where changes reads from: at first, not the whole log.
func (e *postgres) start(horizon string) string {
	if e.told == nil {
		return horizon
	}
	return e.horizon
}

// wait listens. While the listener's connection is broken, it returns after d, so that the caller polls; attempts
// to listen again come in growing gaps.
func (e *postgres) wait(ctx context.Context, d time.Duration) {
	if e.listener == nil && !time.Now().Before(e.attempt) {
		err := e.listen(ctx)
		if err == nil {
			e.gap = 0
			return // what came between the last poll and now
		}
		e.gap = min(max(2*e.gap, time.Second/4), pgMaxGap)
		e.attempt = time.Now().Add(e.gap)
	}
	if e.listener == nil {
		sleep(ctx, min(d, max(time.Until(e.attempt), 0)))
		return
	}
	waiting, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	_, err := e.listener.WaitForNotification(waiting)
	if err != nil && (waiting.Err() == nil || e.listener.IsClosed()) {
		if ctx.Err() == nil {
			e.log.Warn("store listener lost", "err", err)
		}
		e.drop(e.listener)
		e.listener = nil
	}
}

func (e *postgres) listen(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pgConnectTime)
	defer cancel()
	c, err := pgx.ConnectConfig(ctx, e.config)
	if err != nil {
		return err
	}
	if _, err := c.Exec(ctx, `LISTEN tlsonly`); err != nil {
		e.drop(c)
		return err
	}
	e.listener = c
	return nil
}

// again: deadlock_detected and serialization_failure.
func (e *postgres) again(err error) bool {
	var failed *pgconn.PgError
	return errors.As(err, &failed) && (failed.Code == "40P01" || failed.Code == "40001")
}

func (e *postgres) explain(err error) error {
	var failed *pgconn.PgError
	if !errors.As(err, &failed) {
		return err
	}
	switch {
	case failed.Code == "XX001" || failed.Code == "XX002": // data_corrupted, index_corrupted
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	case failed.Code == "53100":
		return fmt.Errorf("disk full: %w", err)
	case failed.Code == "25006":
		return fmt.Errorf("database can't be written: %w", err)
	}
	return err
}

func (e *postgres) close() error {
	if e.listener != nil {
		e.drop(e.listener)
		e.listener = nil
	}
	for range pgConns {
		if c := <-e.slots; c != nil {
			e.drop(c)
		}
	}
	close(e.closed)
	return nil
}

type postgresTx struct {
	pgx.Tx
	release func()
}

func (t *postgresTx) exec(ctx context.Context, query string, args ...any) error {
	_, err := t.Exec(ctx, strings.ReplaceAll(query, "?", "$"), args...)
	return err
}

func (t *postgresTx) query(ctx context.Context, query string, args ...any) (rows, error) {
	return t.Query(ctx, strings.ReplaceAll(query, "?", "$"), args...)
}

func (t *postgresTx) commit(ctx context.Context) error { return t.Commit(ctx) }

func (t *postgresTx) rollback() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = t.Rollback(ctx) // pgx.ErrTxClosed after a commit
	t.release()
}
