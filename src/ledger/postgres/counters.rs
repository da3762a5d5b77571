//! How counters move with their memberships, in the statement that moves these.

/// Adds what `delta` holds, (segment_id, expires_at, d), to the counters; `instant` has the statement's `now`.
///
/// * A total holds the buckets that end after its `since`. That is judged under its row's lock, whatever the snapshot saw of it: what ended by then is
///   no part of it any more, and a segment of which a bucket moves that has ended, by the clock or by its total, has its total locked even where the sum
///   is 0. So a total is right whenever it was moved on, by whichever clock, and after whichever settle time.
/// * Sums are of integers, since those of bigint are numeric.
/// * Statements of a WITH that nothing refers to run from the last to the first: buckets before totals, each sorted. The total of a segment is the
///   row that all of its writers meet at, so it is locked last.
pub(super) const MOVED: &str = r#"
totals AS (
  INSERT INTO "{lane}".segment_total AS t (segment_id, members)
  SELECT segment_id, sum(d::integer) FROM delta GROUP BY segment_id
  HAVING sum(d::integer) <> 0 OR min(expires_at) <= (SELECT now FROM instant)
      OR min(expires_at) <= (SELECT k.since FROM "{lane}".segment_total k WHERE k.segment_id = delta.segment_id)
   ORDER BY segment_id
  ON CONFLICT (segment_id) DO UPDATE SET members = t.members + EXCLUDED.members
    - CASE WHEN t.since < (SELECT min(expires_at) FROM delta) THEN 0
           ELSE coalesce((SELECT sum(d.d::integer) FROM delta d WHERE d.segment_id = t.segment_id AND d.expires_at <= t.since), 0) END
), buckets AS (
  INSERT INTO "{lane}".segment_expiry AS b (segment_id, expires_at, members)
  SELECT segment_id, expires_at, d FROM delta ORDER BY segment_id, expires_at
  ON CONFLICT (segment_id, expires_at) DO UPDATE SET members = b.members + EXCLUDED.members
)"#;
