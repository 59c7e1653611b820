-- Keys and certificates of recipients. kind is the method that they are for, address the recipient in its folded form, octets the
-- key in base64. state says whether it is used; of one kind and address at most one key is used, and at most one waits.
CREATE TABLE recipient_key (
	kind        TEXT   NOT NULL,
	address     TEXT   NOT NULL,
	fingerprint TEXT   NOT NULL,
	octets      TEXT   NOT NULL,
	source      TEXT   NOT NULL,
	state       TEXT   NOT NULL,
	found       BIGINT NOT NULL,
	seen        BIGINT NOT NULL,
	PRIMARY KEY (kind, address, fingerprint)
);
