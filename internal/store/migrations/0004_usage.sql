-- What was seen in use when mail was accepted, and when last.
CREATE TABLE usage (
	kind TEXT   NOT NULL,
	name TEXT   NOT NULL,
	at   BIGINT NOT NULL,
	PRIMARY KEY (kind, name)
);
