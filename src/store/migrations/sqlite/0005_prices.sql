-- In which tier the provider served an exchange; NULL where it said nothing.
ALTER TABLE exchange ADD COLUMN service_tier TEXT;

-- Prices that win over the overlay file and the built-in list. `config` is JSON.
CREATE TABLE stored_price (
    id TEXT PRIMARY KEY NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    effective TEXT NOT NULL,
    config TEXT NOT NULL,
    changed_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (provider, model, effective)
) STRICT;
CREATE TRIGGER stored_price_inserted AFTER INSERT ON stored_price BEGIN UPDATE generation SET value = value + 1; END;
CREATE TRIGGER stored_price_updated AFTER UPDATE ON stored_price BEGIN UPDATE generation SET value = value + 1; END;
CREATE TRIGGER stored_price_deleted AFTER DELETE ON stored_price BEGIN UPDATE generation SET value = value + 1; END;

-- Who priced which part of the ledger again, and when.
CREATE TABLE repricing (
    id TEXT PRIMARY KEY NOT NULL,
    done_by TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    since INTEGER,
    until INTEGER,
    records INTEGER NOT NULL,
    difference_nano_usd INTEGER NOT NULL
) STRICT;

-- What counters of limits must still be moved by, because ledger rows were priced again. `sent` is set before the authority is
-- asked: a row that stays with it set was interrupted there, and is told to the operator instead of being sent twice.
CREATE TABLE price_adjustment (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    repricing TEXT NOT NULL,
    counter TEXT NOT NULL,
    amount INTEGER NOT NULL,
    sent INTEGER NOT NULL DEFAULT 0 CHECK (sent IN (0, 1))
) STRICT;
