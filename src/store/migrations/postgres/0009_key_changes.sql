-- In which generation each key was last written, and which keys are gone, so that whoever keeps keys in memory reads those alone
-- that changed. Triggers write both, so that no writer can forget to, not even a process of the version before. Each moves the
-- generation itself and so holds its row until the commit: what is noted in one generation can be seen before the next one can.
-- Keys of before this step are in neither table: who has not read them yet reads all. Keys that are gone are remembered for
-- 100,000 generations; who is further behind reads all, too.
CREATE TABLE app_key_change (
    id TEXT COLLATE "C" PRIMARY KEY,
    generation BIGINT NOT NULL
);
CREATE INDEX app_key_change_generation ON app_key_change (generation);
CREATE TABLE app_key_gone (
    id TEXT COLLATE "C" PRIMARY KEY,
    generation BIGINT NOT NULL
);
CREATE INDEX app_key_gone_generation ON app_key_gone (generation);

CREATE FUNCTION marg_keys_written() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    now BIGINT;
BEGIN
    UPDATE generation SET value = value + 1 RETURNING value INTO now;
    DELETE FROM app_key_gone USING written WHERE app_key_gone.id = written.id;
    INSERT INTO app_key_change (id, generation) SELECT id, now FROM written
    ON CONFLICT (id) DO UPDATE SET generation = excluded.generation;
    RETURN NULL;
END
$$;
CREATE FUNCTION marg_keys_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    now BIGINT;
BEGIN
    UPDATE generation SET value = value + 1 RETURNING value INTO now;
    DELETE FROM app_key_change USING deleted WHERE app_key_change.id = deleted.id;
    INSERT INTO app_key_gone (id, generation) SELECT id, now FROM deleted
    ON CONFLICT (id) DO UPDATE SET generation = excluded.generation;
    DELETE FROM app_key_gone WHERE generation < now - 100000;
    RETURN NULL;
END
$$;
CREATE TRIGGER app_key_insert_noted AFTER INSERT ON app_key REFERENCING NEW TABLE AS written
    FOR EACH STATEMENT EXECUTE FUNCTION marg_keys_written();
CREATE TRIGGER app_key_update_noted AFTER UPDATE ON app_key REFERENCING NEW TABLE AS written
    FOR EACH STATEMENT EXECUTE FUNCTION marg_keys_written();
CREATE TRIGGER app_key_delete_noted AFTER DELETE ON app_key REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION marg_keys_deleted();
