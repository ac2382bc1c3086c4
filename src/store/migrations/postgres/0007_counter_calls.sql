-- The calls on counters that calls of applications wait for, each as one function: one statement, one round trip, and never a
-- lock that is held while a process or the network takes its time. The arithmetic is that of `budget::counter`, number for
-- number (`the_functions_reckon_as_the_program_does`). Each takes one JSON object and gives one.
--
-- `counters` in a call are sorted by id, each once: {id, line, kind, since, until, length}. Rows are locked in that order by
-- everybody, so nobody can block another for ever. `n` counts them from 1.

-- Makes the counters that are not there; of calendar windows only those that hold that second, if there is one.
CREATE FUNCTION marg_make_counters(counters jsonb, present bigint) RETURNS void LANGUAGE sql AS $$
    INSERT INTO counter (id, limit_id, kind, until, spent, wanted_until, changed_at, state)
    SELECT named.id, named.line, named.kind, named.until, 0, 0, 0, '{}'
    FROM jsonb_to_recordset(counters) AS named (id text, line text, kind text, since bigint, until bigint)
    WHERE (present IS NULL OR named.kind <> 'c' OR (present >= named.since AND present < named.until))
      AND NOT EXISTS (SELECT FROM counter WHERE counter.id = named.id)
    ORDER BY named.id COLLATE "C"
    ON CONFLICT (id) DO NOTHING
$$;

-- Locks the counters of that order, and gives what they hold; NULL for one that is not there.
CREATE FUNCTION marg_lock_counters(ids text[]) RETURNS jsonb[] LANGUAGE sql AS $$
    SELECT array_agg(locked.state::jsonb ORDER BY named.n)
    FROM unnest(ids) WITH ORDINALITY AS named (id, n)
    LEFT JOIN (SELECT id, state FROM counter WHERE id = ANY (ids) ORDER BY id FOR UPDATE) AS locked ON locked.id = named.id
$$;

CREATE FUNCTION marg_now() RETURNS bigint LANGUAGE sql AS $$
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
$$;

-- The debt of a paced window at a time.
CREATE FUNCTION marg_counter_debt(flow jsonb, cap numeric, now_us bigint) RETURNS numeric LANGUAGE sql IMMUTABLE AS $$
    SELECT greatest((flow ->> 'debt')::numeric - greatest(now_us - (flow ->> 'at')::numeric, 0) * cap, 0)
$$;

-- How long the whole amount of a paced window takes to flow in, in microseconds.
CREATE FUNCTION marg_counter_period(flow jsonb) RETURNS numeric LANGUAGE sql IMMUTABLE AS $$
    SELECT greatest((flow #>> '{pace,period,secs}')::numeric * 1000000
                    + div((flow #>> '{pace,period,nanos}')::numeric, 1000), 1)
$$;

CREATE FUNCTION marg_counter_spent(state jsonb, kind text, length bigint, now_us bigint) RETURNS numeric
LANGUAGE sql IMMUTABLE AS $$
    SELECT least(CASE
        WHEN state #> '{flow,debt}' IS NOT NULL THEN
            div(marg_counter_debt(state -> 'flow', coalesce((state ->> 'cap')::numeric, 0), now_us)
                + marg_counter_period(state -> 'flow') - 1, marg_counter_period(state -> 'flow'))
        WHEN kind = 's' THEN
            (SELECT coalesce(sum(value::numeric), 0) FROM jsonb_each_text(state -> 'buckets')
             WHERE key::bigint >= div(now_us, 1000000) - length)
        ELSE coalesce((state ->> 'spent')::numeric, 0)
    END, 9223372036854775807)
$$;

CREATE FUNCTION marg_counter_leased(state jsonb) RETURNS numeric LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(sum(value::numeric), 0) FROM jsonb_each_text(state -> 'leases')
$$;

CREATE FUNCTION marg_counter_own(state jsonb, who text) RETURNS numeric LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce((state #>> ARRAY['leases', who])::numeric, 0)
$$;

-- Takes an amount off somebody's lease, down to nothing.
CREATE FUNCTION marg_counter_lower(state jsonb, who text, amount numeric) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN marg_counter_own(state, who) = 0 THEN state
        WHEN marg_counter_own(state, who) <= amount THEN state #- ARRAY['leases', who]
        ELSE jsonb_set(state, ARRAY['leases', who], to_jsonb(marg_counter_own(state, who) - greatest(amount, 0)))
    END
$$;

-- Drops what a counter need not know any more: old seconds of a sliding window, and refusals that are over.
CREATE FUNCTION marg_counter_forget(state jsonb, kind text, length bigint, now_us bigint) RETURNS jsonb
LANGUAGE sql IMMUTABLE AS $$
    SELECT state
        || CASE WHEN kind = 's' AND state ? 'buckets' THEN jsonb_build_object('buckets',
            (SELECT coalesce(jsonb_object_agg(key, value), '{}') FROM jsonb_each(state -> 'buckets')
             WHERE key::bigint >= div(now_us, 1000000) - length)) ELSE '{}' END
        || CASE WHEN state ? 'wanted' THEN jsonb_build_object('wanted',
            (SELECT coalesce(jsonb_object_agg(key, value), '{}') FROM jsonb_each(state -> 'wanted')
             WHERE value::bigint > now_us)) ELSE '{}' END
$$;

-- Writes counters that have changed, and keeps the list of who holds leases in step for that owner.
CREATE FUNCTION marg_keep_counters(who text, ids text[], kinds text[], lengths bigint[], before jsonb[], after jsonb[],
                                   now_us bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE counter SET
        spent = marg_counter_spent(after[n], kinds[n], lengths[n], now_us)::bigint,
        wanted_until = coalesce((SELECT max(value::bigint) FROM jsonb_each_text(after[n] -> 'wanted')), 0),
        changed_at = now_us,
        state = after[n]::text
    FROM generate_subscripts(ids, 1) AS n
    WHERE counter.id = ids[n] AND after[n] IS DISTINCT FROM before[n];
    INSERT INTO counter_lease (owner, counter)
    SELECT who, ids[n] FROM generate_subscripts(ids, 1) AS n
    WHERE marg_counter_own(after[n], who) > 0 AND marg_counter_own(before[n], who) = 0
    ON CONFLICT DO NOTHING;
    DELETE FROM counter_lease USING generate_subscripts(ids, 1) AS n
    WHERE counter_lease.owner = who AND counter_lease.counter = ids[n]
      AND marg_counter_own(after[n], who) = 0 AND marg_counter_own(before[n], who) > 0;
END
$$;

CREATE FUNCTION marg_hear(who text, now_us bigint) RETURNS void LANGUAGE sql AS $$
    INSERT INTO counter_owner (owner, heard_at) VALUES (who, now_us)
    ON CONFLICT (owner) DO UPDATE SET heard_at = excluded.heard_at
$$;

-- {owner, counters, wants: [{n, cap, burst, period, need, wish, ahead}]}
-- → {now, grants: [[granted, spent, leased, own, wrong window, wait or -1]]}
CREATE FUNCTION marg_acquire(call jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    who CONSTANT text := call ->> 'owner';
    ids text[]; kinds text[]; sinces bigint[]; untils bigint[]; lengths bigint[];
    before jsonb[]; after jsonb[]; grants jsonb[] := '{}';
    now_us bigint; second bigint;
    want record; state jsonb; is_there boolean; is_wrong boolean;
    granted numeric; spent numeric; leased numeric; own numeric; room numeric; wait numeric;
BEGIN
    SELECT array_agg(c.id ORDER BY c.n), array_agg(c.kind ORDER BY c.n), array_agg(c.since ORDER BY c.n),
           array_agg(c.until ORDER BY c.n), array_agg(c.length ORDER BY c.n)
    INTO ids, kinds, sinces, untils, lengths
    FROM ROWS FROM (jsonb_to_recordset(call -> 'counters') AS (id text, kind text, since bigint, until bigint, length bigint))
         WITH ORDINALITY AS c (id, kind, since, until, length, n);
    IF ids IS NOT NULL THEN
        PERFORM marg_make_counters(call -> 'counters', marg_now() / 1000000);
        before := marg_lock_counters(ids);
    END IF;
    -- After the locks, so that time goes forward from call to call on a counter.
    now_us := marg_now();
    second := now_us / 1000000;
    after := before;
    FOR want IN
        SELECT * FROM ROWS FROM (jsonb_to_recordset(call -> 'wants')
            AS (n int, cap numeric, burst numeric, period numeric, need numeric, wish numeric, ahead numeric))
            WITH ORDINALITY AS w (n, cap, burst, period, need, wish, ahead, place) ORDER BY place
    LOOP
        is_there := after[want.n] IS NOT NULL;
        is_wrong := kinds[want.n] = 'c' AND (second < sinces[want.n] OR second >= untils[want.n]);
        IF NOT is_there AND NOT is_wrong THEN
            -- Somebody deleted it a moment ago; the caller comes again.
            RAISE EXCEPTION 'a counter is gone' USING ERRCODE = 'serialization_failure';
        END IF;
        state := coalesce(after[want.n], '{}') || jsonb_build_object('cap', want.cap);
        granted := 0; wait := -1; leased := 0; own := 0;
        IF NOT is_wrong THEN
            state := marg_counter_forget(state, kinds[want.n], lengths[want.n], now_us);
        END IF;
        IF NOT is_wrong AND want.burst IS NOT NULL THEN
            spent := CASE WHEN state #> '{flow,debt}' IS NULL THEN 0
                     ELSE marg_counter_debt(state -> 'flow', want.cap, now_us) END;
            room := div(want.burst * want.period - spent, want.period);
            IF room >= want.need AND room > 0 THEN
                granted := greatest(least(want.wish, room), want.need, 0);
                granted := granted + greatest(least(want.ahead, room - granted - div(want.burst, 2)), 0);
            END IF;
            IF granted = 0 AND want.need > 0 AND want.need <= want.burst AND want.cap > 0 THEN
                wait := div(spent + (want.need - want.burst) * want.period, want.cap) + 1;
            END IF;
            state := state || jsonb_build_object('flow', jsonb_build_object(
                'pace', jsonb_build_object('burst', want.burst, 'period', jsonb_build_object(
                    'secs', div(want.period, 1000000), 'nanos', mod(want.period, 1000000) * 1000)),
                'debt', spent + granted * want.period,
                'at', greatest(now_us, coalesce((state #>> '{flow,at}')::bigint, 0))));
            spent := marg_counter_spent(state, kinds[want.n], lengths[want.n], now_us);
        ELSE
            IF NOT is_wrong THEN
                state := state - 'flow';
            END IF;
            spent := marg_counter_spent(state, kinds[want.n], lengths[want.n], now_us);
            leased := marg_counter_leased(state);
            own := marg_counter_own(state, who);
        END IF;
        IF NOT is_wrong AND want.burst IS NULL THEN
            room := want.cap - spent - leased;
            IF room >= want.need AND room > 0 THEN
                granted := greatest(least(want.wish, div(room, 4)), want.need, 0);
            END IF;
            IF granted > 0 THEN
                own := own + granted;
                leased := leased + granted;
                state := state || jsonb_build_object('leases',
                    coalesce(state -> 'leases', '{}') || jsonb_build_object(who, own));
            END IF;
            IF granted = 0 AND want.need > 0 THEN
                state := state || jsonb_build_object('wanted',
                    coalesce(state -> 'wanted', '{}') || jsonb_build_object(who, now_us + 2000000));
                IF kinds[want.n] = 's' THEN
                    SELECT (gone.second + lengths[want.n] + 1) * 1000000 - now_us INTO wait
                    FROM (SELECT key::bigint AS second, sum(value::numeric) OVER (ORDER BY key::bigint) AS amount
                          FROM jsonb_each_text(state -> 'buckets')) AS gone
                    WHERE gone.amount >= want.need - room ORDER BY gone.second LIMIT 1;
                    wait := CASE WHEN wait IS NULL THEN -1 ELSE greatest(wait, 0) END;
                END IF;
            ELSIF state ? 'wanted' THEN
                state := state #- ARRAY['wanted', who];
            END IF;
        END IF;
        IF is_there THEN
            after[want.n] := state;
        END IF;
        grants := array_append(grants, jsonb_build_array(granted, spent, leased, own, is_wrong::int, wait));
    END LOOP;
    PERFORM marg_keep_counters(who, ids, kinds, lengths, before, after, now_us);
    -- Last, so that the row of an owner is locked for a moment only.
    PERFORM marg_hear(who, now_us);
    RETURN jsonb_build_object('now', now_us, 'grants', to_jsonb(grants));
END
$$;

-- {owner, counters, parts: [{n, amount}]} → {}
CREATE FUNCTION marg_release(call jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    who CONSTANT text := call ->> 'owner';
    ids text[]; kinds text[]; lengths bigint[]; before jsonb[]; after jsonb[];
    part record; state jsonb;
BEGIN
    SELECT array_agg(c.id ORDER BY c.n), array_agg(c.kind ORDER BY c.n), array_agg(c.length ORDER BY c.n)
    INTO ids, kinds, lengths
    FROM ROWS FROM (jsonb_to_recordset(call -> 'counters') AS (id text, kind text, length bigint))
         WITH ORDINALITY AS c (id, kind, length, n);
    IF ids IS NULL THEN
        RETURN '{}';
    END IF;
    before := marg_lock_counters(ids);
    after := before;
    FOR part IN SELECT * FROM jsonb_to_recordset(call -> 'parts') AS (n int, amount numeric) LOOP
        state := after[part.n];
        IF state #> '{flow,debt}' IS NOT NULL THEN
            state := jsonb_set(state, '{flow,debt}', to_jsonb(greatest((state #>> '{flow,debt}')::numeric
                - greatest(part.amount, 0) * marg_counter_period(state -> 'flow'), 0)));
        ELSIF state IS NOT NULL THEN
            state := marg_counter_lower(state, who, part.amount);
        END IF;
        after[part.n] := state;
    END LOOP;
    PERFORM marg_keep_counters(who, ids, kinds, lengths, before, after, marg_now());
    RETURN '{}';
END
$$;

-- {owner} → {now, recalled: [id]}
CREATE FUNCTION marg_beat(call jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    who CONSTANT text := call ->> 'owner';
    now_us CONSTANT bigint := marg_now();
BEGIN
    PERFORM marg_hear(who, now_us);
    RETURN jsonb_build_object('now', now_us, 'recalled', (
        SELECT coalesce(jsonb_agg(counter.id), '[]') FROM counter
        WHERE wanted_until > 0 AND wanted_until > now_us
          AND id IN (SELECT counter_lease.counter FROM counter_lease WHERE owner = who)
          AND marg_counter_own(state::jsonb, who) > 0
          AND EXISTS (SELECT FROM jsonb_each_text(state::jsonb -> 'wanted') WHERE key <> who AND value::bigint > now_us)));
END
$$;

-- {owner, segment, from, to, node, counters, charges: [{n, second, amount}]} → {stale}
CREATE FUNCTION marg_take(call jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    who CONSTANT text := call ->> 'owner';
    name CONSTANT text := call ->> 'segment';
    behind CONSTANT bigint := call ->> 'from';
    ids text[]; kinds text[]; lengths bigint[]; before jsonb[]; after jsonb[];
    now_us bigint; charge record; state jsonb; bucket text;
BEGIN
    INSERT INTO counter_position (segment, byte, node) SELECT name, (call ->> 'to')::bigint, call ->> 'node'
    WHERE behind = 0 OR EXISTS (SELECT FROM counter_position WHERE segment = name)
    ON CONFLICT (segment) DO UPDATE SET byte = excluded.byte, node = excluded.node WHERE counter_position.byte = behind;
    IF NOT FOUND THEN
        RETURN '{"stale": true}';
    END IF;
    SELECT array_agg(c.id ORDER BY c.n), array_agg(c.kind ORDER BY c.n), array_agg(c.length ORDER BY c.n)
    INTO ids, kinds, lengths
    FROM ROWS FROM (jsonb_to_recordset(call -> 'counters') AS (id text, kind text, length bigint))
         WITH ORDINALITY AS c (id, kind, length, n);
    IF ids IS NULL THEN
        RETURN '{"stale": false}';
    END IF;
    PERFORM marg_make_counters(call -> 'counters', NULL);
    before := marg_lock_counters(ids);
    now_us := marg_now();
    after := before;
    FOR charge IN SELECT * FROM jsonb_to_recordset(call -> 'charges') AS (n int, second bigint, amount numeric) LOOP
        state := after[charge.n];
        IF state IS NULL THEN
            RAISE EXCEPTION 'a counter is gone' USING ERRCODE = 'serialization_failure';
        END IF;
        CONTINUE WHEN state #> '{flow,debt}' IS NOT NULL OR kinds[charge.n] = 'n';
        IF kinds[charge.n] = 's' THEN
            -- Nobody spends in the future, whatever the clock of the process that charged says.
            bucket := least(charge.second, now_us / 1000000)::text;
            state := state || jsonb_build_object('buckets', coalesce(state -> 'buckets', '{}') || jsonb_build_object(bucket,
                least(coalesce((state #>> ARRAY['buckets', bucket])::numeric, 0) + charge.amount, 9223372036854775807)));
        ELSE
            state := state || jsonb_build_object('spent',
                least(coalesce((state ->> 'spent')::numeric, 0) + charge.amount, 9223372036854775807));
        END IF;
        after[charge.n] := marg_counter_lower(state, who, charge.amount);
    END LOOP;
    PERFORM marg_keep_counters(who, ids, kinds, lengths, before, after, now_us);
    RETURN '{"stale": false}';
END
$$;
