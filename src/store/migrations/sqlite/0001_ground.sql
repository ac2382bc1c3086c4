-- Times are microseconds since 1970-01-01T00:00:00Z, spans microseconds, money nano-dollars. Lists and maps are JSON.

-- A number that grows with every write of what processes keep in memory. Triggers move it, so that no writer can forget to.
CREATE TABLE generation (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    value INTEGER NOT NULL
) STRICT;
INSERT INTO generation (one, value) VALUES (1, 1);

CREATE TABLE app_key (
    id TEXT PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    hint TEXT NOT NULL,
    hash BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
    org TEXT,
    team TEXT,
    user TEXT,
    labels TEXT NOT NULL,
    models TEXT NOT NULL,
    addresses TEXT NOT NULL,
    enabled INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER,
    rotated_at INTEGER
) STRICT;
CREATE INDEX app_key_team ON app_key (team, id);
CREATE INDEX app_key_user ON app_key (user, id);
CREATE TRIGGER app_key_inserted AFTER INSERT ON app_key BEGIN UPDATE generation SET value = value + 1; END;
CREATE TRIGGER app_key_updated AFTER UPDATE ON app_key BEGIN UPDATE generation SET value = value + 1; END;
CREATE TRIGGER app_key_deleted AFTER DELETE ON app_key BEGIN UPDATE generation SET value = value + 1; END;

CREATE TABLE admin_token (
    id TEXT PRIMARY KEY NOT NULL,
    label TEXT NOT NULL,
    role TEXT NOT NULL,
    hint TEXT NOT NULL,
    hash BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER
) STRICT;
CREATE TRIGGER admin_token_inserted AFTER INSERT ON admin_token BEGIN UPDATE generation SET value = value + 1; END;
CREATE TRIGGER admin_token_updated AFTER UPDATE ON admin_token BEGIN UPDATE generation SET value = value + 1; END;
CREATE TRIGGER admin_token_deleted AFTER DELETE ON admin_token BEGIN UPDATE generation SET value = value + 1; END;

-- Positions are 0 to n-1 without gaps; the writer keeps them so.
CREATE TABLE stored_route (
    id TEXT PRIMARY KEY NOT NULL,
    position INTEGER NOT NULL,
    config TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;
CREATE TRIGGER stored_route_inserted AFTER INSERT ON stored_route BEGIN UPDATE generation SET value = value + 1; END;
CREATE TRIGGER stored_route_updated AFTER UPDATE ON stored_route BEGIN UPDATE generation SET value = value + 1; END;
CREATE TRIGGER stored_route_deleted AFTER DELETE ON stored_route BEGIN UPDATE generation SET value = value + 1; END;

-- One row for each exchange. `number` is the order of arrival and is never given twice, which live readers rely on.
CREATE TABLE exchange (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    started_at INTEGER NOT NULL,
    request_id TEXT,
    operation TEXT NOT NULL,
    method TEXT NOT NULL,
    path TEXT NOT NULL,
    address TEXT,
    key_id TEXT,
    org TEXT,
    team TEXT,
    user TEXT,
    model_requested TEXT,
    model_served TEXT,
    provider TEXT,
    route TEXT,
    stream INTEGER NOT NULL,
    status INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    reason TEXT,
    error TEXT,
    -- The token classes are disjoint; all are NULL when nothing is known, which is not zero.
    tokens_input INTEGER,
    tokens_cache_read INTEGER,
    tokens_cache_write_5m INTEGER,
    tokens_cache_write_1h INTEGER,
    tokens_input_audio INTEGER,
    tokens_input_image INTEGER,
    tokens_output INTEGER,
    tokens_reasoning INTEGER,
    tokens_output_audio INTEGER,
    tokens_output_image INTEGER,
    usage_source TEXT,
    cost_nano_usd INTEGER,
    price_source TEXT,
    price_name TEXT,
    price_effective TEXT,
    duration_us INTEGER NOT NULL,
    ttft_us INTEGER,
    bytes_in INTEGER NOT NULL,
    bytes_out INTEGER NOT NULL,
    attempts TEXT
) STRICT;

-- One index answers every filter: it holds all filtered columns in the order of time, so a filter reads it front to back without
-- touching the rows, and an insert appends at its end. An index for each filter would cost several times the insert itself.
CREATE INDEX exchange_scan ON exchange (
    started_at, number, key_id, org, team, user, model_requested, model_served, provider, status, outcome, operation
);
-- The same for what went wrong, which is rare and often looked for.
CREATE INDEX exchange_errors ON exchange (
    started_at, number, key_id, org, team, user, model_requested, model_served, provider, status, outcome, operation
) WHERE outcome <> 'answered';

-- How many bytes of each journal segment are in `exchange`.
CREATE TABLE journal_position (
    segment TEXT PRIMARY KEY NOT NULL,
    byte INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
