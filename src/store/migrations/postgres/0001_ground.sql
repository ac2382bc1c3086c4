-- Times are microseconds since 1970-01-01T00:00:00Z, spans microseconds, money nano-dollars. Lists and maps are JSON in text,
-- because that may hold what jsonb refuses.

-- A number that grows with every write of what processes keep in memory, and a word to those who listen. Triggers do both, so that
-- no writer can forget to.
CREATE TABLE generation (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    value BIGINT NOT NULL
);
INSERT INTO generation (one, value) VALUES (1, 1);
CREATE FUNCTION marg_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE generation SET value = value + 1;
    PERFORM pg_notify('marg_changed', '');
    RETURN NULL;
END
$$;

CREATE TABLE app_key (
    id TEXT COLLATE "C" PRIMARY KEY,
    name TEXT NOT NULL,
    hint TEXT NOT NULL,
    hash BYTEA NOT NULL UNIQUE CHECK (length(hash) = 32),
    org TEXT,
    team TEXT,
    "user" TEXT,
    labels TEXT NOT NULL,
    models TEXT NOT NULL,
    addresses TEXT NOT NULL,
    enabled BOOLEAN NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    revoked_at BIGINT,
    rotated_at BIGINT
);
CREATE INDEX app_key_team ON app_key (team, id);
CREATE INDEX app_key_user ON app_key ("user", id);
CREATE TRIGGER app_key_changed AFTER INSERT OR UPDATE OR DELETE ON app_key
    FOR EACH STATEMENT EXECUTE FUNCTION marg_changed();

CREATE TABLE admin_token (
    id TEXT COLLATE "C" PRIMARY KEY,
    label TEXT NOT NULL,
    role TEXT NOT NULL,
    hint TEXT NOT NULL,
    hash BYTEA NOT NULL UNIQUE CHECK (length(hash) = 32),
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    revoked_at BIGINT
);
CREATE TRIGGER admin_token_changed AFTER INSERT OR UPDATE OR DELETE ON admin_token
    FOR EACH STATEMENT EXECUTE FUNCTION marg_changed();

-- Positions are 0 to n-1 without gaps; the writer keeps them so.
CREATE TABLE stored_route (
    id TEXT COLLATE "C" PRIMARY KEY,
    position BIGINT NOT NULL,
    config TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE TRIGGER stored_route_changed AFTER INSERT OR UPDATE OR DELETE ON stored_route
    FOR EACH STATEMENT EXECUTE FUNCTION marg_changed();

-- One row for each exchange, in partitions by the month of its start. `number` grows with arrival and is never given twice, which
-- live readers rely on. The start belongs to the key because uniqueness must hold the partition key; it is fixed for each id.
CREATE SEQUENCE exchange_number AS BIGINT;
CREATE TABLE exchange (
    number BIGINT NOT NULL DEFAULT nextval('exchange_number'),
    id BYTEA NOT NULL CHECK (length(id) = 16),
    started_at BIGINT NOT NULL,
    request_id TEXT,
    operation TEXT NOT NULL,
    method TEXT NOT NULL,
    path TEXT NOT NULL,
    address TEXT,
    key_id TEXT,
    org TEXT,
    team TEXT,
    "user" TEXT,
    model_requested TEXT,
    model_served TEXT,
    provider TEXT,
    route TEXT,
    stream BOOLEAN NOT NULL,
    status BIGINT NOT NULL,
    outcome TEXT NOT NULL,
    reason TEXT,
    error TEXT,
    -- The token classes are disjoint; all are NULL when nothing is known, which is not zero.
    tokens_input BIGINT,
    tokens_cache_read BIGINT,
    tokens_cache_write_5m BIGINT,
    tokens_cache_write_1h BIGINT,
    tokens_input_audio BIGINT,
    tokens_input_image BIGINT,
    tokens_output BIGINT,
    tokens_reasoning BIGINT,
    tokens_output_audio BIGINT,
    tokens_output_image BIGINT,
    usage_source TEXT,
    cost_nano_usd BIGINT,
    price_source TEXT,
    price_name TEXT,
    price_effective TEXT,
    duration_us BIGINT NOT NULL,
    ttft_us BIGINT,
    bytes_in BIGINT NOT NULL,
    bytes_out BIGINT NOT NULL,
    attempts TEXT,
    tags TEXT,
    session TEXT,
    charges TEXT,
    PRIMARY KEY (id, started_at)
) PARTITION BY RANGE (started_at);
CREATE INDEX exchange_time ON exchange (started_at, number);
CREATE INDEX exchange_arrival ON exchange (number);
CREATE INDEX exchange_key ON exchange (key_id, started_at, number);
CREATE INDEX exchange_errors ON exchange (started_at, number) WHERE outcome <> 'answered';
-- What belongs to no month that has a partition: clocks that go wrong, journals that come late.
CREATE TABLE exchange_other PARTITION OF exchange DEFAULT;

-- How many bytes of each journal segment are in `exchange`, and whose segment it is.
CREATE TABLE journal_position (
    segment TEXT COLLATE "C" PRIMARY KEY,
    byte BIGINT NOT NULL,
    node TEXT NOT NULL
);
CREATE INDEX journal_position_node ON journal_position (node);
