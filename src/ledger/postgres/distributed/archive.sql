-- What `archive.rs` moves in one statement. Runs on the machine of the lane. The rows stay locked from the first statement on, so they are found again by their keys.
CREATE OR REPLACE FUNCTION "{lane}".archive(
  clock timestamptz, settle bigint, from_place bigint, to_block bigint, most bigint, memory bigint,
  OUT moved bigint, OUT dealt_with bigint, OUT last_place bigint, OUT marked boolean)
LANGUAGE plpgsql SET plan_cache_mode = auto SET enable_seqscan = off SET jit = off SET timezone = 'UTC' AS $function$
DECLARE
  instant timestamptz; past timestamptz; forgotten timestamptz;
  ended_segments bigint[]; ended_users text[]; ends timestamptz[]; spent boolean[];
BEGIN
  marked := false;
  PERFORM pg_advisory_xact_lock_shared({writers}, hashtext('{lane}'));
  instant := coalesce(clock, clock_timestamp());
  past := instant - settle * interval '1 microsecond';
  forgotten := instant - memory * interval '1 microsecond';
  SELECT array_agg(e.segment_id), array_agg(e.user_id), array_agg(e.expires_at), array_agg(e.spent),
         count(*) FILTER (WHERE e.expires_at > timestamptz 'epoch'), count(*), ((max(e.tid)::text::point)[0])::bigint << 16 | ((max(e.tid)::text::point)[1])::bigint
    INTO ended_segments, ended_users, ends, spent, moved, dealt_with, last_place
    FROM (SELECT m.ctid AS tid, m.segment_id, m.user_id, m.expires_at, m.removed_at IS NULL OR m.removed_at <= forgotten AS spent
            FROM "{lane}".membership m
           WHERE m.ctid > format('(%s,%s)', from_place >> 16, from_place & 65535)::tid AND m.ctid < format('(%s,0)', to_block)::tid
             AND m.expires_at <= past
             AND (m.expires_at > timestamptz 'epoch' OR m.removed_at <= forgotten)
             -- For each row, as in `archive.rs`: joined, the rows may come in another order than they lie.
             AND (SELECT s.lane = {number} FROM "{base}".segment s WHERE s.id = m.segment_id)
           LIMIT most
           FOR UPDATE OF m SKIP LOCKED) e;
  IF ended_segments IS NULL THEN
    RETURN;
  END IF;
  DELETE FROM "{lane}".membership m USING unnest(ended_segments, ended_users, spent) AS e(segment_id, user_id, spent)
   WHERE m.segment_id = e.segment_id AND m.user_id = e.user_id COLLATE "C" AND e.spent;
  IF false = ANY (spent) THEN
    UPDATE "{lane}".membership m SET expires_at = timestamptz 'epoch', prev_expires_at = NULL
      FROM unnest(ended_segments, ended_users, spent) AS e(segment_id, user_id, spent)
     WHERE m.segment_id = e.segment_id AND m.user_id = e.user_id COLLATE "C" AND NOT e.spent;
  END IF;
  INSERT INTO "{lane}".membership_history (segment_id, user_id, expires_at, archived_at)
  SELECT e.segment_id, e.user_id, e.expires_at, instant
    FROM unnest(ended_segments, ended_users, ends) AS e(segment_id, user_id, expires_at), "{base}".removal_epoch
   WHERE e.expires_at > timestamptz 'epoch';
END $function$
