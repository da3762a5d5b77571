//! Segments: looked up, remembered, created before the batch that needs them, listed with their counts.

use std::collections::{BTreeMap, HashMap};

use sqlx::{Connection, FromRow, PgConnection};

use super::connect::{is_standby, not_of_a_standby};
use super::lanes::Home;
use super::session::{ANSWER, over};
use super::{PostgresLedger, timestamp};
use crate::counting::{Pair, SegmentId, SegmentName, Window};
use crate::ledger::{LedgerError, NewSegment, PutSegment, SegmentInfo, SegmentPage};

/// `$1` names. A standby, which may lack one that was just made, says so by a segment that has no name.
pub(super) const RESOLVE: &str = r#"
SELECT name, id, lane FROM "{base}".segment WHERE name = ANY($1::text[])
UNION ALL
SELECT '', 0, 0 WHERE pg_is_in_recovery()
"#;

/// Serialises the creation of segments, so that the limit on those by pairs is exact, and their numbers differ; creation is rare.
const CREATION_LOCK: i64 = 0x5e67_c003;
/// How often a segment is put that is deleted meanwhile.
const TRIES: u32 = 4;

/// Creates the segments that pairs name, in byte order, as many as the limit leaves room for, and none that only pairs from the future name.
///
/// They are dealt out to the lanes in turn, beginning with the one that has the fewest. Where there is one lane, nothing is counted for it.
///
/// Their numbers are the clock's, told apart by their places, and not a sequence's: no number is given twice, though a failover lose the last segments, and
/// a backup that is restored many, while there are processes that remember which number had which name.
///
/// `$1` clock, `$2` names that were absent a moment ago, `$3` the earliest observation of each (µs, null: now), `$4` the limit. Answers every one
/// that there is now: the others are refused, whatever is made or deleted meanwhile.
const CREATE: &str = r#"
WITH lanes AS MATERIALIZED (
  SELECT number, row_number() OVER (ORDER BY segments, number) - 1 AS turn, count(*) OVER () AS lanes
    FROM (SELECT l.number, CASE WHEN EXISTS (SELECT FROM "{base}".lane WHERE number > 0) THEN (SELECT count(*) FROM "{base}".segment s WHERE s.lane = l.number) END AS segments
            FROM "{base}".lane l) l
), new AS MATERIALIZED (
  SELECT n.name, i.now, row_number() OVER (ORDER BY n.name COLLATE "C") - 1 AS ordinal
    FROM unnest($2::text[], $3::bigint[]) AS n(name, observed),
         (SELECT coalesce($1, clock_timestamp()) AS now) i
   WHERE n.observed IS NULL OR n.observed <= (extract(epoch FROM i.now) * 1000000)::bigint + 300000000
)
INSERT INTO "{base}".segment (id, name, lane, from_pair, created_at) OVERRIDING SYSTEM VALUE
SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 1024 + mod(n.ordinal, 1023), n.name, l.number, true, n.now
  FROM new n JOIN lanes l ON l.turn = mod(n.ordinal, l.lanes)
 ORDER BY n.ordinal
 LIMIT greatest($4 - (SELECT count(*) FROM "{base}".segment WHERE from_pair), 0)
ON CONFLICT (name) DO UPDATE SET name = EXCLUDED.name
RETURNING name, id, lane
"#;

/// `$1` clock, `$2` name, `$3` window (s or null), `$4` description. Numbered as those of [`CREATE`], of which none has this one's place. xmax is 0 exactly in a row that this statement inserted.
pub(super) const PUT: &str = r#"
INSERT INTO "{base}".segment AS s (id, name, lane, window_seconds, description, from_pair, created_at) OVERRIDING SYSTEM VALUE
VALUES ((extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 1024 + 1023, $2,
        CASE WHEN EXISTS (SELECT FROM "{base}".segment o WHERE o.name = $2) THEN 0
                 ELSE (SELECT l.number FROM "{base}".lane l
                        ORDER BY CASE WHEN EXISTS (SELECT FROM "{base}".lane WHERE number > 0) THEN (SELECT count(*) FROM "{base}".segment o WHERE o.lane = l.number) END, l.number LIMIT 1) END,
        $3, $4, false, coalesce($1, clock_timestamp()))
ON CONFLICT (name) DO UPDATE SET window_seconds = EXCLUDED.window_seconds, description = EXCLUDED.description
RETURNING xmax = 0
"#;

/// A segment's name and number, and its lane.
type Located = (String, i64, i32);

#[derive(FromRow)]
struct Row {
    id: i64,
    name: String,
    window_seconds: Option<i64>,
    description: Option<String>,
    created: i64,
    standby: bool,
}

impl Row {
    fn into_info(self, members: i64) -> Result<SegmentInfo, LedgerError> {
        let defect = |what: &str| LedgerError::Internal(format!("segment {}: its {what} breaks the rules", self.id));
        Ok(SegmentInfo {
            id: SegmentId(self.id),
            window: self
                .window_seconds
                .map(Window::from_seconds)
                .transpose()
                .map_err(|_| defect("window"))?,
            created_at: timestamp(self.created)?,
            members,
            name: SegmentName::new(self.name.as_str()).map_err(|_| defect("name"))?,
            description: self.description,
        })
    }
}

impl PostgresLedger {
    /// Where the segment of each pair lives, created where a valid pair names it first; `None`: only refused pairs name it, or the limit is reached.
    pub(super) async fn segments_of(&self, pairs: &[&Pair]) -> Result<Vec<Option<Home>>, LedgerError> {
        let mut found: Vec<Option<Home>> = pairs.iter().map(|pair| self.ids.get(&pair.segment)).collect();
        let mut absent: BTreeMap<&SegmentName, Option<i64>> = BTreeMap::new();
        for (pair, _) in pairs.iter().zip(&found).filter(|(_, id)| id.is_none()) {
            let observed = pair.observed_micros();
            absent
                .entry(&pair.segment)
                .and_modify(|earliest| *earliest = earliest.zip(observed).map(|(a, b)| a.min(b)))
                .or_insert(observed);
        }
        if absent.is_empty() {
            return Ok(found);
        }
        let names: Vec<&SegmentName> = absent.keys().copied().collect();
        let mut homes = self.look_up(&names).await?;
        absent.retain(|name, _| !homes.contains_key(name.as_str()));
        if !absent.is_empty() {
            homes.extend(self.create(absent).await?);
        }
        for (pair, id) in pairs.iter().zip(&mut found).filter(|(_, id)| id.is_none()) {
            *id = homes.get(pair.segment.as_str()).copied();
        }
        Ok(found)
    }

    async fn create(
        &self,
        mut absent: BTreeMap<&SegmentName, Option<i64>>,
    ) -> Result<HashMap<String, Home>, LedgerError> {
        // Where Citus distributes them, sessions are set otherwise from here on.
        self.all_lanes().await?;
        let asked: Vec<&SegmentName> = absent.keys().copied().collect();
        let names: Vec<&str> = asked.iter().map(|name| name.as_str()).collect();
        let mut rows: Vec<Located> = Vec::new();
        over!(self, ANSWER, session => async {
            let mut transaction = session.begin().await?;
            self.alone(&mut transaction).await?;
            rows = sqlx::query_as(self.resolve.clone()).bind(&names).fetch_all(&mut *transaction).await?;
            absent.retain(|name, _| rows.iter().all(|(known, ..)| known != name.as_str()));
            let (names, observed): (Vec<&str>, Vec<Option<i64>>) =
                absent.iter().map(|(name, observed)| (name.as_str(), *observed)).unzip();
            let creating = sqlx::query_as(self.sql(CREATE))
                .bind(self.clock())
                .bind(names)
                .bind(observed)
                .bind(self.settings.max_segments_from_pairs);
            rows.extend(creating.fetch_all(&mut *transaction).await?);
            transaction.commit().await
        })?;
        Ok(self.learn(&asked, rows))
    }

    pub(super) async fn look_up(&self, names: &[&SegmentName]) -> Result<HashMap<String, Home>, LedgerError> {
        let texts: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
        let resolving = sqlx::query_as(self.resolve.clone()).bind(&texts);
        let rows: Vec<Located> = over!(self, ANSWER, session => async {
            let rows: Vec<Located> = resolving.fetch_all(&mut *session).await?;
            not_of_a_standby(rows.iter().any(|(name, ..)| name.is_empty()))?;
            Ok::<_, LedgerError>(rows)
        })?;
        Ok(self.learn(names, rows))
    }

    /// Remembers where segments live, and which of those asked for are none.
    fn learn(&self, names: &[&SegmentName], rows: Vec<Located>) -> HashMap<String, Home> {
        let home = |(name, id, lane)| {
            let id = SegmentId(id);
            (name, Home { id, lane })
        };
        let found: HashMap<String, Home> = rows.into_iter().map(home).collect();
        for name in names {
            match found.get(name.as_str()) {
                Some(&home) => {
                    self.homes.insert(home.id, home.lane);
                    self.ids.insert((*name).clone(), home);
                }
                None => {
                    self.ids.remove(*name);
                }
            }
        }
        found
    }

    /// Asks every time: who counts remembers numbers too, and comes here to learn whether they still stand.
    pub(super) async fn resolve_names(&self, names: &[SegmentName]) -> Result<Vec<Option<SegmentId>>, LedgerError> {
        let asked: Vec<&SegmentName> = names.iter().collect();
        let homes = self.look_up(&asked).await?;
        Ok(names
            .iter()
            .map(|name| homes.get(name.as_str()).map(|home| home.id))
            .collect())
    }

    pub(super) async fn upsert_segment(&self, segment: &NewSegment) -> Result<PutSegment, LedgerError> {
        for _ in 0..TRIES {
            let created = self.put_once(segment).await?;
            // Who deletes it in between came after the first put, and before the second.
            if let Some(segment) = self.one_segment(&segment.name).await? {
                return Ok(PutSegment { created, segment });
            }
        }
        Err(LedgerError::Timeout(
            "the segment was deleted each time that it was put".to_owned(),
        ))
    }

    /// Whether there was none.
    async fn put_once(&self, segment: &NewSegment) -> Result<bool, LedgerError> {
        let putting = sqlx::query_scalar(self.all_lanes().await?.put_segment.clone())
            .bind(self.clock())
            .bind(segment.name.as_str())
            .bind(segment.window.map(Window::seconds))
            .bind(segment.description.as_deref());
        over!(self, ANSWER, session => async {
            let mut transaction = session.begin().await?;
            // Two that come at once must not be numbered by one microsecond.
            self.alone(&mut transaction).await?;
            let created: bool = putting.fetch_one(&mut *transaction).await?;
            // A pair that was known to change nothing may change something by another window.
            self.raise_epoch(&mut transaction).await?;
            transaction.commit().await?;
            Ok::<_, LedgerError>(created)
        })
    }

    /// Citus writes the copies of a small table one after another, each by a snapshot of its own: of a segment that is made and deleted at once, one
    /// machine would keep what another has deleted. So there one waits for the other, in a statement of its own: the next one's snapshots are younger.
    async fn alone_where_distributed(&self, session: &mut PgConnection) -> Result<(), LedgerError> {
        if self.all_lanes().await?.distributed {
            self.alone(session).await?;
        }
        Ok(())
    }

    /// Makes or deletes segments while nobody else does, until the end of the transaction. A statement of its own: the next one's snapshot must see what
    /// the holder before us did.
    async fn alone(&self, session: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::query("SELECT pg_advisory_xact_lock($1)")
            .bind(CREATION_LOCK)
            .execute(session)
            .await?;
        Ok(())
    }

    /// The name is free from the commit on; the rows are cleared away later, by [`PostgresLedger::clear_deleted`].
    pub(super) async fn mark_deleted(&self, name: &SegmentName) -> Result<Option<SegmentId>, LedgerError> {
        self.all_lanes().await?;
        let deleting = sqlx::query_scalar(self.sql(
            r#"WITH gone AS (
                 DELETE FROM "{base}".segment WHERE name = $2 RETURNING id, lane
               )
               INSERT INTO "{base}".segment_deleted AS d (id, lane, deleted_at)
               SELECT g.id, l.number, coalesce($1, clock_timestamp()) FROM gone g, "{base}".lane l
               ON CONFLICT (id, lane) DO UPDATE SET moved = false, deleted_at = EXCLUDED.deleted_at
               RETURNING id"#,
        ))
        .bind(self.clock())
        .bind(name.as_str());
        let id: Option<i64> = over!(self, ANSWER, session => async {
            let mut transaction = session.begin().await?;
            self.alone_where_distributed(&mut transaction).await?;
            let id = deleting.fetch_optional(&mut *transaction).await?;
            if id.is_some() {
                self.raise_epoch(&mut transaction).await?;
            }
            transaction.commit().await?;
            Ok::<_, LedgerError>(id)
        })?;
        self.ids.remove(name);
        Ok(id.map(SegmentId))
    }

    pub(super) async fn one_segment(&self, name: &SegmentName) -> Result<Option<SegmentInfo>, LedgerError> {
        let finding = sqlx::query_as(self.sql(&select("s.name = $1", ""))).bind(name.as_str());
        let mut rows = over!(self, ANSWER, session => async {
            let rows = finding.fetch_all(&mut *session).await?;
            of_the_primary(rows, &mut session).await
        })?;
        let Some(row) = rows.pop() else { return Ok(None) };
        let count = self.count_segments(&[SegmentId(row.id)]).await?;
        match count.first() {
            Some(count) if count.exists => row.into_info(count.members).map(Some),
            _ => Ok(None),
        }
    }

    pub(super) async fn page_of_segments(
        &self,
        after: Option<&SegmentName>,
        limit: u32,
    ) -> Result<SegmentPage, LedgerError> {
        // One more than asked for tells whether there is a next page. The empty string sorts before every name.
        let listing = sqlx::query_as(self.sql(&select("s.name > $1", "ORDER BY s.name LIMIT $2")))
            .bind(after.map_or("", SegmentName::as_str))
            .bind(i64::from(limit) + 1);
        let mut rows = over!(self, ANSWER, session => async {
            let rows = listing.fetch_all(&mut *session).await?;
            of_the_primary(rows, &mut session).await
        })?;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = rows.len() > limit;
        rows.truncate(limit);
        let ids: Vec<SegmentId> = rows.iter().map(|row| SegmentId(row.id)).collect();
        let counts = self.count_segments(&ids).await?;
        let as_of = match counts.iter().map(|count| count.as_of).min() {
            Some(at) => at,
            None => crate::ledger::Ledger::now(self).await?,
        };
        let standing = rows.into_iter().zip(counts).filter(|(_, count)| count.exists);
        let segments = standing
            .map(|(row, count)| row.into_info(count.members))
            .collect::<Result<_, _>>()?;
        Ok(SegmentPage { as_of, segments, more })
    }
}

/// Rows, or none, if they do not come from a standby.
async fn of_the_primary(rows: Vec<Row>, session: &mut PgConnection) -> Result<Vec<Row>, LedgerError> {
    let standby = match rows.first() {
        Some(row) => row.standby,
        None => is_standby(session).await?,
    };
    not_of_a_standby(standby)?;
    Ok(rows)
}

fn select(condition: &str, tail: &str) -> String {
    format!(
        "SELECT s.id, s.name, s.window_seconds, s.description, (extract(epoch FROM s.created_at) * 1000000)::bigint AS created, pg_is_in_recovery() AS standby
           FROM \"{{base}}\".segment s WHERE {condition} {tail}"
    )
}
