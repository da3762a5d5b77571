-- What `sweep.rs` clears of buckets. Runs on the machine of the lane.
CREATE OR REPLACE FUNCTION "{lane}".clear_buckets(
  clock timestamptz, settle bigint, asked bigint[], most bigint, OUT cleared bigint, OUT last_segment bigint)
LANGUAGE plpgsql SET plan_cache_mode = auto SET enable_seqscan = off SET jit = off SET timezone = 'UTC' AS $function$
DECLARE
  past timestamptz; until timestamptz;
  one record;
  of_it bigint;
BEGIN
  past := coalesce(clock, clock_timestamp()) - settle * interval '1 microsecond';
  cleared := 0;
  FOR one IN SELECT t.segment_id, t.since FROM "{lane}".segment_total t WHERE t.segment_id = ANY (asked) ORDER BY t.segment_id LOOP
    EXIT WHEN cleared >= most;
    -- As far as the last that there is room for; null where all of them have room.
    SELECT e.expires_at INTO until FROM "{lane}".segment_expiry e
     WHERE e.segment_id = one.segment_id AND e.expires_at <= least(one.since, past)
     ORDER BY e.expires_at OFFSET most - cleared - 1 LIMIT 1;
    DELETE FROM "{lane}".segment_expiry c
     WHERE c.segment_id = one.segment_id AND c.expires_at <= least(one.since, past) AND c.expires_at <= coalesce(until, 'infinity');
    GET DIAGNOSTICS of_it = ROW_COUNT;
    CONTINUE WHEN of_it = 0;
    cleared := cleared + of_it;
    last_segment := one.segment_id;
  END LOOP;
END $function$
