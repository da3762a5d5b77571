//! Lanes: a segment's memberships and counters live in one schema of several, and statements differ only by its name.
//!
//! On one server lanes cost next to nothing; where each schema may live on a server of its own they are what grows.

use std::collections::BTreeMap;
use std::sync::Arc;

use sqlx::{Executor, Postgres};

use super::session::{ANSWER, over};
use super::{PostgresLedger, count, record};
use crate::counting::SegmentId;
use crate::ledger::LedgerError;

/// Held shared by what must find every segment in one lane, exclusively while a segment changes its lane.
pub(super) const LANE_CHANGE_LOCK: i64 = 0x5e67_c005;

/// Where a segment lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Home {
    pub(super) id: SegmentId,
    pub(super) lane: i32,
}

/// A lane, and the statements of the hot paths with its name filled in.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) number: i32,
    /// An identifier, made of a proven one.
    pub(super) schema: String,
    base: String,
    pub(super) record_distinct: sqlx::SqlStr,
    pub(super) record_any: sqlx::SqlStr,
    pub(super) count: sqlx::SqlStr,
}

/// All of them, in the order of their numbers.
pub(super) type Lanes = Vec<Arc<Lane>>;

/// The schema of a lane.
pub(super) fn schema_of(base: &str, number: i32) -> String {
    format!("{base}_lane_{number}")
}

impl Lane {
    pub(super) fn new(base: &str, number: i32) -> Self {
        let schema = schema_of(base, number);
        let fill =
            |text: &str| sqlx::SqlSafeStr::into_sql_str(sqlx::AssertSqlSafe(fill_in(text, base, &schema, number)));
        Self {
            record_distinct: fill(&record::distinct()),
            record_any: fill(&record::any()),
            count: fill(count::SQL),
            number,
            base: base.to_owned(),
            schema,
        }
    }

    /// A text with the schemas' names and the lane's number filled in.
    pub(super) fn text(&self, text: &str) -> String {
        fill_in(text, &self.base, &self.schema, self.number)
    }

    /// The same as a statement: all that was filled in is proven.
    pub(super) fn sql(&self, text: &str) -> sqlx::AssertSqlSafe<String> {
        sqlx::AssertSqlSafe(self.text(text))
    }
}

fn fill_in(text: &str, base: &str, lane: &str, number: i32) -> String {
    text.replace("{base}", base)
        .replace("{lane}", lane)
        .replace("{number}", &number.to_string())
}

impl PostgresLedger {
    /// The lanes, read once; read again where a segment lives in one that is not known.
    pub(super) async fn all_lanes(&self) -> Result<Arc<Lanes>, LedgerError> {
        match self.lanes.load_full() {
            Some(lanes) => Ok(lanes),
            None => over!(self, ANSWER, session => self.read_lanes(&mut *session)),
        }
    }

    pub(super) async fn read_lanes<'e>(
        &self,
        session: impl Executor<'e, Database = Postgres>,
    ) -> Result<Arc<Lanes>, LedgerError> {
        let numbers: Vec<i32> = sqlx::query_scalar(self.sql("SELECT number FROM \"{base}\".lane ORDER BY number"))
            .fetch_all(session)
            .await?;
        let lanes: Arc<Lanes> = Arc::new(
            numbers
                .into_iter()
                .map(|number| Arc::new(Lane::new(&self.base, number)))
                .collect(),
        );
        self.lanes.store(Some(Arc::clone(&lanes)));
        Ok(lanes)
    }

    pub(super) async fn lane(&self, number: i32) -> Result<Arc<Lane>, LedgerError> {
        let find = |lanes: &Lanes| lanes.iter().find(|lane| lane.number == number).map(Arc::clone);
        if let Some(lane) = find(&*self.all_lanes().await?) {
            return Ok(lane);
        }
        find(&*over!(self, ANSWER, session => self.read_lanes(&mut *session))?)
            .ok_or_else(|| LedgerError::Internal(format!("a segment lives in lane {number}, which does not exist")))
    }

    /// The lanes of segments; those that do not exist are left out.
    pub(super) async fn homes_of(&self, segments: &[SegmentId]) -> Result<BTreeMap<SegmentId, i32>, LedgerError> {
        let mut homes: BTreeMap<SegmentId, i32> = segments
            .iter()
            .filter_map(|segment| Some((*segment, self.homes.get(segment)?)))
            .collect();
        let unknown: Vec<i64> = segments
            .iter()
            .filter(|segment| !homes.contains_key(segment))
            .map(|segment| segment.0)
            .collect();
        if unknown.is_empty() {
            return Ok(homes);
        }
        let finding =
            sqlx::query_as(self.sql("SELECT id, lane FROM \"{base}\".segment WHERE id = ANY($1)")).bind(&unknown);
        let rows: Vec<(i64, i32)> = over!(self, ANSWER, session => finding.fetch_all(&mut *session))?;
        for (id, lane) in rows {
            self.homes.insert(SegmentId(id), lane);
            homes.insert(SegmentId(id), lane);
        }
        Ok(homes)
    }
}
