-- The counters of limits. `state` is the whole counter as JSON; the other columns find it.
CREATE TABLE counter (
    id TEXT PRIMARY KEY NOT NULL,
    limit_id TEXT NOT NULL,
    -- The window: c(alendar), s(liding), t(otal), n(ow).
    kind TEXT NOT NULL,
    -- The end of a calendar window, in seconds since 1970.
    until INTEGER,
    -- As of the last change.
    spent INTEGER NOT NULL,
    -- Until when somebody waits for what others hold; 0 if nobody does.
    wanted_until INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    state TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX counter_limit ON counter (limit_id, spent);
CREATE INDEX counter_spent ON counter (spent);
CREATE INDEX counter_wanted ON counter (wanted_until) WHERE wanted_until > 0;

-- Which owner holds a lease on which counter.
CREATE TABLE counter_lease (
    owner TEXT NOT NULL,
    counter TEXT NOT NULL,
    PRIMARY KEY (owner, counter)
) STRICT, WITHOUT ROWID;

-- When an owner was last heard of.
CREATE TABLE counter_owner (
    owner TEXT PRIMARY KEY NOT NULL,
    heard_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- How many bytes of each journal segment are in the counters.
CREATE TABLE counter_position (
    segment TEXT PRIMARY KEY NOT NULL,
    byte INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
