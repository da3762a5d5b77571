-- What `erase.rs` deletes of a user in one statement: memberships and marks, with their counters. Runs on the machine of the lane.
CREATE OR REPLACE FUNCTION "{lane}".erase(
  clock timestamptz, erased_user text, half_settle bigint, OUT memberships bigint, OUT changed bigint[])
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
    RETURNING m.segment_id, m.expires_at
  LOOP
    gone_segments := gone_segments || one.segment_id;
    gone_ends := gone_ends || one.expires_at;
  END LOOP;
  memberships := cardinality(gone_segments);
  SELECT coalesce(array_agg(g.segment_id ORDER BY g.segment_id), '{}') INTO changed
    FROM unnest(gone_segments, gone_ends) AS g(segment_id, expires_at) WHERE g.expires_at > instant;
  SELECT array_agg(g.segment_id), array_agg(g.expires_at), array_agg(-1) INTO counted_segments, counted_ends, counted
    FROM unnest(gone_segments, gone_ends) AS g(segment_id, expires_at) WHERE g.expires_at > instant - half_settle * interval '1 microsecond';
  IF counted IS NULL THEN
    RETURN;
  END IF;
  INSERT INTO "{lane}".segment_expiry AS b (segment_id, expires_at, members)
  SELECT d.segment_id, d.expires_at, d.members
    FROM unnest(counted_segments, counted_ends, counted) AS d(segment_id, expires_at, members), "{base}".removal_epoch
   ORDER BY d.segment_id, d.expires_at
  ON CONFLICT (segment_id, expires_at) DO UPDATE SET members = b.members + EXCLUDED.members;
  -- A total holds no bucket that ends by its `since`. Where one has ended, the totals are locked before that is asked.
  IF EXISTS (SELECT FROM unnest(counted_ends) AS c(ends) WHERE c.ends <= instant) THEN
    FOR one IN
      SELECT t.segment_id, t.since FROM "{lane}".segment_total t WHERE t.segment_id = ANY (counted_segments)
       ORDER BY t.segment_id FOR NO KEY UPDATE
    LOOP
      SELECT array_agg(c.segment_id), array_agg(c.ends), array_agg(c.members) INTO counted_segments, counted_ends, counted
        FROM unnest(counted_segments, counted_ends, counted) AS c(segment_id, ends, members)
       WHERE c.segment_id <> one.segment_id OR c.ends > one.since;
    END LOOP;
  END IF;
  IF counted IS NULL THEN
    RETURN;
  END IF;
  -- A user has one membership of a segment, so each total moves by one.
  INSERT INTO "{lane}".segment_total AS t (segment_id, members)
  SELECT d.segment_id, d.members
    FROM unnest(counted_segments, counted) AS d(segment_id, members), "{base}".removal_epoch
   ORDER BY d.segment_id
  ON CONFLICT (segment_id) DO UPDATE SET members = t.members + EXCLUDED.members;
END $function$
