-- What `sweep.rs` takes out of totals. Runs on the machine of the lane.
CREATE OR REPLACE FUNCTION "{lane}".advance_totals(clock timestamptz, settle bigint, after_segment bigint, most bigint) RETURNS bigint
LANGUAGE plpgsql SET plan_cache_mode = auto SET enable_seqscan = off SET jit = off SET timezone = 'UTC' AS $function$
DECLARE
  past timestamptz;
  last_segment bigint;
  locked bigint[];
BEGIN
  past := coalesce(clock, clock_timestamp()) - settle * interval '1 microsecond';
  SELECT max(n.segment_id) INTO last_segment
    FROM (SELECT t.segment_id FROM "{lane}".segment_total t WHERE t.segment_id > after_segment ORDER BY t.segment_id LIMIT most) n;
  SELECT array_agg(l.segment_id) INTO locked
    FROM (SELECT t.segment_id FROM "{lane}".segment_total t
           WHERE t.segment_id > after_segment AND t.segment_id <= last_segment
             AND EXISTS (SELECT FROM "{lane}".segment_expiry e
                          WHERE e.segment_id = t.segment_id AND e.expires_at > t.since AND e.expires_at <= past)
           ORDER BY t.segment_id FOR NO KEY UPDATE OF t) l;
  UPDATE "{lane}".segment_total t
     SET since = past,
         members = t.members - (SELECT coalesce(sum(e.members), 0)::bigint FROM "{lane}".segment_expiry e
                                 WHERE e.segment_id = t.segment_id AND e.expires_at > t.since AND e.expires_at <= past)
   WHERE t.segment_id = ANY (locked) AND t.since < past;
  RETURN last_segment;
END $function$
