-- What the gate remembers beyond one process: sessions, habits of keys, and the number of each process's last batch. The body is
-- JSON; `until` is an operator's word about a session, `mark` the generation in which it was said.
CREATE TABLE gate_memory (
    kind TEXT NOT NULL,
    key_id TEXT NOT NULL,
    name TEXT NOT NULL,
    seen_at INTEGER NOT NULL,
    until INTEGER,
    mark INTEGER NOT NULL DEFAULT 0,
    body TEXT NOT NULL,
    PRIMARY KEY (kind, key_id, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX gate_memory_seen ON gate_memory (kind, seen_at);
CREATE INDEX gate_memory_mark ON gate_memory (mark) WHERE mark > 0;
