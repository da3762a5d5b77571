-- What `erase.rs` deletes of a user in one statement: memberships and marks, with their counters. Runs on the machine of the lane.
CREATE OR REPLACE FUNCTION "{lane}".erase_user(
  clock timestamptz, erased_user text, half_settle bigint, OUT memberships bigint, OUT changed bigint[], OUT last_removal bigint)
LANGUAGE plpgsql SET plan_cache_mode = auto SET enable_seqscan = off SET jit = off SET timezone = 'UTC' AS $function$
DECLARE
  instant timestamptz;
  locked bigint[];
  gone_segments bigint[] := '{}'; gone_ends timestamptz[] := '{}';
  counted_segments bigint[]; counted_ends timestamptz[]; counted bigint[];
  one record;
BEGIN
  PERFORM pg_advisory_xact_lock_shared({writers}, hashtext('{lane}'));
  instant := coalesce(clock, clock_timestamp());
  SELECT array_agg(l.segment_id) INTO locked
    FROM (SELECT m.segment_id FROM "{lane}".membership m WHERE m.user_id = erased_user COLLATE "C" ORDER BY m.segment_id FOR UPDATE) l;
  memberships := 0;
  changed := '{}';
  IF locked IS NULL THEN
    RETURN;
  END IF;
  FOR one IN
    DELETE FROM "{lane}".membership m WHERE m.segment_id = ANY (locked) AND m.user_id = erased_user COLLATE "C"
    RETURNING m.segment_id, m.expires_at, m.removed_at
  LOOP
    gone_segments := gone_segments || one.segment_id;
    gone_ends := gone_ends || one.expires_at;
    last_removal := greatest(last_removal, (extract(epoch FROM one.removed_at) * 1000000)::bigint);
  END LOOP;
  memberships := cardinality(gone_segments);
  SELECT coalesce(array_agg(g.segment_id ORDER BY g.segment_id), '{}') INTO changed
    FROM unnest(gone_segments, gone_ends) AS g(segment_id, expires_at) WHERE g.expires_at > instant;
  SELECT array_agg(g.segment_id), array_agg(g.expires_at), array_agg(-1) INTO counted_segments, counted_ends, counted
    FROM unnest(gone_segments, gone_ends) AS g(segment_id, expires_at) WHERE g.expires_at > instant - half_settle * interval '1 microsecond';
{counters}
END $function$
