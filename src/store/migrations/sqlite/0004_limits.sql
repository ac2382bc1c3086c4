-- Limits, and those whom keys act for. A column that holds a list or an object is JSON.
CREATE TABLE spend_limit (
    id TEXT PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    scope TEXT NOT NULL,
    -- NULL is each one by itself.
    subject TEXT,
    models TEXT NOT NULL,
    unit TEXT NOT NULL,
    span TEXT NOT NULL,
    amount INTEGER NOT NULL CHECK (amount >= 0),
    action TEXT NOT NULL,
    warn_at_percent TEXT NOT NULL,
    enabled INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;
CREATE TRIGGER spend_limit_inserted AFTER INSERT ON spend_limit BEGIN UPDATE generation SET value = value + 1; END;
CREATE TRIGGER spend_limit_updated AFTER UPDATE ON spend_limit BEGIN UPDATE generation SET value = value + 1; END;
CREATE TRIGGER spend_limit_deleted AFTER DELETE ON spend_limit BEGIN UPDATE generation SET value = value + 1; END;

-- Orgs, teams and users. Keys name them without a reference: a name without a row is as good as one with an empty row.
CREATE TABLE party (
    kind TEXT NOT NULL CHECK (kind IN ('org', 'team', 'user')),
    name TEXT NOT NULL,
    org TEXT,
    team TEXT,
    description TEXT NOT NULL,
    labels TEXT NOT NULL,
    models TEXT NOT NULL,
    max_input_tokens INTEGER CHECK (max_input_tokens >= 0),
    max_output_tokens INTEGER CHECK (max_output_tokens >= 0),
    enabled INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER party_inserted AFTER INSERT ON party BEGIN UPDATE generation SET value = value + 1; END;
CREATE TRIGGER party_updated AFTER UPDATE ON party BEGIN UPDATE generation SET value = value + 1; END;
CREATE TRIGGER party_deleted AFTER DELETE ON party BEGIN UPDATE generation SET value = value + 1; END;

-- Caps on single requests; NULL is none.
ALTER TABLE app_key ADD COLUMN max_input_tokens INTEGER CHECK (max_input_tokens >= 0);
ALTER TABLE app_key ADD COLUMN max_output_tokens INTEGER CHECK (max_output_tokens >= 0);
CREATE INDEX app_key_org ON app_key (org, id);
