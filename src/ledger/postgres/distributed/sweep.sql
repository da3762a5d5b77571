-- What `archive.rs` clears of the counters of the past, a row of the answer for each. Runs on the machine of the lane.
CREATE OR REPLACE FUNCTION "{lane}".sweep_{table}(clock timestamptz, settle bigint, most bigint) RETURNS SETOF integer
LANGUAGE plpgsql SET plan_cache_mode = auto SET enable_seqscan = off SET jit = off SET timezone = 'UTC' AS $function$
DECLARE
  past timestamptz;
BEGIN
  past := coalesce(clock, clock_timestamp()) - settle * interval '1 microsecond';
  RETURN QUERY
    DELETE FROM "{lane}".{table} c
     USING (SELECT t.segment_id, t.{column}
              FROM "{base}".segment s
             CROSS JOIN LATERAL (SELECT a.segment_id, a.{column} FROM "{lane}".{table} a WHERE a.segment_id = s.id AND a.{column} <= past) t
             WHERE s.lane = {number}
             LIMIT most) e
     WHERE c.segment_id = e.segment_id AND c.{column} = e.{column}
    RETURNING 1;
END $function$
