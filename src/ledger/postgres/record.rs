//! The one statement that records a batch.

use std::collections::BTreeSet;

use super::{PostgresLedger, timestamp};
use crate::counting::{Outcome, Pair, Refusal, SegmentId};
use crate::ledger::{LedgerError, Recorded, Recording};

/// Records a batch: memberships first, sorted by key; buckets second, spans third, each sorted: the lock order of every writer.
///
/// `$1` clock, `$2` segment ids, `$3` users, `$4` observed at (µs or null: now), `$5` own windows (s or null), `$6` the counter's window (s),
/// `$7` resolution (µs), `$8` settle / 2 (µs).
///
/// * The anti-join (`standing`) leaves out what would change nothing: even an upsert whose WHERE is false locks the row and writes WAL.
/// * `prev_expires_at` is the old value as it was under the row's lock, which the snapshot may not have seen.
/// * A bucket that ended before now - settle / 2 is left alone: the sweeper may have cleared it.
/// * Ends are reckoned in microseconds and become timestamps only where they are to come: a client may send a year that PostgreSQL has
///   no timestamp for. They are whole seconds, so that the multiplication of the interval (in floating point) is exact.
pub(super) const SQL: &str = r#"
WITH instant AS MATERIALIZED (
  SELECT now, (extract(epoch FROM now) * 1000000)::bigint AS micros FROM (SELECT coalesce($1, clock_timestamp()) AS now) clock
), offered AS MATERIALIZED (
  SELECT p.ordinal, p.segment_id, p.user_id, s.id IS NULL AS unknown,
         coalesce(p.observed, i.micros) > i.micros + 300000000 AS ahead,
         e.due + mod($7 - mod(e.due, $7), $7) AS ends
    FROM unnest($2::bigint[], $3::text[], $4::bigint[], $5::bigint[]) WITH ORDINALITY AS p(segment_id, user_id, observed, ttl, ordinal)
    CROSS JOIN instant i
    LEFT JOIN "{base}".segment s ON s.id = p.segment_id
    CROSS JOIN LATERAL (SELECT coalesce(p.observed, i.micros) + coalesce(p.ttl, s.window_seconds, $6) * 1000000 AS due) e
), best AS MATERIALIZED (
  SELECT b.*, (SELECT k.expires_at FROM "{lane}".membership k WHERE k.segment_id = b.segment_id AND k.user_id = b.user_id) AS standing
    FROM (SELECT DISTINCT ON (o.segment_id, o.user_id COLLATE "C") o.segment_id, o.user_id COLLATE "C" AS user_id, o.ordinal,
                 timestamptz 'epoch' + interval '1 second' * (o.ends / 1000000) AS expires_at
            FROM offered o, instant i
           WHERE NOT o.unknown AND NOT o.ahead AND o.ends > i.micros
           ORDER BY o.segment_id, o.user_id COLLATE "C", o.ends DESC, o.ordinal) b
), changed AS (
  INSERT INTO "{lane}".membership AS m (segment_id, user_id, expires_at)
  SELECT b.segment_id, b.user_id, b.expires_at FROM best b
   WHERE b.standing IS NULL OR b.standing < b.expires_at
   ORDER BY b.segment_id, b.user_id
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
       array_agg((CASE WHEN o.ahead THEN 4
                       WHEN o.unknown THEN 5
                       WHEN o.ends <= i.micros THEN 3
                       WHEN b.ordinal <> o.ordinal OR c.segment_id IS NULL THEN 2
                       WHEN c.prev_expires_at > i.now THEN 1
                       ELSE 0 END)::smallint ORDER BY o.ordinal),
       array_agg(coalesce((extract(epoch FROM greatest(b.expires_at, b.standing)) * 1000000)::bigint, o.ends) ORDER BY o.ordinal)
  FROM offered o
  CROSS JOIN instant i
  LEFT JOIN best b ON b.segment_id = o.segment_id AND b.user_id = o.user_id COLLATE "C" AND NOT o.ahead AND o.ends > i.micros
  LEFT JOIN changed c ON c.segment_id = b.segment_id AND c.user_id = b.user_id
"#;

impl PostgresLedger {
    pub(super) async fn record_batch(&self, pairs: &[Pair]) -> Result<Recorded, LedgerError> {
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
        let (now, codes, ends): (i64, Vec<i16>, Vec<i64>) = sqlx::query_as(self.sql.record.clone())
            .bind(self.clock())
            .bind(&ids)
            .bind(&users)
            .bind(&observed)
            .bind(&windows)
            .bind(self.settings.rules.window().seconds())
            .bind(self.settings.rules.resolution().seconds() * 1_000_000)
            .bind(self.settle_micros() / 2)
            .fetch_one(&self.pool)
            .await?;
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
