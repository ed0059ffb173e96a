-- Whether a fixture is what the tests take for granted, whatever else a Synapse did while it was filled. Fails with what is wrong.
DO $$
DECLARE
	wrong text[];
	unlogged regclass;
	is_there boolean;
BEGIN
	SELECT coalesce(array_agg(what), '{}') INTO wrong FROM (VALUES
		('there are users', (SELECT count(*) FROM users) >= 10),
		('one of them is deactivated', EXISTS (SELECT FROM users WHERE deactivated = 1)),
		('there are rooms', (SELECT count(*) FROM rooms) >= 20),
		('nobody is in some of them', (SELECT count(*) FROM rooms r
			WHERE NOT EXISTS (SELECT FROM room_memberships m JOIN current_state_events c USING (event_id)
				WHERE m.room_id = r.room_id AND c.membership = 'join')) >= 5),
		('somebody is invited', EXISTS (SELECT FROM local_current_membership WHERE membership = 'invite')),
		('somebody knocks', EXISTS (SELECT FROM local_current_membership WHERE membership = 'knock')),
		('there are events', (SELECT count(*) FROM events) >= 500),
		('each has its JSON', (SELECT count(*) FROM events) = (SELECT count(*) FROM event_json)),
		('all are signed with one key', (SELECT count(DISTINCT key) FROM event_json,
			jsonb_object_keys(json::jsonb -> 'signatures' -> 'example.org') key) = 1),
		('redactions wait', EXISTS (SELECT FROM redactions WHERE NOT have_censored)),
		('there are receipts', EXISTS (SELECT FROM receipts_linearized)),
		('there are media', (SELECT count(*) FROM local_media_repository) >= 10),
		('there are one-time keys', EXISTS (SELECT FROM e2e_one_time_keys_json)),
		('there are messages to devices', EXISTS (SELECT FROM device_inbox)),
		('no background update waits', NOT EXISTS (SELECT FROM background_updates)),
		('sequences are ahead', (SELECT last_value FROM events_stream_seq) >= (SELECT max(stream_ordering) FROM events)
			AND (SELECT last_value FROM state_group_id_seq) >= (SELECT max(id) FROM state_groups))
	) AS looked(what, is_so) WHERE NOT coalesce(is_so, false);
	-- Which locks Synapse holds when it ends is a matter of chance.
	FOR unlogged IN SELECT oid FROM pg_class WHERE relkind = 'r' AND relpersistence = 'u' LOOP
		EXECUTE format('SELECT EXISTS (SELECT FROM %s)', unlogged) INTO is_there;
		IF is_there THEN
			wrong := wrong || format('%s is empty', unlogged);
		END IF;
	END LOOP;
	IF wrong <> '{}' THEN
		RAISE EXCEPTION 'it is not true that: %', array_to_string(wrong, '; ');
	END IF;
END
$$;
