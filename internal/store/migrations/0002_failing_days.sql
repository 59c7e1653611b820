-- How many days of the failures since failing_since had a look, and when the last of them was counted.
ALTER TABLE destination ADD COLUMN failing_days BIGINT NOT NULL DEFAULT 0;
ALTER TABLE destination ADD COLUMN failing_counted BIGINT NOT NULL DEFAULT 0;
