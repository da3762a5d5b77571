//! Segments: looked up, remembered, created before the batch that needs them, listed with their counts.

use std::collections::{BTreeMap, HashMap};

use sqlx::{Connection, FromRow};

use super::count::{INSTANT, MEMBERS};
use super::session::{ANSWER, over};
use super::{PostgresLedger, timestamp};
use crate::counting::{Pair, SegmentId, SegmentName, Window};
use crate::ledger::{LedgerError, NewSegment, PutSegment, SegmentInfo, SegmentPage};

/// `$1` names.
pub(super) const RESOLVE: &str = r#"SELECT name, id FROM "{base}".segment WHERE name = ANY($1::text[])"#;

/// Serialises the creation of segments by pairs, so that their limit is exact; creation is rare.
const CREATION_LOCK: i64 = 0x5e67_c003;

/// Creates the segments that pairs name, in byte order, as many as the limit leaves room for, and none that only pairs from the future name.
///
/// `$1` clock, `$2` names, `$3` the earliest observation of each (µs, null: now), `$4` the limit.
const CREATE: &str = r#"
INSERT INTO "{base}".segment (name, from_pair, created_at)
SELECT n.name, true, i.now
  FROM unnest($2::text[], $3::bigint[]) AS n(name, observed),
       (SELECT coalesce($1, clock_timestamp()) AS now) i
 WHERE n.observed IS NULL OR n.observed <= (extract(epoch FROM i.now) * 1000000)::bigint + 300000000
 ORDER BY n.name COLLATE "C"
 LIMIT greatest($4 - (SELECT count(*) FROM "{base}".segment WHERE from_pair), 0)
ON CONFLICT (name) DO NOTHING
"#;

#[derive(FromRow)]
struct Row {
    at: i64,
    id: i64,
    name: String,
    window_seconds: Option<i64>,
    description: Option<String>,
    created: i64,
    members: i64,
}

impl Row {
    fn into_info(self) -> Result<SegmentInfo, LedgerError> {
        let defect = |what: &str| LedgerError::Internal(format!("segment {}: its {what} breaks the rules", self.id));
        Ok(SegmentInfo {
            id: SegmentId(self.id),
            window: self
                .window_seconds
                .map(Window::from_seconds)
                .transpose()
                .map_err(|_| defect("window"))?,
            created_at: timestamp(self.created)?,
            members: self.members,
            name: SegmentName::new(self.name.as_str()).map_err(|_| defect("name"))?,
            description: self.description,
        })
    }
}

impl PostgresLedger {
    /// The segment of each pair, created where a valid pair names it first; `None`: only refused pairs name it, or the limit is reached.
    pub(super) async fn segments_of(&self, pairs: &[Pair]) -> Result<Vec<Option<SegmentId>>, LedgerError> {
        let mut found: Vec<Option<SegmentId>> = pairs.iter().map(|pair| self.ids.get(&pair.segment)).collect();
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
        let mut numbers = self.look_up(&names).await?;
        absent.retain(|name, _| !numbers.contains_key(name.as_str()));
        if !absent.is_empty() {
            self.create(&absent).await?;
            let names: Vec<&SegmentName> = absent.keys().copied().collect();
            numbers.extend(self.look_up(&names).await?);
        }
        for (pair, id) in pairs.iter().zip(&mut found).filter(|(_, id)| id.is_none()) {
            *id = numbers.get(pair.segment.as_str()).copied();
        }
        Ok(found)
    }

    async fn create(&self, absent: &BTreeMap<&SegmentName, Option<i64>>) -> Result<(), LedgerError> {
        let names: Vec<&str> = absent.keys().map(|name| name.as_str()).collect();
        let observed: Vec<Option<i64>> = absent.values().copied().collect();
        over!(self, ANSWER, session => async {
            let mut transaction = session.begin().await?;
            // A statement of its own: the next one's snapshot must see what the holder before us created.
            sqlx::query("SELECT pg_advisory_xact_lock($1)")
                .bind(CREATION_LOCK)
                .execute(&mut *transaction)
                .await?;
            sqlx::query(self.sql(CREATE))
                .bind(self.clock())
                .bind(&names)
                .bind(&observed)
                .bind(self.settings.max_segments_from_pairs)
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await
        })
    }

    async fn look_up(&self, names: &[&SegmentName]) -> Result<HashMap<String, SegmentId>, LedgerError> {
        let texts: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
        let resolving = sqlx::query_as(self.sql.resolve.clone()).bind(&texts);
        let rows: Vec<(String, i64)> = over!(self, ANSWER, session => resolving.fetch_all(&mut *session))?;
        let found: HashMap<String, SegmentId> = rows.into_iter().map(|(name, id)| (name, SegmentId(id))).collect();
        for name in names {
            if let Some(&id) = found.get(name.as_str()) {
                self.ids.insert((*name).clone(), id);
            }
        }
        Ok(found)
    }

    pub(super) async fn resolve_names(&self, names: &[SegmentName]) -> Result<Vec<Option<SegmentId>>, LedgerError> {
        let mut found: Vec<Option<SegmentId>> = names.iter().map(|name| self.ids.get(name)).collect();
        let absent: Vec<&SegmentName> = names
            .iter()
            .zip(&found)
            .filter(|(_, id)| id.is_none())
            .map(|(name, _)| name)
            .collect();
        if absent.is_empty() {
            return Ok(found);
        }
        let numbers = self.look_up(&absent).await?;
        for (name, id) in names.iter().zip(&mut found).filter(|(_, id)| id.is_none()) {
            *id = numbers.get(name.as_str()).copied();
        }
        Ok(found)
    }

    pub(super) async fn upsert_segment(&self, segment: &NewSegment) -> Result<PutSegment, LedgerError> {
        // xmax is 0 exactly in a row that this statement inserted.
        let putting = sqlx::query_scalar(self.sql(
            r#"INSERT INTO "{base}".segment AS s (name, window_seconds, description, from_pair, created_at)
               VALUES ($2, $3, $4, false, coalesce($1, clock_timestamp()))
               ON CONFLICT (name) DO UPDATE SET window_seconds = EXCLUDED.window_seconds, description = EXCLUDED.description
               RETURNING xmax = 0"#,
        ))
        .bind(self.clock())
        .bind(segment.name.as_str())
        .bind(segment.window.map(Window::seconds))
        .bind(segment.description.as_deref());
        let created: bool = over!(self, ANSWER, session => putting.fetch_one(&mut *session))?;
        match self.one_segment(&segment.name).await? {
            Some(segment) => Ok(PutSegment { created, segment }),
            None => Err(LedgerError::Internal(
                "a segment vanished right after it was put".to_owned(),
            )),
        }
    }

    pub(super) async fn one_segment(&self, name: &SegmentName) -> Result<Option<SegmentInfo>, LedgerError> {
        let finding = sqlx::query_as(self.sql(&select("s.name = $2", "")))
            .bind(self.clock())
            .bind(name.as_str());
        let row: Option<Row> = over!(self, ANSWER, session => finding.fetch_optional(&mut *session))?;
        row.map(Row::into_info).transpose()
    }

    pub(super) async fn page_of_segments(
        &self,
        after: Option<&SegmentName>,
        limit: u32,
    ) -> Result<SegmentPage, LedgerError> {
        // One more than asked for tells whether there is a next page. The empty string sorts before every name.
        let listing = sqlx::query_as(self.sql(&select("s.name > $2", "ORDER BY s.name LIMIT $3")))
            .bind(self.clock())
            .bind(after.map_or("", SegmentName::as_str))
            .bind(i64::from(limit) + 1);
        let mut rows: Vec<Row> = over!(self, ANSWER, session => listing.fetch_all(&mut *session))?;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = rows.len() > limit;
        rows.truncate(limit);
        let as_of = match rows.first() {
            Some(row) => timestamp(row.at)?,
            None => crate::ledger::Ledger::now(self).await?,
        };
        let segments = rows.into_iter().map(Row::into_info).collect::<Result<_, _>>()?;
        Ok(SegmentPage { as_of, segments, more })
    }
}

fn select(condition: &str, tail: &str) -> String {
    format!(
        "WITH {INSTANT}
         SELECT i.micros AS at, s.id, s.name, s.window_seconds, s.description,
                (extract(epoch FROM s.created_at) * 1000000)::bigint AS created, {MEMBERS} AS members
           FROM \"{{base}}\".segment s, instant i
          WHERE {condition} {tail}"
    )
}
