-- What the gate said of an exchange, in JSON; NULL where it was not asked.
ALTER TABLE exchange ADD COLUMN verdict TEXT;

-- A key that rests: why, and until when. A reason without a time rests until an operator releases it.
ALTER TABLE app_key ADD COLUMN suspended_until BIGINT;
ALTER TABLE app_key ADD COLUMN suspended_reason TEXT;
