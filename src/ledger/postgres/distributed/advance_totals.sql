-- What `sweep.rs` takes out of totals. Runs on the machine of the lane. What is added up is settled, so no row is locked for it.
CREATE OR REPLACE FUNCTION "{lane}".advance_totals(clock timestamptz, settle bigint, asked bigint[]) RETURNS void
LANGUAGE plpgsql SET plan_cache_mode = auto SET enable_seqscan = off SET jit = off SET timezone = 'UTC' AS $function$
DECLARE
  past timestamptz;
  ended_segments bigint[]; ended_since timestamptz[]; ended bigint[];
  one record;
BEGIN
  past := coalesce(clock, clock_timestamp()) - settle * interval '1 microsecond';
  SELECT array_agg(e.segment_id ORDER BY e.segment_id), array_agg(e.since ORDER BY e.segment_id), array_agg(e.members ORDER BY e.segment_id)
    INTO ended_segments, ended_since, ended
    FROM (SELECT t.segment_id, t.since,
                 (SELECT sum(b.members)::bigint FROM "{lane}".segment_expiry b
                   WHERE b.segment_id = t.segment_id AND b.expires_at > t.since AND b.expires_at <= past) AS members
            FROM "{lane}".segment_total t WHERE t.segment_id = ANY (asked)) e
   WHERE e.members IS NOT NULL;
  FOR one IN
    SELECT e.segment_id, e.since, e.members FROM unnest(ended_segments, ended_since, ended) AS e(segment_id, since, members) ORDER BY e.segment_id
  LOOP
    UPDATE "{lane}".segment_total SET since = past, members = members - one.members WHERE segment_id = one.segment_id AND since = one.since;
  END LOOP;
END $function$
