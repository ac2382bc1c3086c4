-- What the gate remembers beyond one process: sessions, habits of keys, and the number of each process's last batch. The body is
-- JSON; `until` is an operator's word about a session, `mark` the generation in which it was said.
CREATE TABLE gate_memory (
    kind TEXT COLLATE "C" NOT NULL,
    key_id TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    seen_at BIGINT NOT NULL,
    until BIGINT,
    mark BIGINT NOT NULL DEFAULT 0,
    body TEXT NOT NULL,
    PRIMARY KEY (kind, key_id, name)
);
CREATE INDEX gate_memory_seen ON gate_memory (kind, seen_at);
CREATE INDEX gate_memory_mark ON gate_memory (mark) WHERE mark > 0;
