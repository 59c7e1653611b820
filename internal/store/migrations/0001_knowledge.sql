-- Times are microseconds since 1970 in UTC, 0 for none. Text that may be absent is ''.
CREATE TABLE destination (
	name          TEXT PRIMARY KEY,
	born          BIGINT NOT NULL,
	used          BIGINT NOT NULL DEFAULT 0,
	port          BIGINT NOT NULL DEFAULT 0,
	seen          BIGINT NOT NULL DEFAULT 0,
	ends          BIGINT NOT NULL DEFAULT 0,
	doc           TEXT   NOT NULL DEFAULT '',
	hosts         TEXT   NOT NULL DEFAULT '',
	demand_level  TEXT   NOT NULL DEFAULT '',
	demand_min    BIGINT NOT NULL DEFAULT 0,
	demand_bits   BIGINT NOT NULL DEFAULT 0,
	demand_since  BIGINT NOT NULL DEFAULT 0,
	pin_by        TEXT   NOT NULL DEFAULT '',
	pin_since     BIGINT NOT NULL DEFAULT 0,
	first_success BIGINT NOT NULL DEFAULT 0,
	last_success  BIGINT NOT NULL DEFAULT 0,
	failing_since BIGINT NOT NULL DEFAULT 0,
	failures      BIGINT NOT NULL DEFAULT 0,
	next          BIGINT NOT NULL DEFAULT 0,
	lease_by      TEXT   NOT NULL DEFAULT '',
	lease_ends    BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX destination_next ON destination (next) WHERE next > 0;

-- One row a mail host, however many destinations use it; destination.hosts names them by (name, destination.port).
CREATE TABLE host (
	name TEXT   NOT NULL,
	port BIGINT NOT NULL,
	seen BIGINT NOT NULL,
	ends BIGINT NOT NULL,
	tls  BIGINT NOT NULL,
	doc  TEXT   NOT NULL,
	PRIMARY KEY (name, port)
);

CREATE TABLE mtasts (
	domain  TEXT   PRIMARY KEY,
	id      TEXT   NOT NULL,
	policy  TEXT   NOT NULL,
	fetched BIGINT NOT NULL,
	ends    BIGINT NOT NULL
);

CREATE TABLE event (
	id          {serial},
	at          BIGINT NOT NULL,
	destination TEXT   NOT NULL,
	what        TEXT   NOT NULL,
	was         TEXT   NOT NULL,
	became      TEXT   NOT NULL,
	why         TEXT   NOT NULL,
	host        TEXT   NOT NULL
);
CREATE INDEX event_destination ON event (destination, id);

-- What one process changed and others have to read again.
CREATE TABLE change (
	seq    {serial},
	tx     {transaction},
	at     BIGINT NOT NULL,
	writer BIGINT NOT NULL,
	kind   TEXT   NOT NULL,
	name   TEXT   NOT NULL
);
CREATE INDEX change_tx ON change (tx);

CREATE TABLE pulse (
	one BIGINT PRIMARY KEY,
	at  BIGINT NOT NULL
);
