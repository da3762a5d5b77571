  -- What was counted (`counted_segments`, `counted_ends`, `counted`), moved in the counters; see `counters.rs`.
  IF counted IS NOT NULL THEN
    INSERT INTO "{lane}".segment_expiry AS b (segment_id, expires_at, members)
    SELECT d.segment_id, d.expires_at, d.members
      FROM unnest(counted_segments, counted_ends, counted) AS d(segment_id, expires_at, members), "{base}".removal_epoch
     ORDER BY d.segment_id, d.expires_at
    ON CONFLICT (segment_id, expires_at) DO UPDATE SET members = b.members + EXCLUDED.members;
    -- A total holds no bucket that ends by its `since`. Where one has ended, by the clock or by that, the totals are locked before that is asked.
    IF EXISTS (SELECT FROM unnest(counted_ends) AS c(ends) WHERE c.ends <= instant)
       OR EXISTS (SELECT FROM unnest(counted_segments, counted_ends) AS c(segment_id, ends), "{lane}".segment_total t
                   WHERE t.segment_id = c.segment_id AND c.ends <= t.since) THEN
      FOR one IN
        SELECT t.segment_id, t.since FROM "{lane}".segment_total t WHERE t.segment_id = ANY (counted_segments)
         ORDER BY t.segment_id FOR NO KEY UPDATE
      LOOP
        SELECT array_agg(c.segment_id), array_agg(c.ends), array_agg(c.members) INTO counted_segments, counted_ends, counted
          FROM unnest(counted_segments, counted_ends, counted) AS c(segment_id, ends, members)
         WHERE c.segment_id <> one.segment_id OR c.ends > one.since;
      END LOOP;
    END IF;
    SELECT array_agg(d.segment_id), array_agg(d.members) INTO counted_segments, counted
      FROM (SELECT c.segment_id, sum(c.members) AS members
              FROM unnest(counted_segments, counted) AS c(segment_id, members)
             GROUP BY 1 HAVING sum(c.members) <> 0) d;
  END IF;
  IF counted IS NOT NULL THEN
    INSERT INTO "{lane}".segment_total AS t (segment_id, members)
    SELECT d.segment_id, d.members
      FROM unnest(counted_segments, counted) AS d(segment_id, members), "{base}".removal_epoch
     ORDER BY d.segment_id
    ON CONFLICT (segment_id) DO UPDATE SET members = t.members + EXCLUDED.members;
  END IF;
