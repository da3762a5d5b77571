-- What `sweep.rs` clears of buckets, a row of the answer for each. Runs on the machine of the lane.
CREATE OR REPLACE FUNCTION "{lane}".clear_buckets(clock timestamptz, settle bigint, most bigint) RETURNS SETOF integer
LANGUAGE plpgsql SET plan_cache_mode = auto SET enable_seqscan = off SET jit = off SET timezone = 'UTC' AS $function$
DECLARE
  past timestamptz;
BEGIN
  past := coalesce(clock, clock_timestamp()) - settle * interval '1 microsecond';
  RETURN QUERY
    DELETE FROM "{lane}".segment_expiry c
     USING (SELECT e.segment_id, e.expires_at
              FROM "{lane}".segment_total t
             CROSS JOIN LATERAL (SELECT a.segment_id, a.expires_at FROM "{lane}".segment_expiry a
                                  WHERE a.segment_id = t.segment_id AND a.expires_at <= least(t.since, past)) e
             LIMIT most) p
     WHERE c.segment_id = p.segment_id AND c.expires_at = p.expires_at
    RETURNING 1;
END $function$
