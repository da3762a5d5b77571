//! Segments: looked up, created in the batch that needs them, listed with their counts.

use std::collections::{BTreeMap, HashMap};

use sqlx::{FromRow, SqliteConnection, SqliteExecutor};

use super::count::{MEMBERS, instant};
use super::{NOW, SqliteLedger, json, text, timestamp};
use crate::counting::{Pair, SegmentId, SegmentName, Window, is_too_far_ahead};
use crate::ledger::{LedgerError, NewSegment, PutSegment, SegmentInfo, SegmentPage};

#[derive(FromRow)]
struct Row {
    at: i64,
    id: i64,
    name: String,
    window_seconds: Option<i64>,
    description: Option<String>,
    created_at: i64,
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
            created_at: timestamp(self.created_at)?,
            members: self.members,
            name: SegmentName::new(self.name.as_str()).map_err(|_| defect("name"))?,
            description: self.description,
        })
    }
}

/// Number and own window of segments by name.
pub(super) type Found<'a> = HashMap<&'a str, (i64, Option<i64>)>;

pub(super) async fn look_up<'a>(
    names: impl Iterator<Item = &'a str>,
    session: &mut SqliteConnection,
) -> Result<Found<'a>, LedgerError> {
    let wanted: BTreeMap<&str, ()> = names.map(|name| (name, ())).collect();
    let list: Vec<&&str> = wanted.keys().collect();
    let rows: Vec<(String, i64, Option<i64>)> =
        sqlx::query_as("SELECT s.name, s.id, s.window_seconds FROM json_each(?1) e JOIN segment s ON s.name = e.value")
            .bind(json(&list)?)
            .fetch_all(session)
            .await?;
    Ok(rows
        .into_iter()
        .filter_map(|(name, id, window)| Some((*wanted.get_key_value(name.as_str())?.0, (id, window))))
        .collect())
}

impl SqliteLedger {
    /// The segment of each name, created where a valid pair names it first and the limit leaves room.
    pub(super) async fn segments_of<'a>(
        &self,
        pairs: &'a [Pair],
        now: i64,
        session: &mut SqliteConnection,
    ) -> Result<Found<'a>, LedgerError> {
        let mut found = look_up(pairs.iter().map(|pair| pair.segment.as_str()), &mut *session).await?;
        let absent: BTreeMap<&str, ()> = pairs
            .iter()
            .filter(|pair| !is_too_far_ahead(pair.observed_micros().unwrap_or(now), now))
            .map(|pair| (pair.segment.as_str(), ()))
            .filter(|(name, ())| !found.contains_key(name))
            .collect();
        if absent.is_empty() {
            return Ok(found);
        }
        let names: Vec<&&str> = absent.keys().collect();
        sqlx::query(
            "INSERT INTO segment (name, from_pair, created_at)
             SELECT e.value, 1, ?1 FROM json_each(?2) e ORDER BY e.key
              LIMIT max(?3 - (SELECT count(*) FROM segment WHERE from_pair), 0)",
        )
        .bind(now)
        .bind(json(&names)?)
        .bind(self.settings.max_segments_from_pairs)
        .execute(&mut *session)
        .await?;
        found.extend(look_up(absent.into_keys(), session).await?);
        Ok(found)
    }

    pub(super) async fn resolve_names(&self, names: &[SegmentName]) -> Result<Vec<Option<SegmentId>>, LedgerError> {
        let mut session = self.readers.acquire().await?;
        let found = look_up(names.iter().map(SegmentName::as_str), &mut session).await?;
        Ok(names
            .iter()
            .map(|name| found.get(name.as_str()).map(|(id, _)| SegmentId(*id)))
            .collect())
    }

    pub(super) async fn upsert_segment(&self, segment: &NewSegment) -> Result<PutSegment, LedgerError> {
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let stands: bool = sqlx::query_scalar("SELECT count(*) > 0 FROM segment WHERE name = ?1")
            .bind(segment.name.as_str())
            .fetch_one(&mut *transaction)
            .await?;
        sqlx::query(text(format!(
            "INSERT INTO segment (name, window_seconds, description, from_pair, created_at) VALUES (?2, ?3, ?4, 0, {NOW})
             ON CONFLICT (name) DO UPDATE SET window_seconds = excluded.window_seconds, description = excluded.description"
        )))
        .bind(self.clock())
        .bind(segment.name.as_str())
        .bind(segment.window.map(Window::seconds))
        .bind(segment.description.as_deref())
        .execute(&mut *transaction)
        .await?;
        // A pair that was known to change nothing may change something by another window.
        super::remove::raise_epoch(&mut transaction).await?;
        // Before the commit: afterwards somebody may delete it.
        let segment = self.one_segment(&segment.name, &mut *transaction).await?;
        transaction.commit().await?;
        let segment = segment.ok_or_else(|| LedgerError::Internal("a segment was put and is not there".to_owned()))?;
        Ok(PutSegment {
            created: !stands,
            segment,
        })
    }

    pub(super) async fn one_segment(
        &self,
        name: &SegmentName,
        session: impl SqliteExecutor<'_>,
    ) -> Result<Option<SegmentInfo>, LedgerError> {
        let row: Option<Row> = sqlx::query_as(text(select("s.name = ?2", "")))
            .bind(self.clock())
            .bind(name.as_str())
            .fetch_optional(session)
            .await?;
        row.map(Row::into_info).transpose()
    }

    pub(super) async fn page_of_segments(
        &self,
        after: Option<&SegmentName>,
        limit: u32,
    ) -> Result<SegmentPage, LedgerError> {
        // One more than asked for tells whether there is a next page. The empty string sorts before every name.
        let mut rows: Vec<Row> = sqlx::query_as(text(select("s.name > ?2", "ORDER BY s.name LIMIT ?3")))
            .bind(self.clock())
            .bind(after.map_or("", SegmentName::as_str))
            .bind(i64::from(limit) + 1)
            .fetch_all(&self.readers)
            .await?;
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
        "WITH {}
         SELECT i.now AS at, s.id, s.name, s.window_seconds, s.description, s.created_at, {MEMBERS} AS members
           FROM segment s, instant i WHERE {condition} {tail}",
        instant()
    )
}
