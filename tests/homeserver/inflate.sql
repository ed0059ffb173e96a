-- Brings the database of a real, seeded Synapse to a chosen size, with rows like Synapse's own:
--
--     psql -d synapse -v rooms=2000 -v events=250000 -f inflate.sql
--
-- rooms and events (200, 50000) are what the database holds afterwards; run again, it adds what is missing.
-- More: -v days=365 (the time that the events cover), -v snapshot=10 (a full copy of a room's state
-- after so many changes), -v unused=0.3 (share of rooms that every local user has left),
-- -v seed=1, -v force=1 (do not mind other sessions of the tables' owner).
--
-- Stop Synapse first: it neither notices the new rows nor expects others to move its streams on.
-- Everything happens in one transaction: it is there as a whole or not at all. The same parameters
-- on the same database give the same rows, but for the present time.
--
-- Synapse refuses an event whose id is not the hash of its content, so each event is hashed here as
-- the specification says, one after the other: an event names its predecessor. The rest is done a
-- table at a time.

\set ON_ERROR_STOP on
\set QUIET on
\set SHOW_CONTEXT never
\set VERBOSITY terse
\pset footer off
\if :{?rooms} \else \set rooms 200 \endif
\if :{?events} \else \set events 50000 \endif
\if :{?days} \else \set days 365 \endif
\if :{?snapshot} \else \set snapshot 10 \endif
\if :{?unused} \else \set unused 0.3 \endif
\if :{?seed} \else \set seed 1 \endif
\if :{?force} \else \set force 0 \endif
SELECT set_config('inflate.rooms', :'rooms', false), set_config('inflate.events', :'events', false),
       set_config('inflate.days', :'days', false), set_config('inflate.snapshot', :'snapshot', false),
       set_config('inflate.unused', :'unused', false), set_config('inflate.seed', :'seed', false),
       set_config('inflate.force', :'force', false) \g /dev/null

BEGIN;
SET LOCAL synchronous_commit = off;
SET LOCAL work_mem = '128MB';
SET LOCAL maintenance_work_mem = '256MB';
SET LOCAL temp_buffers = '64MB';
SET LOCAL statement_timeout = 0;
SET LOCAL client_min_messages = notice;

-- A table that is to become many times as large takes its rows sooner without its indexes. Only those
-- that nothing depends on are set aside: no constraint's, no replica identity's.
CREATE FUNCTION pg_temp.set_aside() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    filled regclass[] := ARRAY['events', 'event_json', 'event_edges', 'event_auth', 'event_auth_chains', 'event_auth_chain_links',
        'event_search', 'event_to_state_groups', 'state_groups', 'state_group_edges', 'state_groups_state', 'room_memberships',
        'current_state_events', 'local_current_membership', 'event_relations']::regclass[];
BEGIN
    CREATE TEMP TABLE aside ON COMMIT DROP AS
    SELECT 1 AS place, format('DROP INDEX %s', indexrelid::regclass) AS remove, pg_get_indexdef(indexrelid) AS restore
    FROM pg_index i WHERE indrelid = ANY (filled) AND NOT indisreplident AND NOT indisclustered
      AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid)
    UNION ALL
    SELECT 2, format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname),
           format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname, pg_get_constraintdef(oid))
    FROM pg_constraint WHERE contype = 'f' AND conrelid = ANY (filled);
END $$;

-- An even number in [0, 1), the same for the same arguments whatever the plan.
CREATE FUNCTION pg_temp.r(n bigint, salt int) RETURNS double precision IMMUTABLE PARALLEL SAFE LANGUAGE sql AS
$$ SELECT ((hashint8extended(n, salt) >> 12) & 4503599627370495)::double precision / 4503599627370496 $$;

-- What an id or a key looks like: 43 characters of unpadded base64.
CREATE FUNCTION pg_temp.b64(data bytea) RETURNS text IMMUTABLE PARALLEL SAFE LANGUAGE sql AS
$$ SELECT translate(encode(data, 'base64'), E'=\n', '') $$;

SELECT count(*) AS others, format('inflate: %s sessions of the tables'' owner are open (%s): stop Synapse first, or say -v force=1',
    count(*), string_agg(DISTINCT coalesce(nullif(a.application_name, ''), 'no name') || ' at ' || coalesce(host(a.client_addr), 'this host'), ', ')) AS refusal
FROM pg_stat_activity a JOIN pg_class c ON c.oid = 'events'::regclass
WHERE a.datname = current_database() AND a.usesysid = c.relowner AND a.pid <> pg_backend_pid()
  AND a.backend_type = 'client backend' AND :'force' = '0' \gset
SELECT :others > 0 AS busy, (SELECT count(*) FROM rooms) AS have_rooms, (SELECT count(*) FROM events) AS have_events,
       (SELECT count(*) FROM rooms) >= :rooms AND (SELECT count(*) FROM events) >= :events AS enough,
       (SELECT count(*) FROM events) < :events / 2 AS growing \gset
\if :busy
    \warn :refusal
    ROLLBACK;
    DO $$ BEGIN RAISE 'Synapse is connected'; END $$;
\endif
\if :enough
    \echo inflate: nothing to do, the database holds :have_rooms rooms and :have_events events
    ROLLBACK;
    \quit
\endif
\echo inflate: from :have_rooms rooms and :have_events events to :rooms and :events

\echo '[ 1/20] plan'
DO $$
DECLARE
    server text;
    have int;
    wanted int := least(300, 20 + current_setting('inflate.rooms')::int / 8);
    rooms bigint := greatest(1, current_setting('inflate.rooms')::bigint - (SELECT count(*) FROM rooms));
    events bigint := current_setting('inflate.events')::bigint - (SELECT count(*) FROM events);
    seed int := current_setting('inflate.seed')::int;
    -- Rooms are numbered after the stream, which never goes back: a deleted room's number is not used again.
    room_base bigint := (SELECT last_value FROM events_stream_seq);
BEGIN
    IF events < 12 * rooms THEN
        RAISE '% more rooms need at least % more events, not %', rooms, 12 * rooms, events;
    END IF;
    SELECT substring(name FROM ':(.*)$') INTO server FROM users ORDER BY creation_ts LIMIT 1;
    IF server IS NULL THEN
        RAISE 'no user in this database: seed it first';
    END IF;
    PERFORM set_config('inflate.server', server, false);
    -- The homeserver goes on signing with the key that it has: a drill compares the newest event's with its signing key.
    PERFORM set_config('inflate.key', coalesce((
        SELECT json_object_keys(json::json -> 'signatures' -> server) FROM events JOIN event_json USING (event_id)
        WHERE stream_ordering > 0 AND substr(sender, strpos(sender, ':') + 1) = server
        ORDER BY stream_ordering DESC LIMIT 1), 'ed25519:a_key'), false);

    -- Local people: the seeded ones, and as many new ones (without a password) as such a server has.
    SELECT count(*) INTO have FROM users WHERE deactivated = 0 AND admin = 0 AND is_guest = 0;
    INSERT INTO users (name, creation_ts, admin, is_guest, approved)
    SELECT format('@resident%s:%s', to_char(i, 'FM0000'), server), extract(epoch FROM now())::bigint, 0, 0, true
    FROM generate_series(have + 1, wanted) i ON CONFLICT DO NOTHING;
    INSERT INTO profiles (user_id, displayname, full_user_id)
    SELECT format('resident%s', to_char(i, 'FM0000')), format('Resident %s', i),
           format('@resident%s:%s', to_char(i, 'FM0000'), server)
    FROM generate_series(have + 1, wanted) i ON CONFLICT DO NOTHING;
    CREATE TEMP TABLE locals ON COMMIT DROP AS
    SELECT (row_number() OVER (ORDER BY name) - 1)::int AS i, name
    FROM users WHERE deactivated = 0 AND admin = 0 AND is_guest = 0;
    SELECT count(*) INTO have FROM locals;

    -- Rooms: a few hold most of the events (log-normal), 40 % were made here, a third is unused.
    CREATE TEMP TABLE plan_rooms ON COMMIT DROP AS
    WITH sized AS (
        SELECT no, n, exp(1.6 * sqrt(-2 * ln(1 - pg_temp.r(n, seed))) * cos(2 * pi() * pg_temp.r(n, seed + 1))) AS x
        FROM generate_series(1, rooms) no, LATERAL (SELECT room_base + no) b(n)
    ), counted AS (
        SELECT *, greatest(12, floor(events * x / sum(x) OVER ()))::bigint AS size, rank() OVER (ORDER BY x DESC, no) AS place
        FROM sized
    ), exact AS (
        -- The largest make up for what the smallest got too much, or what rounding left over.
        SELECT no, n, size + CASE WHEN place = 1 THEN greatest(events - sum(size) OVER (), 12 - size) ELSE 0 END AS size
        FROM counted
    )
    SELECT no::int, n, size::int,
           pg_temp.r(n, seed + 2) < 0.4 AS ours,
           CASE WHEN pg_temp.r(n, seed + 3) < 0.6 THEN 10 ELSE 12 END AS version,
           no > 1 AND pg_temp.r(n, seed + 4) < current_setting('inflate.unused')::float AS unused,
           pg_temp.r(n, seed + 5) < 0.5 AS forgotten,
           pg_temp.r(n, seed + 6) < 0.4 AS encrypted,
           pg_temp.r(n, seed + 7) < 0.3 AS public,
           least((ARRAY[1, 1, 2, 3, 5, 8])[1 + floor(6 * pg_temp.r(n, seed + 8))::int], (size - 8) / 3, have)::int AS residents,
           least(2000, 2 + floor(size ^ 0.75))::int AS strangers,
           pg_temp.r(n, seed + 9) * 0.6 AS born,
           pg_temp.r(n, seed + 10) AS lived,
           NULL::text AS room_id, NULL::text AS create_id, NULL::text AS last_id, NULL::bigint AS last_so, NULL::bigint AS bump_so
    FROM exact;
    UPDATE plan_rooms SET residents = greatest(residents, 1);

    -- Everything that happened, in order: the rooms' events mixed as on a live server. A room begins
    -- with a burst; an unused one ended a good while ago.
    CREATE TEMP TABLE plan_slots ON COMMIT DROP AS
    SELECT no, (SELECT last_value FROM events_stream_seq) + row_number() OVER (ORDER BY at, no, i) AS so
    FROM plan_rooms p, generate_series(1, size) i,
         LATERAL (SELECT CASE WHEN i <= 8 + residents THEN born
                  ELSE born + ((CASE WHEN unused THEN born + (0.75 - born) * lived ELSE 1 END) - born)
                              * pg_temp.r(n * 10000000 + i, seed + 11) END AS at) t;

    -- Members: who made the room, our people, then those of other servers.
    CREATE TEMP TABLE members ON COMMIT DROP AS
    SELECT no, row_number() OVER (PARTITION BY no ORDER BY founder DESC, here DESC, k)::int AS k, user_id, here
    FROM (
        SELECT p.no, k, l.name AS user_id, true AS here, ours AND k = 0 AS founder
        FROM plan_rooms p CROSS JOIN generate_series(0, residents - 1) k
        JOIN locals l ON l.i = (floor(pg_temp.r(p.n, seed + 12) * have)::int
                                + k * (1 + floor(pg_temp.r(p.n, seed + 13) * greatest(have / 8, 1))::int)) % have
        UNION ALL
        SELECT p.no, k, format('@user%s:server%s.example', u, u % 400), false, NOT ours AND k = 0
        FROM plan_rooms p, generate_series(0, strangers - 1) k,
             LATERAL (SELECT (floor(pg_temp.r(p.n, seed + 14) * 8000)::int
                              + k * (1 + floor(pg_temp.r(p.n, seed + 15) * 3)::int)) % 8000) v(u)
    ) everybody;

    CREATE TEMP TABLE sentences ON COMMIT DROP AS
    WITH syllables AS (SELECT string_to_array('ba de fi go lu ma ne pi ro su ta ve wi zo ka le mo nu ra si', ' ') AS s),
    words AS (
        SELECT rank, string_agg(s[1 + floor(20 * pg_temp.r(rank * 8 + j, seed + 16))::int], '' ORDER BY j) AS word
        FROM syllables, generate_series(0, 5999) rank, generate_series(0, 3) j
        WHERE j <= floor(4 * pg_temp.r(rank, seed + 17)) GROUP BY rank
    ), texts AS (
        -- 1/(rank+3), as words are spread in a language
        SELECT i, string_agg(word, ' ' ORDER BY j) AS body
        FROM generate_series(0, 8191) i
             CROSS JOIN LATERAL generate_series(1, least(120, 1 + floor(exp(2.4 + 0.8 * sqrt(-2 * ln(1 - pg_temp.r(i, seed + 18)))
                                                             * cos(2 * pi() * pg_temp.r(i, seed + 19)))))::int) j
             JOIN words ON rank = floor(3 * (6003.0 / 3) ^ pg_temp.r(i * 128 + j, seed + 20) - 3)::int
        GROUP BY i
    )
    SELECT i, coalesce(body, 'yes') AS body, to_tsvector('english', coalesce(body, 'yes')) AS vector,
           left(pg_temp.b64(sha512(int8send(i)) || sha512(int8send(i + 8192)) || sha512(int8send(i + 16384))
                            || sha512(int8send(i + 24576)) || sha512(int8send(i + 32768)) || sha512(int8send(i + 40960))),
                120 + floor(360 * pg_temp.r(i, seed + 21))::int) AS ciphertext
    FROM generate_series(0, 8191) numbers(i) LEFT JOIN texts USING (i);
END $$;
CREATE INDEX ON plan_slots (no, so);
CREATE INDEX ON members (no);
CREATE UNIQUE INDEX ON plan_rooms (no);
ANALYZE plan_rooms; ANALYZE plan_slots; ANALYZE members; ANALYZE sentences;

CREATE TEMP TABLE ev (
    so bigint, no int, depth int, ts bigint, event_id text, prev_id text, auth text[], type text, state_key text, sender text,
    content text, relates_to text, sg bigint, prev_sg bigint, chain bigint, seq int
) ON COMMIT DROP;
CREATE TEMP TABLE links (chain bigint, seq int, to_chain bigint, to_seq int) ON COMMIT DROP;
CREATE TEMP TABLE snapshots (sg bigint, no int, type text, state_key text, event_id text) ON COMMIT DROP;

\echo '[ 2/20] events: hashes, state, authorisation'
DO $$
DECLARE
    seed int := current_setting('inflate.seed')::int;
    server text := current_setting('inflate.server');
    every int := current_setting('inflate.snapshot')::int;
    total bigint := (SELECT count(*) FROM plan_slots);
    so_base bigint := (SELECT min(so) - 1 FROM plan_slots);
    sg_base bigint := (SELECT last_value + 1 FROM state_group_id_seq);
    chain_next bigint := (SELECT last_value + 1 FROM event_auth_chain_id);
    span double precision := current_setting('inflate.days')::double precision * 86400000;
    begun double precision := extract(epoch FROM now()) * 1000 - span;
    done bigint := 0;
    started timestamptz := clock_timestamp();
    room plan_rooms;
    slot record;
    -- of the room
    people text[]; everyone int; joined int; near int; reach int;
    st_type text[]; st_key text[]; st_event text[]; st_chain bigint[]; st_seq int[];
    depth int; prev_id text; sg bigint; changes int; message_id text; message_sender int; topic_saw int;
    -- of the event
    h bigint; u double precision; ts bigint; kind text; key text; who int; at int; id text; sender text;
    content text; kept text; auth text[]; relates text; before bigint; quoted text;
BEGIN
    FOR room IN SELECT * FROM plan_rooms ORDER BY no LOOP
        SELECT array_agg(user_id ORDER BY k), count(*) INTO people, everyone FROM members WHERE no = room.no;
        st_type := ARRAY['m.room.create', 'm.room.power_levels', 'm.room.join_rules', 'm.room.history_visibility',
                         'm.room.name', 'm.room.encryption', 'm.room.topic'] || array_fill('m.room.member'::text, ARRAY[everyone]);
        st_key := ARRAY['', '', '', '', '', '', ''] || people;
        reach := 7 + everyone;
        st_event := array_fill(NULL::text, ARRAY[reach]);
        st_chain := array_fill(NULL::bigint, ARRAY[reach]);
        st_seq := array_fill(0, ARRAY[reach]);
        joined := 0; depth := 0; prev_id := NULL; changes := 0; message_id := NULL; topic_saw := 1;
        near := room.residents + CASE WHEN room.ours THEN 0 ELSE 1 END;
        IF room.version = 10 THEN
            room.room_id := '!' || translate(left(encode(sha256(int8send(room.n)), 'base64'), 18), '+/', 'xy') || ':'
                || CASE WHEN room.ours THEN server ELSE substring(people[1] FROM ':(.*)$') END;
        END IF;

        FOR slot IN SELECT so FROM plan_slots WHERE no = room.no ORDER BY so LOOP
            depth := depth + 1;
            h := hashint8extended(slot.so, seed) & 9223372036854775807;
            ts := begun + span * ((slot.so - so_base)::double precision / total);
            who := NULL; at := NULL; relates := NULL; content := NULL; kept := '{}';

            -- What happens
            IF depth <= 8 + room.residents THEN
                IF depth = 1 THEN at := 1;
                ELSIF depth = 2 THEN at := 8;
                ELSIF depth = 3 THEN at := 2;
                ELSIF depth = 4 THEN at := 3;
                ELSIF depth = 5 THEN at := 4;
                ELSIF depth = 6 THEN at := 5;
                ELSIF joined < near THEN at := 8 + joined;
                ELSIF room.encrypted AND st_event[6] IS NULL THEN at := 6;
                ELSE at := 7;
                END IF;
            ELSIF room.unused AND depth > room.size - room.residents THEN
                at := 7 + depth - (room.size - room.residents) + CASE WHEN room.ours THEN 0 ELSE 1 END;
            ELSE
                u := (h & 1048575)::double precision / 1048576;
                IF u < 0.16 THEN
                    at := CASE WHEN joined < everyone THEN 8 + joined ELSE 8 + (h >> 24) % joined END;
                ELSIF u < 0.20 THEN
                    at := 7;
                ELSIF u < 0.21 AND message_id IS NOT NULL THEN
                    kind := 'm.room.redaction'; who := message_sender; relates := message_id; message_id := NULL;
                    IF room.version = 12 THEN kept := '{"redacts":"' || relates || '"}'; END IF;
                ELSIF u < 0.31 AND message_id IS NOT NULL THEN
                    kind := 'm.reaction'; relates := message_id;
                ELSE
                    kind := CASE WHEN room.encrypted THEN 'm.room.encrypted' ELSE 'm.room.message' END;
                END IF;
            END IF;

            -- Who does it, by which right
            IF at IS NULL THEN
                key := NULL;
                who := coalesce(who, 1 + (h >> 24) % least(joined, 20));
                auth := ARRAY[st_event[2], st_event[7 + who]];
            ELSE
                kind := st_type[at];
                key := st_key[at];
                IF at > 7 THEN
                    who := at - 7;
                    IF st_event[at] IS NULL THEN
                        joined := joined + 1;
                        auth := CASE WHEN joined > 1 THEN ARRAY[st_event[2], st_event[3]] END;
                    ELSE
                        auth := ARRAY[st_event[2], st_event[3], st_event[at]];
                    END IF;
                    IF depth > 8 + room.residents AND room.unused AND depth > room.size - room.residents THEN
                        kept := '{"membership":"leave"}';
                        content := kept;
                        auth := ARRAY[st_event[2], st_event[at]];
                    ELSE
                        kept := '{"membership":"join"}';
                        content := '{"avatar_url":"mxc://' || split_part(key, ':', 2) || '/'
                            || left(translate(encode(sha256(int8send(slot.so)), 'base64'), '+/', 'xy'), 24)
                            || '","displayname":"' || initcap(substr(split_part(key, ':', 1), 2)) || '","membership":"join"}';
                    END IF;
                ELSE
                    who := 1;
                    auth := CASE at WHEN 1 THEN NULL WHEN 2 THEN ARRAY[st_event[8]] ELSE ARRAY[st_event[2], st_event[8]] END;
                    IF at = 1 THEN
                        IF room.version = 10 THEN
                            kept := '{"creator":"' || people[1] || '"}';
                            content := '{"creator":"' || people[1] || '","room_version":"10"}';
                        ELSE
                            kept := '{"room_version":"12"}';
                            content := kept;
                        END IF;
                    ELSIF at = 2 THEN
                        content := '{"ban":50,"events":{"m.room.avatar":50,"m.room.canonical_alias":50,"m.room.encryption":100,'
                            '"m.room.history_visibility":100,"m.room.name":50,"m.room.power_levels":100,"m.room.tombstone":'
                            || CASE WHEN room.version = 12 THEN '150' ELSE '100' END
                            || '},"events_default":0,"invite":0,"kick":50,"redact":50,"state_default":50,"users":{'
                            || CASE WHEN room.version = 12 THEN '' ELSE '"' || people[1] || '":100' END || '},"users_default":0}';
                        kept := CASE WHEN room.version = 12 THEN content ELSE replace(content, '"invite":0,', '') END;
                    ELSIF at = 3 THEN
                        kept := '{"join_rule":"public"}'; content := kept;
                    ELSIF at = 4 THEN
                        kept := '{"history_visibility":"shared"}'; content := kept;
                    ELSIF at = 5 THEN
                        content := '{"name":"Room ' || room.n || '"}';
                    ELSIF at = 6 THEN
                        content := '{"algorithm":"m.megolm.v1.aes-sha2"}';
                    ELSE
                        content := '{"topic":"Subject ' || h % 100000 || ' of room ' || room.n || '"}';
                    END IF;
                END IF;
            END IF;
            IF room.version = 10 AND at IS DISTINCT FROM 1 THEN
                auth := array_append(auth, st_event[1]);
            END IF;
            sender := people[who];

            -- Its id: the hash of what remains of it when it is redacted, as canonical JSON.
            quoted := CASE WHEN auth IS NULL THEN '[]' ELSE '["' || array_to_string(auth, '","') || '"]' END;
            id := '$' || translate(encode(sha256(convert_to(
                '{"auth_events":' || quoted || ',"content":' || kept || ',"depth":' || depth || ',"hashes":{"sha256":"'
                || translate(encode(sha256(int8send(slot.so)), 'base64'), '=', '') || '"},"origin_server_ts":' || ts
                || ',"prev_events":[' || CASE WHEN prev_id IS NULL THEN '' ELSE '"' || prev_id || '"' END || ']'
                || CASE WHEN room.room_id IS NULL THEN '' ELSE ',"room_id":"' || room.room_id || '"' END
                || ',"sender":"' || sender || '"'
                || CASE WHEN key IS NULL THEN '' ELSE ',"state_key":"' || key || '"' END
                || ',"type":"' || kind || '"}', 'UTF8')), 'base64'), '+/=', '-_');

            before := NULL;
            IF at IS NOT NULL THEN
                IF at = 1 THEN
                    sg := sg_base + 2 * (slot.so - so_base) - 1;
                    room.create_id := id;
                    room.bump_so := slot.so;
                    room.room_id := coalesce(room.room_id, '!' || substr(id, 2));
                END IF;
                before := sg;
                sg := sg_base + 2 * (slot.so - so_base);
                st_event[at] := id;
                st_seq[at] := st_seq[at] + 1;
                IF st_chain[at] IS NULL THEN
                    st_chain[at] := chain_next;
                    chain_next := chain_next + 1;
                    IF at > 1 THEN
                        INSERT INTO links VALUES (st_chain[at], 1,
                            CASE WHEN at = 8 THEN st_chain[1] WHEN at = 2 THEN st_chain[8] WHEN at < 8 THEN st_chain[2] ELSE st_chain[3] END, 1);
                    END IF;
                END IF;
                IF at IN (5, 6, 7) AND st_seq[8] > topic_saw THEN
                    INSERT INTO links VALUES (st_chain[at], st_seq[at], st_chain[8], st_seq[8]);
                    IF at = 7 THEN topic_saw := st_seq[8]; END IF;
                END IF;
                changes := changes + 1;
                IF changes % every = 0 THEN
                    before := NULL;
                    INSERT INTO snapshots SELECT sg, room.no, t, k, e FROM unnest(st_type, st_key, st_event) x(t, k, e) WHERE e IS NOT NULL;
                END IF;
                INSERT INTO ev VALUES (slot.so, room.no, depth, ts, id, prev_id, auth, kind, key, sender, content, NULL, sg, before, st_chain[at], st_seq[at]);
            ELSE
                IF kind = 'm.room.message' OR kind = 'm.room.encrypted' THEN
                    room.bump_so := slot.so;
                    message_id := id;
                    message_sender := who;
                END IF;
                INSERT INTO ev VALUES (slot.so, room.no, depth, ts, id, prev_id, auth, kind, NULL, sender, NULL, relates, sg);
            END IF;
            prev_id := id;
            done := done + 1;
            IF done % 20000 = 0 THEN
                RAISE NOTICE '[%/%] events (% a second)', lpad(done::text, length(total::text)), total,
                    (done / extract(epoch FROM clock_timestamp() - started))::int;
            END IF;
        END LOOP;
        UPDATE plan_rooms SET room_id = room.room_id, create_id = room.create_id, last_id = prev_id, last_so = slot.so,
            bump_so = room.bump_so
        WHERE plan_rooms.no = room.no;
    END LOOP;
    PERFORM set_config('inflate.chain', (chain_next - 1)::text, false);
END $$;
-- In the order in which they happened, as a live server would have written them. What follows reads it
-- in that order, and joins by hashes of the small tables.
ALTER TABLE ev RENAME TO ev_by_room;
CREATE TEMP TABLE ev ON COMMIT DROP AS SELECT * FROM ev_by_room ORDER BY so;
DROP TABLE ev_by_room;
CREATE UNIQUE INDEX ON ev (so);
CREATE INDEX ON ev (no, so) WHERE state_key IS NOT NULL;
ANALYZE ev;

\if :growing
    SELECT pg_temp.set_aside() \g /dev/null
    SELECT remove FROM aside ORDER BY place DESC \gexec
\endif

\echo '[ 3/20] rooms'
INSERT INTO rooms (room_id, is_public, creator, room_version, has_auth_chain_index)
SELECT room_id, public, sender, version::text, true FROM plan_rooms p JOIN ev ON event_id = create_id ORDER BY n;
INSERT INTO room_depth (room_id, min_depth) SELECT room_id, 1 FROM plan_rooms ORDER BY no;
INSERT INTO room_aliases (room_alias, room_id, creator)
SELECT format('#room-%s:%s', n, current_setting('inflate.server')), room_id, sender
FROM plan_rooms p JOIN ev ON event_id = create_id WHERE ours AND n % 4 = 0;
INSERT INTO room_alias_servers (room_alias, server)
SELECT format('#room-%s:%s', n, current_setting('inflate.server')), current_setting('inflate.server')
FROM plan_rooms WHERE ours AND n % 4 = 0;

\echo '[ 4/20] events'
INSERT INTO events (topological_ordering, event_id, type, room_id, processed, outlier, depth, origin_server_ts, received_ts,
                    sender, contains_url, instance_name, stream_ordering, state_key)
SELECT depth, event_id, type, room_id, true, false, depth, ts, ts + 20, sender, false, 'master', so, state_key
FROM ev JOIN plan_rooms USING (no);

\echo '[ 5/20] event_json'
INSERT INTO event_json (event_id, room_id, internal_metadata, json, format_version)
SELECT event_id, room_id, '{}',
       -- concat, not ||: each of those would copy what there is so far.
       concat('{"signatures":{"', split_part(sender, ':', 2), '":{"',
              CASE WHEN substr(sender, strpos(sender, ':') + 1) = current_setting('inflate.server') THEN current_setting('inflate.key') ELSE 'ed25519:a_key' END,
              '":"', pg_temp.b64(sha512(int8send(so))), '"}}',
           ',"unsigned":{"age_ts":', ts, '}',
           CASE WHEN version = 10 OR depth > 1 THEN concat(',"room_id":"', room_id, '"') END,
           ',"auth_events":', coalesce(array_to_json(auth), '[]'),
           ',"prev_events":[', '"' || prev_id || '"', ']',
           ',"content":', CASE
               WHEN state_key IS NOT NULL THEN content
               WHEN type = 'm.room.message' THEN concat('{"body":"', body, '","msgtype":"m.text"}')
               WHEN type = 'm.room.encrypted' THEN concat(
                   '{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"', pg_temp.b64(sha512(int8send(-so))), ciphertext,
                   '","device_id":"PHONE","sender_key":"', pg_temp.b64(sha256(int8send(no))),
                   '","session_id":"', pg_temp.b64(sha256(int8send(-no))), '"}')
               WHEN type = 'm.reaction' THEN concat(
                   '{"m.relates_to":{"event_id":"', relates_to, '","key":"\ud83d\udc4d","rel_type":"m.annotation"}}')
               WHEN version = 12 THEN concat('{"redacts":"', relates_to, '"}')
               ELSE '{}' END,
           CASE WHEN type = 'm.room.redaction' AND version = 10 THEN concat(',"redacts":"', relates_to, '"') END,
           ',"depth":', depth,
           ',"hashes":{"sha256":"', pg_temp.b64(sha256(int8send(so))), '"}',
           ',"origin_server_ts":', ts, ',"sender":"', sender, '"',
           ',"state_key":"' || state_key || '"',
           ',"type":"', type, '"}'),
       CASE version WHEN 12 THEN 4 ELSE 3 END
FROM ev JOIN plan_rooms USING (no) JOIN sentences ON i = so % 8192;

\echo '[ 6/20] event_edges'
INSERT INTO event_edges (event_id, prev_event_id) SELECT event_id, prev_id FROM ev WHERE prev_id IS NOT NULL;

\echo '[ 7/20] event_auth'
INSERT INTO event_auth (event_id, auth_id, room_id)
SELECT event_id, a, room_id
FROM ev JOIN plan_rooms USING (no),
     -- Version 12 does not name the create event: the room's id does.
     LATERAL unnest(CASE WHEN version = 12 AND depth > 1 THEN array_append(auth, create_id) ELSE auth END) a;

\echo '[ 8/20] event_auth_chains'
INSERT INTO event_auth_chains (event_id, chain_id, sequence_number) SELECT event_id, chain, seq FROM ev WHERE chain IS NOT NULL;
INSERT INTO event_auth_chain_links SELECT chain, seq, to_chain, to_seq FROM links;

\echo '[ 9/20] state_events'
INSERT INTO state_events (event_id, room_id, type, state_key)
SELECT event_id, room_id, type, state_key FROM ev JOIN plan_rooms USING (no) WHERE state_key IS NOT NULL;

\echo '[10/20] state_groups'
INSERT INTO state_groups (id, room_id, event_id)
SELECT id, room_id, event_id FROM ev JOIN plan_rooms USING (no),
     LATERAL (SELECT sg UNION ALL SELECT sg - 1 WHERE depth = 1) g(id)
WHERE state_key IS NOT NULL;
INSERT INTO state_group_edges (state_group, prev_state_group) SELECT sg, prev_sg FROM ev WHERE prev_sg IS NOT NULL;

\echo '[11/20] event_to_state_groups'
INSERT INTO event_to_state_groups (event_id, state_group) SELECT event_id, sg FROM ev;

\echo '[12/20] state_groups_state'
INSERT INTO state_groups_state (state_group, room_id, type, state_key, event_id)
SELECT sg, room_id, type, state_key, event_id FROM (
    SELECT sg, no, type, state_key, event_id FROM snapshots
    UNION ALL SELECT sg, no, type, state_key, event_id FROM ev WHERE prev_sg IS NOT NULL
) s JOIN plan_rooms USING (no) ORDER BY sg;

\echo '[13/20] room_memberships'
CREATE TEMP TABLE standing ON COMMIT DROP AS
SELECT DISTINCT ON (no, state_key) no, state_key AS user_id, event_id, so, sender, content::jsonb ->> 'membership' AS membership, here
FROM ev JOIN members m USING (no) WHERE type = 'm.room.member' AND m.user_id = ev.state_key ORDER BY no, state_key, so DESC;
INSERT INTO room_memberships (event_id, user_id, sender, room_id, membership, forgotten, display_name, avatar_url, event_stream_ordering, participant)
SELECT event_id, state_key, sender, room_id, c ->> 'membership', (unused AND forgotten AND here)::int, c ->> 'displayname', c ->> 'avatar_url', so, false
FROM ev JOIN plan_rooms USING (no) JOIN members m ON m.no = ev.no AND m.user_id = ev.state_key, LATERAL (SELECT content::jsonb OFFSET 0) x(c)
WHERE type = 'm.room.member';
INSERT INTO local_current_membership (room_id, user_id, event_id, membership, event_stream_ordering)
SELECT room_id, user_id, event_id, membership, so FROM standing JOIN plan_rooms USING (no) WHERE here;

\echo '[14/20] current_state_events'
-- Synapse deletes the state of a room that its last user has left.
INSERT INTO current_state_events (event_id, room_id, type, state_key, membership, event_stream_ordering)
SELECT event_id, room_id, type, state_key, CASE WHEN type = 'm.room.member' THEN content::jsonb ->> 'membership' END, so
FROM (SELECT DISTINCT ON (no, type, state_key) * FROM ev WHERE state_key IS NOT NULL ORDER BY no, type, state_key, so DESC) s
JOIN plan_rooms USING (no) WHERE NOT unused;
INSERT INTO event_forward_extremities (event_id, room_id) SELECT last_id, room_id FROM plan_rooms;

\echo '[15/20] event_search'
INSERT INTO event_search (event_id, room_id, key, vector, origin_server_ts, stream_ordering)
SELECT event_id, room_id, CASE type WHEN 'm.room.message' THEN 'content.body' WHEN 'm.room.name' THEN 'content.name' ELSE 'content.topic' END,
       CASE type WHEN 'm.room.message' THEN vector ELSE to_tsvector('english', coalesce(content::jsonb ->> 'topic', content::jsonb ->> 'name')) END, ts, so
FROM ev JOIN plan_rooms USING (no) JOIN sentences ON i = so % 8192
WHERE type IN ('m.room.message', 'm.room.name', 'm.room.topic');

\echo '[16/20] event_relations, redactions'
INSERT INTO event_relations (event_id, relates_to_id, relation_type, aggregation_key)
SELECT event_id, relates_to, 'm.annotation', U&'\+01F44D' FROM ev WHERE type = 'm.reaction';
INSERT INTO redactions (event_id, redacts, have_censored, received_ts)
SELECT event_id, relates_to, false, ts + 20 FROM ev WHERE type = 'm.room.redaction';

\echo '[17/20] event_push_actions, receipts'
-- Synapse keeps the unread of the last day only, and what mentions someone.
INSERT INTO event_push_actions (room_id, event_id, user_id, actions, topological_ordering, stream_ordering, notif, highlight, unread, thread_id)
SELECT room_id, event_id, user_id, '', depth, so, 1, 0, 1, 'main'
FROM ev JOIN plan_rooms USING (no) JOIN members m USING (no)
WHERE here AND k <= 3 AND user_id <> sender AND NOT unused AND type IN ('m.room.message', 'm.room.encrypted')
  AND ts > extract(epoch FROM now()) * 1000 - 72000000;
WITH read AS (
    SELECT no, room_id, user_id, last_id, last_so, format('{"ts":%s}', (extract(epoch FROM now()) * 1000)::bigint) AS data
    FROM members m JOIN plan_rooms USING (no) JOIN standing s USING (no, user_id)
    WHERE NOT unused AND k <= 15 AND membership = 'join'
), graph AS (
    INSERT INTO receipts_graph (room_id, receipt_type, user_id, event_ids, data)
    SELECT room_id, 'm.read', user_id, format('["%s"]', last_id), data FROM read
)
INSERT INTO receipts_linearized (stream_id, room_id, receipt_type, user_id, event_id, data, instance_name, event_stream_ordering)
SELECT (SELECT last_value FROM receipts_sequence) + row_number() OVER (ORDER BY last_so, user_id), room_id, 'm.read', user_id, last_id, data, 'master', last_so
FROM read;

\echo '[18/20] room_stats, sliding_sync'
INSERT INTO room_stats_state (room_id, name, join_rules, history_visibility, encryption, is_federatable, topic)
SELECT room_id, s.name, CASE WHEN NOT unused THEN 'public' END, CASE WHEN NOT unused THEN 'shared' END,
       s.encryption, true, s.topic
FROM plan_rooms LEFT JOIN LATERAL (
    SELECT max(c::jsonb ->> 'name') AS name, max(c::jsonb ->> 'algorithm') AS encryption, max(c::jsonb ->> 'topic') AS topic
    FROM (SELECT DISTINCT ON (type) content AS c FROM ev WHERE ev.no = plan_rooms.no AND NOT unused
          AND state_key = '' AND type IN ('m.room.name', 'm.room.encryption', 'm.room.topic') ORDER BY type, so DESC) x
) s ON true;
INSERT INTO room_stats_current (room_id, current_state_events, joined_members, invited_members, left_members, banned_members,
                                local_users_in_room, completed_delta_stream_id, knocked_members)
SELECT room_id, 7 - (NOT encrypted)::int + members, members, 0, 0, 0, residents, last_so, 0
FROM plan_rooms JOIN (SELECT no, count(*) AS members FROM standing GROUP BY no) m USING (no) WHERE NOT unused
UNION ALL SELECT room_id, 0, 0, 0, 0, 0, 0, last_so, 0 FROM plan_rooms WHERE unused;
INSERT INTO user_stats_current (user_id, joined_rooms, completed_delta_stream_id)
SELECT user_id, count(*), max(so) FROM standing WHERE here AND membership = 'join' GROUP BY user_id
ON CONFLICT (user_id) DO UPDATE SET joined_rooms = user_stats_current.joined_rooms + excluded.joined_rooms;
INSERT INTO sliding_sync_joined_rooms (room_id, event_stream_ordering, bump_stamp, room_name, is_encrypted)
SELECT room_id, last_so, bump_so, 'Room ' || n, encrypted FROM plan_rooms WHERE NOT unused;
INSERT INTO sliding_sync_membership_snapshots (room_id, user_id, sender, membership_event_id, membership, forgotten,
                                               event_stream_ordering, event_instance_name, has_known_state, room_name, is_encrypted)
SELECT room_id, user_id, sender, event_id, membership, (unused AND forgotten)::int, so, 'master', true, 'Room ' || n, encrypted
FROM standing JOIN plan_rooms USING (no) WHERE here;

\echo '[19/20] sequences, positions'
DO $$
DECLARE top bigint := (SELECT max(so) FROM ev); read bigint := (SELECT max(stream_id) FROM receipts_linearized);
BEGIN
    PERFORM setval('events_stream_seq', top), setval('receipts_sequence', greatest(read, (SELECT last_value FROM receipts_sequence))),
            setval('state_group_id_seq', (SELECT max(id) FROM state_groups)),
            setval('event_auth_chain_id', current_setting('inflate.chain')::bigint);
    UPDATE stream_positions SET stream_id = top WHERE stream_name = 'events' AND stream_id < top;
    UPDATE stream_positions SET stream_id = read WHERE stream_name = 'receipts' AND stream_id < read;
    -- Synapse's own readers have, in this history, kept up: they are not to start on all of it.
    UPDATE federation_stream_position SET stream_id = top WHERE type = 'events' AND stream_id >= 0;
    UPDATE appservice_stream_position SET stream_ordering = top;
    UPDATE stats_incremental_position SET stream_id = top;
    UPDATE user_directory_stream_pos SET stream_id = top;
    UPDATE room_forgetter_stream_pos SET stream_id = top;
END $$;
\echo '[20/20] indexes, statistics'
\if :growing
    SELECT restore FROM aside ORDER BY place, restore \gexec
\endif
COMMIT;

-- Not the place to hear which of the catalogues only a superuser may analyze.
SET client_min_messages = error;
ANALYZE;
SELECT (SELECT count(*) FROM rooms) AS rooms, (SELECT count(*) FROM events) AS events,
       (SELECT count(*) FROM state_groups_state) AS "state_groups_state",
       pg_size_pretty(pg_database_size(current_database())) AS size;
