-- In which generation each key was last written, and which keys are gone, so that whoever keeps keys in memory reads those alone
-- that changed. Triggers write both, so that no writer can forget to; each moves the generation itself, as the order of triggers is
-- not defined. Keys of before this step are in neither table: who has not read them yet reads all. Keys that are gone are
-- remembered for 100,000 generations; who is further behind reads all, too.
CREATE TABLE app_key_change (
    id TEXT PRIMARY KEY NOT NULL,
    generation INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX app_key_change_generation ON app_key_change (generation);
CREATE TABLE app_key_gone (
    id TEXT PRIMARY KEY NOT NULL,
    generation INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX app_key_gone_generation ON app_key_gone (generation);

CREATE TRIGGER app_key_insert_noted AFTER INSERT ON app_key BEGIN
    UPDATE generation SET value = value + 1;
    DELETE FROM app_key_gone WHERE id = NEW.id;
    INSERT INTO app_key_change (id, generation) SELECT NEW.id, value FROM generation WHERE TRUE
        ON CONFLICT (id) DO UPDATE SET generation = excluded.generation;
END;
CREATE TRIGGER app_key_update_noted AFTER UPDATE ON app_key BEGIN
    UPDATE generation SET value = value + 1;
    INSERT INTO app_key_change (id, generation) SELECT NEW.id, value FROM generation WHERE TRUE
        ON CONFLICT (id) DO UPDATE SET generation = excluded.generation;
END;
CREATE TRIGGER app_key_delete_noted AFTER DELETE ON app_key BEGIN
    UPDATE generation SET value = value + 1;
    DELETE FROM app_key_change WHERE id = OLD.id;
    INSERT INTO app_key_gone (id, generation) SELECT OLD.id, value FROM generation WHERE TRUE
        ON CONFLICT (id) DO UPDATE SET generation = excluded.generation;
    DELETE FROM app_key_gone WHERE generation < (SELECT value FROM generation) - 100000;
END;
