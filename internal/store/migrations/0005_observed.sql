-- What rules that only observe would have done, counted by day (its begin in UTC). senders and recipients are sets of 64 bits,
-- from which their numbers are estimated and nobody's address can be told. destination is '' for what would have been accepted,
-- and where a day has too many of them.
CREATE TABLE observed (
	day         BIGINT NOT NULL,
	rule        TEXT   NOT NULL,
	destination TEXT   NOT NULL,
	reason      TEXT   NOT NULL,
	verdict     TEXT   NOT NULL,
	times       BIGINT NOT NULL,
	senders     BIGINT NOT NULL,
	recipients  BIGINT NOT NULL,
	last        BIGINT NOT NULL,
	PRIMARY KEY (day, rule, destination, reason, verdict)
);
