-- Copies that the gateway has handed to the MTA, by the key of message, sender and recipient: an MTA that tries again, because
-- it did not hear that its message was taken, is told so and nothing is sent twice.
CREATE TABLE handed (
	copy TEXT   NOT NULL PRIMARY KEY,
	at   BIGINT NOT NULL
);

CREATE INDEX handed_at ON handed (at);
