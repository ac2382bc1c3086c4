-- What an exchange was tagged with and what it added to the counters of limits; JSON, NULL when there is nothing.
ALTER TABLE exchange ADD COLUMN tags TEXT;
ALTER TABLE exchange ADD COLUMN session TEXT;
ALTER TABLE exchange ADD COLUMN charges TEXT;
