-- What `recount.rs` compares, and mends where it is asked to. Runs where it is called, since the trend is kept there; the comparison is one statement
-- that goes whole to the machine of the lane, so memberships and counters are seen by one snapshot.
CREATE OR REPLACE FUNCTION "{lane}".recount(
  clock timestamptz, recounted bigint, mend boolean, OUT at bigint, OUT members bigint, OUT drift bigint, OUT here boolean)
LANGUAGE plpgsql SET plan_cache_mode = auto SET enable_seqscan = off SET jit = off SET timezone = 'UTC' AS $function$
DECLARE
  instant timestamptz;
  bucket_ends timestamptz[]; bucket_members bigint[]; total_moves bigint;
BEGIN
  WITH instant AS MATERIALIZED (
    SELECT coalesce(clock, clock_timestamp()) AS now
  ), truth AS MATERIALIZED (
    SELECT m.expires_at, count(*) AS n FROM "{lane}".membership m
     WHERE m.segment_id = recounted AND m.expires_at > (SELECT now FROM instant) GROUP BY 1
  ), bucket_difference AS MATERIALIZED (
    SELECT coalesce(t.expires_at, b.expires_at) AS at, coalesce(t.n, 0) - coalesce(b.members, 0) AS d
      FROM truth t
      FULL JOIN (SELECT k.expires_at, k.members FROM "{lane}".segment_expiry k
                  WHERE k.segment_id = recounted AND k.expires_at > (SELECT now FROM instant)) b ON b.expires_at = t.expires_at
     WHERE coalesce(t.n, 0) <> coalesce(b.members, 0)
  ), total_difference AS MATERIALIZED (
    SELECT (coalesce((SELECT sum(u.n) FROM truth u WHERE u.expires_at > coalesce(k.since, 'epoch')), 0)
            + coalesce((SELECT sum(e.members) FROM "{lane}".segment_expiry e
                         WHERE e.segment_id = recounted AND e.expires_at <= i.now AND e.expires_at > coalesce(k.since, 'epoch')), 0)
            - coalesce(k.members, 0))::bigint AS d
      FROM instant i LEFT JOIN "{lane}".segment_total k ON k.segment_id = recounted
  )
  SELECT i.now, (extract(epoch FROM i.now) * 1000000)::bigint, coalesce((SELECT sum(n) FROM truth), 0)::bigint,
         (coalesce((SELECT sum(abs(d)) FROM bucket_difference), 0) + (SELECT abs(d) FROM total_difference))::bigint,
         EXISTS (SELECT FROM "{base}".segment s WHERE s.id = recounted AND s.lane = {number}),
         (SELECT array_agg(b.at) FROM bucket_difference b), (SELECT array_agg(b.d) FROM bucket_difference b),
         t.d
    INTO instant, at, members, drift, here, bucket_ends, bucket_members, total_moves
    FROM instant i, total_difference t;
  IF mend AND bucket_ends IS NOT NULL THEN
    INSERT INTO "{lane}".segment_expiry AS b (segment_id, expires_at, members)
    SELECT recounted, d.expires_at, d.members
      FROM unnest(bucket_ends, bucket_members) AS d(expires_at, members), "{base}".removal_epoch
     ORDER BY d.expires_at
    ON CONFLICT (segment_id, expires_at) DO UPDATE SET members = b.members + EXCLUDED.members;
  END IF;
  IF mend AND total_moves <> 0 THEN
    INSERT INTO "{lane}".segment_total AS t (segment_id, members) VALUES (recounted, total_moves)
    ON CONFLICT (segment_id) DO UPDATE SET members = t.members + EXCLUDED.members;
  END IF;
  IF here AND (mend OR drift = 0) THEN
    INSERT INTO "{base}".segment_history (segment_id, at, members) VALUES (recounted, instant, recount.members);
    UPDATE "{base}".segment SET recounted_at = instant WHERE id = recounted;
  END IF;
END $function$
