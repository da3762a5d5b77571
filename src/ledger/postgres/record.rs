//! The one statement that records a batch.

use std::collections::BTreeSet;

use super::session::{ANSWER, over};
use super::{PostgresLedger, timestamp};
use crate::counting::{Outcome, Pair, Refusal, SegmentId};
use crate::ledger::{LedgerError, Recorded, Recording};

/// Records a batch: memberships first, sorted by key; buckets second, spans third, each sorted: the lock order of every writer.
///
/// `$1` clock, `$2` segment ids, `$3` users, `$4` observed at (µs or null: now), `$5` own windows (s or null), `$6` the counter's window (s),
/// `$7` resolution (µs), `$8` settle / 2 (µs).
///
/// * The look at what stands (`standing`) leaves out what would change nothing: even an upsert whose WHERE is false locks the row and writes WAL.
/// * What changed is laid beside what was sent by a window and not by a join: planned once for batches of every size, a join becomes a
///   nested loop, and a batch of 10,000 a hundred million comparisons.
/// * `prev_expires_at` is the old value as it was under the row's lock, which the snapshot may not have seen.
/// * A bucket that ended before now - settle / 2 is left alone: the sweeper may have cleared it.
/// * Ends are reckoned in microseconds and become timestamps only where they are to come: a client may send a year that PostgreSQL has
///   no timestamp for. They are whole seconds, so that the multiplication of the interval (in floating point) is exact.
pub(super) const SQL: &str = r#"
WITH instant AS MATERIALIZED (
  SELECT now, (extract(epoch FROM now) * 1000000)::bigint AS micros FROM (SELECT coalesce($1, clock_timestamp()) AS now) clock
), offered AS MATERIALIZED (
  SELECT o.*, NOT o.unknown AND NOT o.ahead AND o.ends > i.micros AS valid
    FROM (
      SELECT p.ordinal, p.segment_id, p.user_id COLLATE "C" AS user_id, p.own IS NULL AS unknown,
             coalesce(p.observed, i.micros) > i.micros + 300000000 AS ahead, e.due + mod($7 - mod(e.due, $7), $7) AS ends
        FROM (SELECT u.*, (SELECT coalesce(s.window_seconds, 0) FROM "{base}".segment s WHERE s.id = u.segment_id) AS own
                FROM unnest($2::bigint[], $3::text[], $4::bigint[], $5::bigint[])
                     WITH ORDINALITY AS u(segment_id, user_id, observed, ttl, ordinal)) p
       CROSS JOIN instant i
       CROSS JOIN LATERAL (SELECT coalesce(p.observed, i.micros) + coalesce(p.ttl, nullif(p.own, 0), $6) * 1000000 AS due) e
    ) o CROSS JOIN instant i
), ranked AS MATERIALIZED (
  SELECT o.ordinal, o.segment_id, o.user_id, o.unknown, o.ahead, o.valid, o.ends,
         o.valid AND row_number() OVER (PARTITION BY o.segment_id, o.user_id, o.valid ORDER BY o.ends DESC, o.ordinal) = 1 AS best,
         CASE WHEN o.valid THEN timestamptz 'epoch' + interval '1 second' * (o.ends / 1000000) END AS expires_at,
         CASE WHEN o.valid THEN (SELECT k.expires_at FROM "{lane}".membership k
                                  WHERE k.segment_id = o.segment_id AND k.user_id = o.user_id) END AS standing
    FROM offered o
), changed AS (
  INSERT INTO "{lane}".membership AS m (segment_id, user_id, expires_at)
  SELECT r.segment_id, r.user_id, r.expires_at FROM ranked r
   WHERE r.best AND (r.standing IS NULL OR r.standing < r.expires_at)
   ORDER BY r.segment_id, r.user_id
  ON CONFLICT (segment_id, user_id) DO UPDATE SET prev_expires_at = m.expires_at, expires_at = EXCLUDED.expires_at
   WHERE m.expires_at < EXCLUDED.expires_at
  RETURNING m.segment_id, m.user_id, m.expires_at, m.prev_expires_at
), delta AS MATERIALIZED (
  SELECT segment_id, expires_at, sum(d)::bigint AS d
    FROM (SELECT segment_id, expires_at, 1 AS d FROM changed
          UNION ALL
          SELECT c.segment_id, c.prev_expires_at, -1 FROM changed c, instant i
           WHERE c.prev_expires_at > i.now - $8 * interval '1 microsecond') moved
   GROUP BY segment_id, expires_at HAVING sum(d) <> 0
), buckets AS (
  INSERT INTO "{lane}".segment_bucket AS b (segment_id, expires_at, members)
  SELECT segment_id, expires_at, d FROM delta ORDER BY segment_id, expires_at
  ON CONFLICT (segment_id, expires_at) DO UPDATE SET members = b.members + EXCLUDED.members
), spans AS (
  INSERT INTO "{lane}".segment_span AS s (segment_id, span_end, members)
  SELECT segment_id, date_bin('2 hours', expires_at - interval '1 microsecond', 'epoch') + interval '2 hours', sum(d)::bigint
    FROM delta GROUP BY 1, 2 HAVING sum(d) <> 0 ORDER BY 1, 2
  ON CONFLICT (segment_id, span_end) DO UPDATE SET members = s.members + EXCLUDED.members
)
SELECT (SELECT micros FROM instant),
       array_agg((CASE WHEN a.ahead THEN 4
                       WHEN a.unknown THEN 5
                       WHEN NOT a.valid THEN 3
                       WHEN NOT a.best OR NOT a.moved THEN 2
                       WHEN a.previous > i.now THEN 1
                       ELSE 0 END)::smallint ORDER BY a.ordinal),
       array_agg(CASE WHEN a.valid THEN (extract(epoch FROM greatest(a.latest, a.standing)) * 1000000)::bigint ELSE a.ends END ORDER BY a.ordinal)
  FROM (SELECT x.ordinal, x.unknown, x.ahead, x.valid, x.best, x.ends, x.standing,
               bool_or(x.moved) OVER membership AS moved, max(x.previous) OVER membership AS previous, max(x.expires_at) OVER membership AS latest
          FROM (SELECT r.ordinal, r.segment_id, r.user_id, r.unknown, r.ahead, r.valid, r.best, r.ends, r.expires_at, r.standing,
                       false AS moved, NULL::timestamptz AS previous
                  FROM ranked r
                UNION ALL
                SELECT NULL, c.segment_id, c.user_id, false, false, false, false, NULL, c.expires_at, NULL, true, c.prev_expires_at
                  FROM changed c) x
        WINDOW membership AS (PARTITION BY x.segment_id, x.user_id)) a
  CROSS JOIN instant i
 WHERE a.ordinal IS NOT NULL
"#;

impl PostgresLedger {
    pub(super) async fn record_batch(&self, pairs: &[Pair]) -> Result<Recorded, LedgerError> {
        self.settings.admit(pairs)?;
        if pairs.is_empty() {
            return Ok(Recorded {
                at: crate::ledger::Ledger::now(self).await?,
                pairs: Vec::new(),
                changed: Vec::new(),
            });
        }
        let segments = self.segments_of(pairs).await?;
        let mut ids = Vec::with_capacity(pairs.len());
        let mut users = Vec::with_capacity(pairs.len());
        let mut observed = Vec::with_capacity(pairs.len());
        let mut windows = Vec::with_capacity(pairs.len());
        for (pair, id) in pairs.iter().zip(&segments) {
            // 0 is no segment's number: the statement answers that it is unknown.
            ids.push(id.map_or(0, |id| id.0));
            users.push(pair.user.as_str());
            observed.push(pair.observed_micros());
            windows.push(pair.ttl.map(crate::counting::Window::seconds));
        }
        let recording = sqlx::query_as(self.sql.record.clone())
            .bind(self.clock())
            .bind(&ids)
            .bind(&users)
            .bind(&observed)
            .bind(&windows)
            .bind(self.settings.rules.window().seconds())
            .bind(self.settings.rules.resolution().seconds() * 1_000_000)
            .bind(self.settle_micros() / 2);
        let (now, codes, ends): (i64, Vec<i16>, Vec<i64>) =
            over!(self, ANSWER, session => recording.fetch_one(&mut *session))?;
        if codes.len() != pairs.len() || ends.len() != pairs.len() {
            return Err(LedgerError::Internal(format!(
                "{} pairs were sent and {} answered",
                pairs.len(),
                codes.len()
            )));
        }
        let mut changed = BTreeSet::new();
        let mut recorded = Vec::with_capacity(pairs.len());
        for (index, (code, end)) in codes.iter().zip(&ends).enumerate() {
            let outcome = match code {
                0 => Outcome::Created,
                1 => Outcome::Renewed,
                2 => Outcome::Unchanged,
                3 => Outcome::Expired,
                4 => Outcome::Refused(Refusal::ObservedInFuture),
                _ => Outcome::Refused(Refusal::SegmentLimit),
            };
            if outcome == Outcome::Created {
                changed.insert(SegmentId(ids[index]));
            }
            let expires_at = if matches!(outcome, Outcome::Refused(_)) {
                None
            } else {
                Some(timestamp(*end)?)
            };
            recorded.push(Recording { outcome, expires_at });
        }
        Ok(Recorded {
            at: timestamp(now)?,
            pairs: recorded,
            changed: changed.into_iter().collect(),
        })
    }
}
