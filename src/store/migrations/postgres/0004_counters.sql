-- The counters of limits. `state` is the whole counter as JSON; the other columns find it.
CREATE TABLE counter (
    id TEXT COLLATE "C" PRIMARY KEY,
    limit_id TEXT NOT NULL,
    -- The window: c(alendar), s(liding), t(otal), n(ow).
    kind TEXT NOT NULL,
    -- The end of a calendar window, in seconds since 1970.
    until BIGINT,
    -- As of the last change.
    spent BIGINT NOT NULL,
    -- Until when somebody waits for what others hold; 0 if nobody does.
    wanted_until BIGINT NOT NULL,
    changed_at BIGINT NOT NULL,
    state TEXT NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX counter_limit ON counter (limit_id);
CREATE INDEX counter_wanted ON counter (wanted_until) WHERE wanted_until > 0;

-- Which owner holds a lease on which counter.
CREATE TABLE counter_lease (
    owner TEXT COLLATE "C" NOT NULL,
    counter TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (owner, counter)
);
CREATE INDEX counter_lease_counter ON counter_lease (counter);

-- When an owner was last heard of.
CREATE TABLE counter_owner (
    owner TEXT COLLATE "C" PRIMARY KEY,
    heard_at BIGINT NOT NULL
) WITH (fillfactor = 50);

-- How many bytes of each journal segment are in the counters, and whose segment it is.
CREATE TABLE counter_position (
    segment TEXT COLLATE "C" PRIMARY KEY,
    byte BIGINT NOT NULL,
    node TEXT NOT NULL
);
