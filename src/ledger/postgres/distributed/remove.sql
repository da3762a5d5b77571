-- What `remove.rs` does in one statement. Called in a transaction that raises the epoch too, so it runs where it is called, and each statement goes
-- to the machine of the lane.
--
-- * No arithmetic with instants is allowed where a row conflicts: the instant before which an end is the sweeper's (`edge`) travels in the row's
--   `prev_expires_at`. A row that is made here keeps it, which nobody looks at; no old end that is learnt lies so early.
CREATE OR REPLACE FUNCTION "{lane}".remove(
  clock timestamptz, sent_segments bigint[], sent_users text[], half_settle bigint,
  OUT now bigint, OUT segments bigint[], OUT users text[], OUT ended bigint[], OUT gone bigint[])
LANGUAGE plpgsql SET plan_cache_mode = auto SET enable_seqscan = off SET jit = off SET timezone = 'UTC' AS $function$
DECLARE
  instant timestamptz; edge timestamptz;
  asked_segments bigint[]; asked_users text[];
  leaving_segments bigint[]; leaving_users text[];
  old_ends timestamptz[] := '{}';
  counted_segments bigint[]; counted_ends timestamptz[]; counted bigint[];
  one record;
BEGIN
  segments := '{}';
  users := '{}';
  PERFORM pg_advisory_xact_lock_shared({writers}, hashtext('{lane}'));
  instant := coalesce(clock, clock_timestamp());
  edge := instant - half_settle * interval '1 microsecond';
  now := (extract(epoch FROM instant) * 1000000)::bigint;
  -- Not in this lane, or not at all.
  SELECT coalesce(array_agg(u.segment_id), '{}') INTO gone
    FROM unnest(sent_segments) AS u(segment_id)
   WHERE NOT EXISTS (SELECT FROM "{base}".segment s WHERE s.id = u.segment_id AND s.lane = {number});
  -- Of a user whose erasure is under way (`leaving`) no mark is made: it would be the last thing left of them. What stands of them is ended.
  SELECT array_agg(a.segment_id ORDER BY a.segment_id, a.user_id) FILTER (WHERE NOT a.leaving),
         array_agg(a.user_id ORDER BY a.segment_id, a.user_id) FILTER (WHERE NOT a.leaving),
         array_agg(a.segment_id ORDER BY a.segment_id, a.user_id) FILTER (WHERE a.leaving),
         array_agg(a.user_id ORDER BY a.segment_id, a.user_id) FILTER (WHERE a.leaving)
    INTO asked_segments, asked_users, leaving_segments, leaving_users
    FROM (SELECT DISTINCT u.segment_id, u.user_id COLLATE "C" AS user_id,
                 EXISTS (SELECT FROM "{base}".suppression x, "{base}".suppression_key k
                          WHERE x.erased_at IS NULL AND x.suppressed_until > instant
                            AND x.user_hash = sha256(k.key || convert_to(u.user_id, 'UTF8'))) AS leaving
            FROM unnest(sent_segments, sent_users) AS u(segment_id, user_id)
           WHERE u.segment_id <> ALL (gone)) a;
  ended := '{}';
  IF asked_segments IS NOT NULL THEN
    FOR one IN
      INSERT INTO "{lane}".membership AS m (segment_id, user_id, expires_at, prev_expires_at, removed_at)
      SELECT a.segment_id, a.user_id, timestamptz 'epoch', edge, instant
        FROM unnest(asked_segments, asked_users) AS a(segment_id, user_id), "{base}".removal_epoch
       ORDER BY a.segment_id, a.user_id COLLATE "C"
      ON CONFLICT (segment_id, user_id) DO UPDATE
         SET prev_expires_at = CASE WHEN m.expires_at > EXCLUDED.prev_expires_at THEN m.expires_at END,
             expires_at = CASE WHEN m.expires_at > EXCLUDED.prev_expires_at THEN EXCLUDED.expires_at ELSE m.expires_at END,
             removed_at = greatest(m.removed_at, EXCLUDED.removed_at)
      RETURNING m.segment_id, m.user_id, m.prev_expires_at
    LOOP
      segments := segments || one.segment_id;
      users := users || one.user_id;
      old_ends := old_ends || CASE WHEN one.prev_expires_at > edge THEN one.prev_expires_at END;
    END LOOP;
  END IF;
  FOR at IN 1 .. coalesce(cardinality(leaving_segments), 0) LOOP
    FOR one IN
      UPDATE "{lane}".membership m
         SET prev_expires_at = CASE WHEN m.expires_at > edge THEN m.expires_at END,
             expires_at = CASE WHEN m.expires_at > edge THEN timestamptz 'epoch' ELSE m.expires_at END,
             removed_at = greatest(m.removed_at, instant)
       WHERE m.segment_id = leaving_segments[at] AND m.user_id = leaving_users[at] COLLATE "C"
      RETURNING m.segment_id, m.user_id, m.prev_expires_at
    LOOP
      segments := segments || one.segment_id;
      users := users || one.user_id;
      old_ends := old_ends || one.prev_expires_at;
    END LOOP;
  END LOOP;
  SELECT coalesce(array_agg((extract(epoch FROM o.old) * 1000000)::bigint ORDER BY o.ordinal), '{}') INTO ended
    FROM unnest(old_ends) WITH ORDINALITY AS o(old, ordinal);
  SELECT array_agg(d.segment_id), array_agg(d.expires_at), array_agg(d.members) INTO counted_segments, counted_ends, counted
    FROM (SELECT e.segment_id, e.expires_at, -count(*) AS members FROM unnest(segments, old_ends) AS e(segment_id, expires_at)
           WHERE e.expires_at IS NOT NULL GROUP BY 1, 2) d;
  IF counted IS NULL THEN
    RETURN;
  END IF;
{counters}
  INSERT INTO "{lane}".membership_history (segment_id, user_id, expires_at, archived_at)
  SELECT k.segment_id, k.user_id, least(k.expires_at, instant), instant
    FROM unnest(segments, users, old_ends) AS k(segment_id, user_id, expires_at), "{base}".removal_epoch
   WHERE k.expires_at IS NOT NULL;
END $function$
