-- Sets of rules that are or were in force, with the numbers of their classes of senders (JSON, by pattern). used is when a set
-- was last known to be in force.
CREATE TABLE ruleset (
	key     TEXT PRIMARY KEY,
	doc     TEXT NOT NULL,
	numbers TEXT NOT NULL,
	born    BIGINT NOT NULL,
	used    BIGINT NOT NULL
);
-- What doctor of an earlier version had the daemon probe, and no destination is.
DELETE FROM destination WHERE name LIKE '%tlsonly-doctor.invalid%';
