-- What a clock that ran ahead has written must not count until that time comes. The arithmetic is that of `budget::counter`.

-- Drops what a counter need not know any more: old seconds of a sliding window, and refusals that are over. What lies in the future
-- was written by a clock that has been put back since: it was spent now at the latest, and such a refusal says nothing.
CREATE OR REPLACE FUNCTION marg_counter_forget(state jsonb, kind text, length bigint, now_us bigint) RETURNS jsonb
LANGUAGE sql IMMUTABLE AS $$
    SELECT state
        || CASE WHEN kind = 's' AND state ? 'buckets' THEN jsonb_build_object('buckets',
            (SELECT coalesce(jsonb_object_agg(second, amount), '{}') FROM
                (SELECT least(key::bigint, now_us / 1000000) AS second,
                        least(sum(value::numeric), 9223372036854775807) AS amount
                 FROM jsonb_each_text(state -> 'buckets')
                 WHERE key::bigint >= now_us / 1000000 - length GROUP BY 1) AS kept)) ELSE '{}' END
        || CASE WHEN (state #>> '{flow,at}')::bigint > now_us + 5000000 THEN
            jsonb_build_object('flow', (state -> 'flow') || jsonb_build_object('at', now_us)) ELSE '{}' END
        || CASE WHEN state ? 'wanted' THEN jsonb_build_object('wanted',
            (SELECT coalesce(jsonb_object_agg(key, value), '{}') FROM jsonb_each(state -> 'wanted')
             WHERE value::bigint > now_us AND value::bigint <= now_us + 2000000)) ELSE '{}' END
$$;

-- {owner} → {now, recalled: [id]}
CREATE OR REPLACE FUNCTION marg_beat(call jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
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
          AND EXISTS (SELECT FROM jsonb_each_text(state::jsonb -> 'wanted')
                      WHERE key <> who AND value::bigint > now_us AND value::bigint <= now_us + 2000000)));
END
$$;
