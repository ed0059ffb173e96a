-- Leaves free space in the largest tables and their indexes, as deletions do, for VACUUM FULL to find:
--
--     psql -d synapse -v percent=200 -f bloat.sql
--
-- percent is what is left behind, in per cent of the rows that are there. No row is changed and nobody
-- ever sees one more: copies under other ids are written in transactions that are rolled back, which on
-- disk is the same as written and deleted. Then one real row in two hundred is written anew, with
-- the same content, so that live rows stand behind the dead ones: otherwise a plain VACUUM would give
-- the end of the file back. Autovacuum stays on; it turns dead rows into free space, which stays.
-- As for any UPDATE, Synapse may keep running.

\set ON_ERROR_STOP on
\set QUIET on
\pset footer off
\if :{?percent} \else \set percent 200 \endif
SET synchronous_commit = off;
SET statement_timeout = 0;

SELECT pg_total_relation_size('event_json') AS ej, pg_total_relation_size('state_groups_state') AS sgs \gset

\echo '[1/4] event_json: copies that are rolled back'
BEGIN;
INSERT INTO event_json (event_id, room_id, internal_metadata, json, format_version)
SELECT event_id || '~' || pass, room_id, internal_metadata, json, format_version
FROM generate_series(1, (:percent + 99) / 100) pass, event_json
WHERE (hashtext(event_id) & 2147483647) % 100 < :percent - 100 * (pass - 1);
ROLLBACK;
\echo '[2/4] event_json: real rows behind them'
UPDATE event_json SET format_version = format_version WHERE (hashtext(event_id) & 2147483647) % 200 = 0;

\echo '[3/4] state_groups_state: copies that are rolled back'
BEGIN;
INSERT INTO state_groups_state (state_group, room_id, type, state_key, event_id)
SELECT state_group + 1000000000000 * pass, room_id, type, state_key, event_id
FROM generate_series(1, (:percent + 99) / 100) pass, state_groups_state
WHERE (hashtext(event_id || state_key) & 2147483647) % 100 < :percent - 100 * (pass - 1);
ROLLBACK;
\echo '[4/4] state_groups_state: real rows behind them'
UPDATE state_groups_state SET room_id = room_id WHERE (hashtext(event_id) & 2147483647) % 200 = 0;

SELECT name AS "table", pg_size_pretty(before) AS before, pg_size_pretty(pg_total_relation_size(name)) AS after
FROM (VALUES ('event_json'::regclass, :ej::bigint), ('state_groups_state', :sgs)) v(name, before);
