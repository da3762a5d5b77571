//! The one statement that records a batch in a lane.

use std::collections::{BTreeMap, BTreeSet};

use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};
use futures_util::future::try_join_all;
use sqlx::FromRow;

use super::lanes::Lane;
use super::session::{ANSWER, over_kept};
use super::{PostgresLedger, counters, timestamp};
use crate::counting::{Outcome, Pair, Refusal, SegmentId, Window};
use crate::ledger::{LedgerError, Recorded, Recording};

/// How often pairs are sent that met another writer, or a segment that was deleted under them. Each time somebody else came further.
const TRIES: u32 = 10;

/// What the ledger says of a pair before it is weighed against others.
mod verdict {
    pub(super) const VALID: i16 = 0;
    pub(super) const EXPIRED: i16 = 1;
    pub(super) const AHEAD: i16 = 2;
    pub(super) const UNKNOWN_SEGMENT: i16 = 3;
    pub(super) const REMOVED: i16 = 4;
    pub(super) const ERASED: i16 = 5;
}

/// Records a batch: memberships first, sorted by key; then their counters ([`counters::MOVED`]): the lock order of every writer.
///
/// `$1` clock, `$2` segment ids, `$3` users, `$4` observed at (µs or null: now), `$5` own windows (s or null), `$6` the counter's window (s),
/// `$7` resolution (µs), `$8` settle / 2 (µs), `$9` the longest window (s).
///
/// * The look at what stands (`standing`) leaves out what would change nothing: even an upsert whose WHERE is false locks the row and writes WAL.
///   `LIMIT 1` keeps it a look-up by key for each pair: pulled up into a join, it would be planned once for batches of every size.
/// * `OFFSET 0` keeps the look at the segment one for each pair: flattened, it is done again wherever its result stands.
/// * A tombstone is the membership's own row. What the snapshot saw of it is judged in `judged`; the upsert judges again what has changed since,
///   under the row's lock. A pair without an instant is observed now, so after every removal that stands there.
/// * `prev_expires_at` is the old value as it was under the row's lock, which the snapshot may not have seen.
/// * A bucket that ended before now - settle / 2 is left alone: the sweeper may have cleared it.
/// * Ends are reckoned in microseconds and become timestamps only where they are to come: a client may send a year that PostgreSQL has
///   no timestamp for. They are whole seconds, so that the multiplication of the interval (in floating point) is exact.
/// * What moved comes back as rows of its own: who asked lays it beside what was sent.
const SQL: &str = r#"
WITH instant AS MATERIALIZED (
  SELECT now, (extract(epoch FROM now) * 1000000)::bigint AS micros FROM (SELECT coalesce($1, clock_timestamp()) AS now) clock
), offered AS MATERIALIZED (
  SELECT p.ordinal, p.segment_id, p.user_id COLLATE "C" AS user_id, p.observed, p.own, e.due + mod($7 - mod(e.due, $7), $7) AS ends,
         CASE WHEN coalesce(p.observed, i.micros) > i.micros + 300000000 THEN 2
              WHEN p.own IS NULL THEN 3
              WHEN e.due + mod($7 - mod(e.due, $7), $7) <= i.micros THEN 1
              WHEN (SELECT EXISTS (SELECT FROM "{base}".suppression)) AND EXISTS (
                     SELECT FROM "{base}".suppression x
                      WHERE x.user_hash = sha256((SELECT key FROM "{base}".suppression_key) || convert_to(p.user_id, 'UTF8'))
                        AND x.suppressed_until > i.now
                        AND (x.erased_at IS NULL OR p.observed <= (extract(epoch FROM x.erased_at) * 1000000)::bigint)) THEN 5
              ELSE 0 END AS verdict
    FROM (SELECT u.*, (SELECT coalesce(s.window_seconds, 0) FROM "{base}".segment s WHERE s.id = u.segment_id AND s.lane = {number}) AS own
            FROM unnest($2::bigint[], $3::text[], $4::bigint[], $5::bigint[])
                 WITH ORDINALITY AS u(segment_id, user_id, observed, ttl, ordinal)
          OFFSET 0) p
   CROSS JOIN instant i
   CROSS JOIN LATERAL (SELECT coalesce(p.observed, i.micros) + least(coalesce(p.ttl, nullif(p.own, 0), $6), $9) * 1000000 AS due) e
), judged AS MATERIALIZED (
  SELECT o.ordinal, o.segment_id, o.user_id, o.observed, o.own, o.ends, k.expires_at AS standing, k.removed_at,
         CASE WHEN o.verdict = 0 AND o.observed <= (extract(epoch FROM k.removed_at) * 1000000)::bigint THEN 4 ELSE o.verdict END AS verdict,
         CASE WHEN o.verdict = 0 THEN timestamptz 'epoch' + interval '1 second' * (o.ends / 1000000) END AS expires_at
    FROM offered o
    LEFT JOIN LATERAL (SELECT m.expires_at, m.removed_at FROM "{lane}".membership m
                        WHERE o.verdict = 0 AND m.segment_id = o.segment_id AND m.user_id = o.user_id LIMIT 1) k ON true
), best AS MATERIALIZED (
  {best}
), changed AS (
  INSERT INTO "{lane}".membership AS m (segment_id, user_id, expires_at)
  SELECT b.segment_id, b.user_id, b.expires_at FROM best b
   WHERE b.standing IS NULL OR b.standing < b.expires_at
   ORDER BY b.segment_id, b.user_id
  ON CONFLICT (segment_id, user_id) DO UPDATE SET prev_expires_at = m.expires_at, expires_at = EXCLUDED.expires_at
   WHERE m.expires_at < EXCLUDED.expires_at
     AND (m.removed_at IS NULL
          OR (m.segment_id, m.user_id, m.removed_at) IN (
                SELECT b.segment_id, b.user_id, b.removed_at FROM best b WHERE b.removed_at IS NOT NULL)
          OR EXISTS (SELECT FROM best b
                      WHERE b.segment_id = m.segment_id AND b.user_id = m.user_id
                        AND (b.observed IS NULL OR b.observed > (extract(epoch FROM m.removed_at) * 1000000)::bigint)))
  RETURNING m.segment_id, m.user_id, m.expires_at, m.prev_expires_at
), delta AS MATERIALIZED (
  SELECT segment_id, expires_at, sum(d) AS d
    FROM (SELECT segment_id, expires_at, 1 AS d FROM changed
          UNION ALL
          SELECT c.segment_id, c.prev_expires_at, -1 FROM changed c, instant i
           WHERE c.prev_expires_at > i.now - $8 * interval '1 microsecond') moved
   GROUP BY segment_id, expires_at HAVING sum(d) <> 0
), {counters}, moved AS (
  SELECT array_agg(segment_id) AS segments, array_agg(user_id) AS users,
         array_agg((extract(epoch FROM prev_expires_at) * 1000000)::bigint) AS previous
    FROM changed
)
SELECT (SELECT micros FROM instant) AS now, (SELECT epoch FROM "{base}".removal_epoch) AS epoch, j.verdicts, j.own, j.ends, j.standing,
       coalesce(m.segments, '{}') AS moved_segments, coalesce(m.users, '{}') AS moved_users, coalesce(m.previous, '{}') AS moved_from
  FROM (SELECT array_agg(verdict::smallint ORDER BY ordinal) AS verdicts, array_agg(nullif(own, 0) ORDER BY ordinal) AS own,
               array_agg(ends ORDER BY ordinal) AS ends,
               array_agg((extract(epoch FROM standing) * 1000000)::bigint ORDER BY ordinal) AS standing
          FROM judged) j, moved m
"#;

/// Which pair of a (segment, user) is written where every one is named once.
const BEST_OF_DISTINCT: &str = "SELECT * FROM judged WHERE verdict = 0";
/// The same where some are named more than once: the one that ends last, of those the first.
const BEST_OF_MANY: &str = "SELECT DISTINCT ON (segment_id, user_id) * FROM judged WHERE verdict = 0
   ORDER BY segment_id, user_id, ends DESC, ordinal";

fn with(best: &str) -> String {
    SQL.replace("{best}", best).replace("{counters}", counters::MOVED)
}

/// The statement for batches that name each (segment, user) once.
pub(super) fn distinct() -> String {
    with(BEST_OF_DISTINCT)
}

/// The statement for any batch.
pub(super) fn any() -> String {
    with(BEST_OF_MANY)
}

/// What the statement answers.
#[derive(FromRow)]
struct Answer {
    /// Microseconds, as all instants here.
    now: i64,
    epoch: i64,
    verdicts: Vec<i16>,
    /// Seconds.
    own: Vec<Option<i64>>,
    ends: Vec<i64>,
    standing: Vec<Option<i64>>,
    moved_segments: Vec<i64>,
    moved_users: Vec<String>,
    moved_from: Vec<Option<i64>>,
}

/// Pairs on their way into a lane.
#[derive(Default)]
struct Batch<'a> {
    /// Where each stood in what was to be recorded.
    places: Vec<usize>,
    pairs: Vec<&'a Pair>,
    /// 0 is no segment's number: the statement answers that it is unknown.
    segments: Vec<i64>,
}

impl<'a> Batch<'a> {
    fn key(&self, index: usize) -> (i64, &'a str) {
        (self.segments[index], self.pairs[index].user.as_str())
    }

    fn names_each_once(&self) -> bool {
        let mut seen = HashSet::with_capacity(self.pairs.len());
        (0..self.pairs.len()).all(|index| seen.insert(self.key(index)))
    }
}

impl PostgresLedger {
    pub(super) async fn record_batch(&self, pairs: &[Pair]) -> Result<Recorded, LedgerError> {
        self.settings.admit(pairs.len())?;
        let mut recorded: Vec<Option<Recording>> = vec![None; pairs.len()];
        let mut windows = vec![None; pairs.len()];
        let mut changed = BTreeSet::new();
        let mut waiting: Vec<usize> = (0..pairs.len()).collect();
        let mut told = None;
        for _ in 0..TRIES {
            if waiting.is_empty() {
                break;
            }
            let mut again = Vec::new();
            for (batch, answer) in self.send_where_they_live(pairs, &waiting).await? {
                let (now, epoch) = told.unwrap_or((answer.now, answer.epoch));
                // What is known of all of them: the latest instant, and the oldest epoch.
                told = Some((now.max(answer.now), epoch.min(answer.epoch)));
                let judged = judge(&batch, &answer)?.into_iter().zip(&answer.own);
                for ((judged, own), index) in judged.zip(batch.places) {
                    match judged {
                        Judged::Done(recording, segment) => {
                            windows[index] = own.and_then(|seconds| Window::from_seconds(seconds).ok());
                            if recording.outcome == Outcome::Created {
                                changed.insert(segment);
                            }
                            recorded[index] = Some(recording);
                        }
                        Judged::Gone => {
                            self.ids.remove(&pairs[index].segment);
                            again.push(index);
                        }
                        Judged::Overtaken => again.push(index),
                    }
                }
            }
            again.sort_unstable();
            waiting = again;
        }
        if !waiting.is_empty() {
            return Err(LedgerError::Timeout(format!(
                "{} pairs met other writers {TRIES} times",
                waiting.len()
            )));
        }
        let (at, epoch) = match told {
            Some((now, epoch)) => (timestamp(now)?, epoch),
            None => (crate::ledger::Ledger::now(self).await?, 0),
        };
        Ok(Recorded {
            at,
            epoch,
            pairs: recorded.into_iter().flatten().collect(),
            windows,
            changed: changed.into_iter().collect(),
        })
    }

    /// Sends what waits, a statement for each lane, all at once.
    async fn send_where_they_live<'a>(
        &self,
        pairs: &'a [Pair],
        waiting: &[usize],
    ) -> Result<Vec<(Batch<'a>, Answer)>, LedgerError> {
        let asked: Vec<&Pair> = waiting.iter().map(|index| &pairs[*index]).collect();
        let homes = self.segments_of(&asked).await?;
        let mut by_lane: BTreeMap<i32, Batch<'a>> = BTreeMap::new();
        for ((pair, home), place) in asked.into_iter().zip(homes).zip(waiting) {
            let batch = by_lane.entry(home.map_or(0, |home| home.lane)).or_default();
            batch.places.push(*place);
            batch.pairs.push(pair);
            batch.segments.push(home.map_or(0, |home| home.id.0));
        }
        let sent = by_lane.into_iter().map(|(lane, batch)| async move {
            let answer = self.send(&*self.lane(lane).await?, &batch).await?;
            Ok::<_, LedgerError>((batch, answer))
        });
        try_join_all(sent).await
    }

    async fn send(&self, lane: &Lane, batch: &Batch<'_>) -> Result<Answer, LedgerError> {
        let users: Vec<&str> = batch.pairs.iter().map(|pair| pair.user.as_str()).collect();
        let observed: Vec<Option<i64>> = batch.pairs.iter().map(|pair| pair.observed_micros()).collect();
        let windows: Vec<Option<i64>> = batch.pairs.iter().map(|pair| pair.ttl.map(Window::seconds)).collect();
        let statement = if batch.names_each_once() {
            &lane.record_distinct
        } else {
            &lane.record_any
        };
        let rules = &self.settings.rules;
        let recording = sqlx::query_as(statement.clone())
            .bind(self.clock())
            .bind(&batch.segments)
            .bind(&users)
            .bind(&observed)
            .bind(&windows)
            .bind(rules.window().seconds())
            .bind(rules.resolution().seconds() * 1_000_000)
            .bind(self.settle_micros() / 2)
            .bind(rules.max_ttl().seconds());
        over_kept!(self, ANSWER, session => recording.fetch_one(&mut *session))
    }
}

/// What became of a pair in one try.
enum Judged {
    /// It is recorded, in this segment.
    Done(Recording, SegmentId),
    /// Its segment was deleted, or moved to another lane, since it was learnt where it lives.
    Gone,
    /// Another writer changed the row between the snapshot and the lock, so that the pair was not written: what stands now is to be seen by a
    /// new snapshot only.
    Overtaken,
}

/// Lays what moved beside what was sent.
fn judge(batch: &Batch<'_>, answer: &Answer) -> Result<Vec<Judged>, LedgerError> {
    let sent = batch.pairs.len();
    if [
        answer.verdicts.len(),
        answer.own.len(),
        answer.ends.len(),
        answer.standing.len(),
    ] != [sent; 4]
    {
        let answered = answer.verdicts.len();
        return Err(LedgerError::Internal(format!(
            "{sent} pairs were sent and {answered} answered"
        )));
    }
    let moved: HashMap<(i64, &str), Option<i64>> = answer
        .moved_segments
        .iter()
        .zip(&answer.moved_users)
        .zip(&answer.moved_from)
        .map(|((segment, user), from)| ((*segment, user.as_str()), *from))
        .collect();
    let mut best: HashMap<(i64, &str), usize> = HashMap::with_capacity(sent);
    for index in (0..sent).filter(|index| answer.verdicts[*index] == verdict::VALID) {
        let first = best.entry(batch.key(index)).or_insert(index);
        if answer.ends[index] > answer.ends[*first] {
            *first = index;
        }
    }
    let mut judged = Vec::with_capacity(sent);
    for index in 0..sent {
        let end = answer.ends[index];
        let done = |outcome, end: Option<i64>| {
            let recording = Recording {
                outcome,
                expires_at: end.map(timestamp).transpose()?,
            };
            Ok::<_, LedgerError>(Judged::Done(recording, SegmentId(batch.segments[index])))
        };
        judged.push(match answer.verdicts[index] {
            verdict::VALID => {
                let key = batch.key(index);
                let best = best[&key];
                match (moved.get(&key), answer.standing[index]) {
                    (Some(_), _) if index != best => done(Outcome::Unchanged, Some(answer.ends[best]))?,
                    (Some(Some(from)), _) if *from > answer.now => done(Outcome::Renewed, Some(end))?,
                    (Some(_), _) => done(Outcome::Created, Some(end))?,
                    (None, Some(standing)) if standing >= answer.ends[best] => {
                        done(Outcome::Unchanged, Some(standing))?
                    }
                    (None, _) => Judged::Overtaken,
                }
            }
            verdict::EXPIRED => done(Outcome::Expired, Some(end))?,
            verdict::AHEAD => done(Outcome::Refused(Refusal::ObservedInFuture), None)?,
            verdict::REMOVED => done(Outcome::Removed, None)?,
            verdict::ERASED => done(Outcome::Erased, None)?,
            verdict::UNKNOWN_SEGMENT if batch.segments[index] != 0 => Judged::Gone,
            _ => done(Outcome::Refused(Refusal::SegmentLimit), None)?,
        });
    }
    Ok(judged)
}
