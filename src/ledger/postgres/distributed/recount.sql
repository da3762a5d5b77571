-- What `recount.rs` compares, and mends where it is asked to. Runs where it is called, since the trend is kept there; the comparison is one statement
-- that goes whole to the machine of the lane, so memberships and counters are seen by one snapshot.
CREATE OR REPLACE FUNCTION "{lane}".recount(
  clock timestamptz, recounted bigint, mend boolean, OUT at bigint, OUT members bigint, OUT drift bigint, OUT here boolean)
LANGUAGE plpgsql SET plan_cache_mode = auto SET enable_seqscan = off SET jit = off SET timezone = 'UTC' AS $function$
DECLARE
  instant timestamptz;
  bucket_ends timestamptz[]; bucket_members bigint[]; span_ends timestamptz[]; span_members bigint[];
BEGIN
  WITH instant AS MATERIALIZED (
    SELECT c.now, date_bin('2 hours', c.now, 'epoch') + interval '2 hours' AS edge FROM (SELECT coalesce(clock, clock_timestamp()) AS now) c
  ), truth AS MATERIALIZED (
    SELECT m.expires_at, count(*) AS n FROM "{lane}".membership m
     WHERE m.segment_id = recounted AND m.expires_at > (SELECT now FROM instant) GROUP BY 1
  ), bucket_difference AS MATERIALIZED (
    SELECT coalesce(t.expires_at, b.expires_at) AS at, coalesce(t.n, 0) - coalesce(b.members, 0) AS d
      FROM truth t
      FULL JOIN (SELECT k.expires_at, k.members FROM "{lane}".segment_bucket k
                  WHERE k.segment_id = recounted AND k.expires_at > (SELECT now FROM instant)) b ON b.expires_at = t.expires_at
     WHERE coalesce(t.n, 0) <> coalesce(b.members, 0)
  ), span_difference AS MATERIALIZED (
    SELECT coalesce(t.at, s.span_end) AS at, (coalesce(t.n, 0) - coalesce(s.members, 0))::bigint AS d
      FROM (SELECT date_bin('2 hours', u.expires_at - interval '1 microsecond', 'epoch') + interval '2 hours' AS at, sum(u.n) AS n
              FROM truth u WHERE u.expires_at > (SELECT edge FROM instant) GROUP BY 1) t
      FULL JOIN (SELECT k.span_end, k.members FROM "{lane}".segment_span k
                  WHERE k.segment_id = recounted AND k.span_end > (SELECT edge FROM instant)) s ON s.span_end = t.at
     WHERE coalesce(t.n, 0) <> coalesce(s.members, 0)
  )
  SELECT i.now, (extract(epoch FROM i.now) * 1000000)::bigint, coalesce((SELECT sum(n) FROM truth), 0)::bigint,
         (coalesce((SELECT sum(abs(d)) FROM bucket_difference), 0) + coalesce((SELECT sum(abs(d)) FROM span_difference), 0))::bigint,
         EXISTS (SELECT FROM "{base}".segment s WHERE s.id = recounted AND s.lane = {number}),
         (SELECT array_agg(b.at) FROM bucket_difference b), (SELECT array_agg(b.d) FROM bucket_difference b),
         (SELECT array_agg(s.at) FROM span_difference s), (SELECT array_agg(s.d) FROM span_difference s)
    INTO instant, at, members, drift, here, bucket_ends, bucket_members, span_ends, span_members
    FROM instant i;
  IF mend AND bucket_ends IS NOT NULL THEN
    INSERT INTO "{lane}".segment_bucket AS b (segment_id, expires_at, members)
    SELECT recounted, d.expires_at, d.members
      FROM unnest(bucket_ends, bucket_members) AS d(expires_at, members), "{base}".removal_epoch
     ORDER BY d.expires_at
    ON CONFLICT (segment_id, expires_at) DO UPDATE SET members = b.members + EXCLUDED.members;
  END IF;
  IF mend AND span_ends IS NOT NULL THEN
    INSERT INTO "{lane}".segment_span AS s (segment_id, span_end, members)
    SELECT recounted, d.span_end, d.members
      FROM unnest(span_ends, span_members) AS d(span_end, members), "{base}".removal_epoch
     ORDER BY d.span_end
    ON CONFLICT (segment_id, span_end) DO UPDATE SET members = s.members + EXCLUDED.members;
  END IF;
  IF here AND (mend OR drift = 0) THEN
    INSERT INTO "{base}".segment_history (segment_id, at, members) VALUES (recounted, instant, recount.members);
    UPDATE "{base}".segment SET recounted_at = instant WHERE id = recounted;
  END IF;
END $function$
