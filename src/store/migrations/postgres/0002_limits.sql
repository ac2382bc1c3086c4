-- Limits, and those whom keys act for. A column that holds a list or an object is JSON.
CREATE TABLE spend_limit (
    id TEXT COLLATE "C" PRIMARY KEY,
    name TEXT NOT NULL,
    scope TEXT NOT NULL,
    -- NULL is each one by itself.
    subject TEXT,
    models TEXT NOT NULL,
    unit TEXT NOT NULL,
    span TEXT NOT NULL,
    amount BIGINT NOT NULL CHECK (amount >= 0),
    action TEXT NOT NULL,
    warn_at_percent TEXT NOT NULL,
    enabled BOOLEAN NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE TRIGGER spend_limit_changed AFTER INSERT OR UPDATE OR DELETE ON spend_limit
    FOR EACH STATEMENT EXECUTE FUNCTION marg_changed();

-- Orgs, teams and users. Keys name them without a reference: a name without a row is as good as one with an empty row.
CREATE TABLE party (
    kind TEXT COLLATE "C" NOT NULL CHECK (kind IN ('org', 'team', 'user')),
    name TEXT COLLATE "C" NOT NULL,
    org TEXT,
    team TEXT,
    description TEXT NOT NULL,
    labels TEXT NOT NULL,
    models TEXT NOT NULL,
    max_input_tokens BIGINT CHECK (max_input_tokens >= 0),
    max_output_tokens BIGINT CHECK (max_output_tokens >= 0),
    enabled BOOLEAN NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (kind, name)
);
CREATE TRIGGER party_changed AFTER INSERT OR UPDATE OR DELETE ON party
    FOR EACH STATEMENT EXECUTE FUNCTION marg_changed();

-- Caps on single requests; NULL is none.
ALTER TABLE app_key ADD COLUMN max_input_tokens BIGINT CHECK (max_input_tokens >= 0);
ALTER TABLE app_key ADD COLUMN max_output_tokens BIGINT CHECK (max_output_tokens >= 0);
CREATE INDEX app_key_org ON app_key (org, id);

-- In which tier the provider served an exchange; NULL where it said nothing.
ALTER TABLE exchange ADD COLUMN service_tier TEXT;
