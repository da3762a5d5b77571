-- What `record.rs` does in one statement, in plain statements of one table each: Citus sends each of them whole to the machine of the lane, and the
-- call itself too, so that they run there one beside the other. Rules, parameters and answer are those of `record.rs`.
--
-- * The advisory lock is what an erasure waits for in place of the table's: taken before the first snapshot, on whichever machine this runs.
-- * `removal_epoch` has one row. Beside the arrays it makes Citus send the whole INSERT on instead of gathering its rows first.
-- * A row that bears a mark is left by the first upsert, which locks it all the same; what stands there then is weighed by the second statement.
CREATE OR REPLACE FUNCTION "{lane}".record(
  clock timestamptz, sent_segments bigint[], sent_users text[], sent_observed bigint[], sent_windows bigint[],
  usual_window bigint, resolution bigint, half_settle bigint, longest_window bigint,
  OUT now bigint, OUT epoch bigint, OUT verdicts smallint[], OUT own bigint[], OUT ends bigint[], OUT standing bigint[],
  OUT moved_segments bigint[], OUT moved_users text[], OUT moved_from bigint[])
LANGUAGE plpgsql SET plan_cache_mode = auto SET enable_seqscan = off SET jit = off SET timezone = 'UTC' AS $function$
DECLARE
  instant timestamptz;
  best_segments bigint[]; best_users text[]; best_ends timestamptz[]; best_observed timestamptz[];
  moved_ends timestamptz[] := '{}'; moved_old timestamptz[] := '{}';
  counted_segments bigint[]; counted_ends timestamptz[]; counted bigint[];
  one record;
BEGIN
  moved_segments := '{}';
  moved_users := '{}';
  PERFORM pg_advisory_xact_lock_shared({writers}, hashtext('{lane}'));
  WITH instant AS MATERIALIZED (
    SELECT c.now, (extract(epoch FROM c.now) * 1000000)::bigint AS micros FROM (SELECT coalesce(clock, clock_timestamp()) AS now) c
  ), offered AS MATERIALIZED (
    SELECT p.ordinal, p.segment_id, p.user_id COLLATE "C" AS user_id, p.observed, p.own, e.due + mod(resolution - mod(e.due, resolution), resolution) AS ends,
           CASE WHEN coalesce(p.observed, i.micros) > i.micros + 300000000 THEN 2
                WHEN p.own IS NULL THEN 3
                WHEN e.due + mod(resolution - mod(e.due, resolution), resolution) <= i.micros THEN 1
                WHEN (SELECT EXISTS (SELECT FROM "{base}".suppression)) AND EXISTS (
                       SELECT FROM "{base}".suppression x
                        WHERE x.user_hash = sha256((SELECT key FROM "{base}".suppression_key) || convert_to(p.user_id, 'UTF8'))
                          AND x.suppressed_until > i.now
                          AND (x.erased_at IS NULL OR p.observed <= (extract(epoch FROM x.erased_at) * 1000000)::bigint)) THEN 5
                ELSE 0 END AS verdict
      FROM (SELECT u.*, (SELECT coalesce(s.window_seconds, 0) FROM "{base}".segment s WHERE s.id = u.segment_id AND s.lane = {number}) AS own
              FROM unnest(sent_segments, sent_users, sent_observed, sent_windows)
                   WITH ORDINALITY AS u(segment_id, user_id, observed, ttl, ordinal)
            OFFSET 0) p
     CROSS JOIN instant i
     CROSS JOIN LATERAL (SELECT coalesce(p.observed, i.micros)
                                + least(coalesce(p.ttl, nullif(p.own, 0), usual_window), longest_window) * 1000000 AS due) e
  ), judged AS MATERIALIZED (
    SELECT o.ordinal, o.segment_id, o.user_id, o.observed, o.own, o.ends, k.expires_at AS standing,
           CASE WHEN o.verdict = 0 AND o.observed <= (extract(epoch FROM k.removed_at) * 1000000)::bigint THEN 4 ELSE o.verdict END AS verdict,
           CASE WHEN o.verdict = 0 THEN timestamptz 'epoch' + interval '1 second' * (o.ends / 1000000) END AS expires_at
      FROM offered o
      LEFT JOIN LATERAL (SELECT m.expires_at, m.removed_at FROM "{lane}".membership m
                          WHERE o.verdict = 0 AND m.segment_id = o.segment_id AND m.user_id = o.user_id LIMIT 1) k ON true
  ), best AS MATERIALIZED (
    SELECT DISTINCT ON (segment_id, user_id) * FROM judged WHERE verdict = 0 ORDER BY segment_id, user_id, ends DESC, ordinal
  )
  SELECT i.now, i.micros, r.epoch, j.verdicts, j.own, j.ends, j.standing, b.segments, b.users, b.ends, b.observed
    INTO instant, now, epoch, verdicts, own, ends, standing, best_segments, best_users, best_ends, best_observed
    FROM instant i, "{base}".removal_epoch r,
         (SELECT array_agg(a.verdict::smallint ORDER BY a.ordinal) AS verdicts, array_agg(nullif(a.own, 0) ORDER BY a.ordinal) AS own,
                 array_agg(a.ends ORDER BY a.ordinal) AS ends,
                 array_agg((extract(epoch FROM a.standing) * 1000000)::bigint ORDER BY a.ordinal) AS standing
            FROM judged a) j,
         (SELECT array_agg(a.segment_id) AS segments, array_agg(a.user_id) AS users, array_agg(a.expires_at) AS ends,
                 array_agg(timestamptz 'epoch' + interval '1 microsecond' * a.observed) AS observed
            FROM best a WHERE a.standing IS NULL OR a.standing < a.expires_at) b;
  IF best_segments IS NOT NULL THEN
    FOR one IN
      INSERT INTO "{lane}".membership AS m (segment_id, user_id, expires_at)
      SELECT b.segment_id, b.user_id, b.expires_at
        FROM unnest(best_segments, best_users, best_ends) AS b(segment_id, user_id, expires_at), "{base}".removal_epoch
       ORDER BY b.segment_id, b.user_id COLLATE "C"
      ON CONFLICT (segment_id, user_id) DO UPDATE SET prev_expires_at = m.expires_at, expires_at = EXCLUDED.expires_at
       WHERE m.expires_at < EXCLUDED.expires_at AND m.removed_at IS NULL
      RETURNING m.segment_id, m.user_id, m.expires_at, m.prev_expires_at
    LOOP
      moved_segments := moved_segments || one.segment_id;
      moved_users := moved_users || one.user_id;
      moved_ends := moved_ends || one.expires_at;
      moved_old := moved_old || one.prev_expires_at;
    END LOOP;
    IF cardinality(moved_segments) < cardinality(best_segments) THEN
      FOR one IN
        UPDATE "{lane}".membership m SET prev_expires_at = m.expires_at, expires_at = b.expires_at
          FROM unnest(best_segments, best_users, best_ends, best_observed) AS b(segment_id, user_id, expires_at, observed)
         WHERE m.segment_id = b.segment_id AND m.user_id = b.user_id COLLATE "C" AND m.expires_at < b.expires_at AND m.removed_at IS NOT NULL
           AND (b.observed IS NULL OR b.observed > m.removed_at)
        RETURNING m.segment_id, m.user_id, m.expires_at, m.prev_expires_at
      LOOP
        moved_segments := moved_segments || one.segment_id;
        moved_users := moved_users || one.user_id;
        moved_ends := moved_ends || one.expires_at;
        moved_old := moved_old || one.prev_expires_at;
      END LOOP;
    END IF;
  END IF;
  -- What moved, by bucket.
  SELECT array_agg(d.segment_id), array_agg(d.expires_at), array_agg(d.members) INTO counted_segments, counted_ends, counted
    FROM (SELECT c.segment_id, c.expires_at, sum(c.members) AS members
            FROM (SELECT a.segment_id, a.expires_at, 1 AS members FROM unnest(moved_segments, moved_ends) AS a(segment_id, expires_at)
                  UNION ALL
                  SELECT a.segment_id, a.expires_at, -1 FROM unnest(moved_segments, moved_old) AS a(segment_id, expires_at)
                   WHERE a.expires_at > instant - half_settle * interval '1 microsecond') c
           GROUP BY 1, 2 HAVING sum(c.members) <> 0) d;
{counters}
  SELECT coalesce(array_agg((extract(epoch FROM o.old) * 1000000)::bigint ORDER BY o.ordinal), '{}') INTO moved_from
    FROM unnest(moved_old) WITH ORDINALITY AS o(old, ordinal);
END $function$
