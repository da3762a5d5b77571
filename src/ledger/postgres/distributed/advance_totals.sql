-- What `sweep.rs` takes out of totals, of which whoever was writing at the clock's instant has ended. Runs on the machine of the lane. Totals are locked first, and
-- what has ended is added up by a later snapshot: what a writer with a longer settle time moved meanwhile is in it.
CREATE OR REPLACE FUNCTION "{lane}".advance_totals(clock timestamptz, settle bigint, asked bigint[]) RETURNS void
LANGUAGE plpgsql SET plan_cache_mode = auto SET enable_seqscan = off SET jit = off SET timezone = 'UTC' AS $function$
DECLARE
  past timestamptz;
  locked bigint[] := '{}'; ended_segments bigint[]; ended bigint[];
  one record;
BEGIN
  past := coalesce(clock, clock_timestamp()) - settle * interval '1 microsecond';
  FOR one IN
    SELECT t.segment_id FROM "{lane}".segment_total t
     WHERE t.segment_id = ANY (asked)
       AND (SELECT true FROM "{lane}".segment_expiry b
             WHERE b.segment_id = t.segment_id AND b.expires_at > t.since AND b.expires_at <= past LIMIT 1)
     ORDER BY t.segment_id FOR NO KEY UPDATE OF t
  LOOP
    locked := locked || one.segment_id;
  END LOOP;
  SELECT array_agg(e.segment_id), array_agg(e.members) INTO ended_segments, ended
    FROM (SELECT t.segment_id,
                 (SELECT sum(b.members)::bigint FROM "{lane}".segment_expiry b
                   WHERE b.segment_id = t.segment_id AND b.expires_at > t.since AND b.expires_at <= past) AS members
            FROM "{lane}".segment_total t WHERE t.segment_id = ANY (locked)) e
   WHERE e.members IS NOT NULL;
  FOR one IN SELECT e.segment_id, e.members FROM unnest(ended_segments, ended) AS e(segment_id, members) LOOP
    UPDATE "{lane}".segment_total SET since = past, members = members - one.members WHERE segment_id = one.segment_id;
  END LOOP;
END $function$
