//! Lanes: a segment's memberships and counters live in one schema of several, and statements differ only by its name.
//!
//! On one server lanes cost next to nothing; where Citus puts each schema on a machine of its own they are what grows, and some statements are
//! other ones there: they are chosen here, when it is learnt which lanes there are.

use std::collections::BTreeMap;
use std::sync::Arc;

use sqlx::{Executor, Postgres};

use super::session::{ANSWER, over};
use super::{
    PostgresLedger, Statement, archive, count, deleted, distributed, erase, record, recount, remove, segments,
    statement, sweep, writers,
};
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

/// The texts that are other ones where Citus distributes the lanes, schemas and numbers not filled in yet. Parameters and answers are the same.
pub(super) struct Texts {
    pub(super) record_distinct: String,
    pub(super) record_any: String,
    pub(super) remove: String,
    pub(super) writers: String,
    pub(super) erase: String,
    /// `None`: `archive_marked` is for all rows.
    pub(super) archive: Option<archive::Quick<String>>,
    pub(super) archive_marked: String,
    pub(super) heap_blocks: String,
    pub(super) partitions: String,
    /// `None`: `advance_totals` locks them too.
    pub(super) lock_totals: Option<String>,
    pub(super) advance_totals: String,
    pub(super) clear_buckets: String,
    /// `None`: segments are compared one by one.
    pub(super) agree: Option<[String; 2]>,
    pub(super) compare: String,
    pub(super) mend: String,
    pub(super) put_segment: String,
    pub(super) raise_epoch: String,
    pub(super) finish_erasure: String,
    pub(super) forget_suppressions: String,
}

impl Texts {
    fn of_one_server() -> Self {
        Self {
            record_distinct: record::distinct(),
            record_any: record::any(),
            remove: remove::text(),
            writers: writers::WRITERS.to_owned(),
            erase: erase::deleting(),
            archive: Some(archive::Quick::new()),
            archive_marked: archive::MOVE_MARKED.to_owned(),
            heap_blocks: archive::HEAP_BLOCKS.to_owned(),
            partitions: deleted::PARTITIONS.to_owned(),
            lock_totals: Some(sweep::LOCK_TOTALS.to_owned()),
            advance_totals: sweep::ADVANCE_TOTALS.to_owned(),
            clear_buckets: sweep::CLEAR_BUCKETS.to_owned(),
            agree: Some(recount::agree()),
            compare: recount::comparing(),
            mend: recount::mending(),
            put_segment: segments::PUT.to_owned(),
            raise_epoch: remove::RAISE_EPOCH.to_owned(),
            finish_erasure: erase::FINISH.to_owned(),
            forget_suppressions: sweep::FORGET_SUPPRESSIONS.to_owned(),
        }
    }

    fn of(distributed: bool) -> Self {
        if distributed {
            distributed::texts()
        } else {
            Self::of_one_server()
        }
    }
}

/// A lane, and its statements with its name filled in.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) number: i32,
    /// An identifier, made of a proven one.
    pub(super) schema: String,
    base: String,
    pub(super) record_distinct: Statement,
    pub(super) record_any: Statement,
    pub(super) count: Statement,
    pub(super) remove: Statement,
    pub(super) writers: Statement,
    pub(super) erase: Statement,
    pub(super) archive: Option<archive::Quick<Statement>>,
    pub(super) archive_marked: Statement,
    pub(super) heap_blocks: Statement,
    pub(super) partitions: Statement,
    pub(super) advance: sweep::Advance,
    pub(super) clear_buckets: Statement,
    pub(super) agree: Option<[Statement; 2]>,
    pub(super) compare: Statement,
    pub(super) mend: Statement,
}

/// All of them, in the order of their numbers, and what depends on where they are.
#[derive(Debug)]
pub(super) struct Lanes {
    all: Vec<Arc<Lane>>,
    /// Whether Citus puts each on a machine of its own.
    pub(super) distributed: bool,
    pub(super) put_segment: Statement,
    pub(super) raise_epoch: Statement,
    pub(super) finish_erasure: Statement,
    pub(super) forget_suppressions: Statement,
}

impl std::ops::Deref for Lanes {
    type Target = [Arc<Lane>];

    fn deref(&self) -> &[Arc<Lane>] {
        &self.all
    }
}

impl Lanes {
    fn new(base: &str, numbers: impl IntoIterator<Item = i32>, distributed: bool) -> Self {
        let texts = Texts::of(distributed);
        let of_base = |text: &str| statement(text.replace("{base}", base));
        Self {
            all: numbers
                .into_iter()
                .map(|number| Arc::new(Lane::new(base, number, &texts)))
                .collect(),
            distributed,
            put_segment: of_base(&texts.put_segment),
            raise_epoch: of_base(&texts.raise_epoch),
            finish_erasure: of_base(&texts.finish_erasure),
            forget_suppressions: of_base(&texts.forget_suppressions),
        }
    }
}

/// The schema of a lane.
pub(super) fn schema_of(base: &str, number: i32) -> String {
    format!("{base}_lane_{number}")
}

impl Lane {
    /// One on the server itself.
    pub(super) fn on_one_server(base: &str, number: i32) -> Self {
        Self::new(base, number, &Texts::of_one_server())
    }

    fn new(base: &str, number: i32, texts: &Texts) -> Self {
        let schema = schema_of(base, number);
        let fill = |text: &str| statement(fill_in(text, base, &schema, number));
        Self {
            record_distinct: fill(&texts.record_distinct),
            record_any: fill(&texts.record_any),
            count: fill(count::SQL),
            remove: fill(&texts.remove),
            writers: fill(&texts.writers),
            erase: fill(&texts.erase),
            archive: texts.archive.as_ref().map(|quick| quick.map(|text| fill(text))),
            archive_marked: fill(&texts.archive_marked),
            heap_blocks: fill(&texts.heap_blocks),
            partitions: fill(&texts.partitions),
            advance: sweep::Advance {
                lock: texts.lock_totals.as_deref().map(fill),
                advance: fill(&texts.advance_totals),
            },
            clear_buckets: fill(&texts.clear_buckets),
            agree: texts
                .agree
                .as_ref()
                .map(|texts| texts.each_ref().map(|text| fill(text))),
            compare: fill(&texts.compare),
            mend: fill(&texts.mend),
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
            None => self.lanes_now().await,
        }
    }

    /// The lanes that there are now: for what must leave none of them out, also where another process has just added one.
    pub(super) async fn lanes_now(&self) -> Result<Arc<Lanes>, LedgerError> {
        over!(self, ANSWER, session => self.read_lanes(&mut *session))
    }

    pub(super) async fn read_lanes<'e>(
        &self,
        session: impl Executor<'e, Database = Postgres>,
    ) -> Result<Arc<Lanes>, LedgerError> {
        let rows: Vec<(i32, bool)> = sqlx::query_as(self.sql(
            "SELECT number, to_regclass('\"{base}\".distribution') IS NOT NULL FROM \"{base}\".lane ORDER BY number",
        ))
        .fetch_all(session)
        .await?;
        let distributed = rows.iter().any(|(_, distributed)| *distributed);
        if distributed {
            self.distributed.found();
        }
        let lanes = Arc::new(Lanes::new(
            &self.base,
            rows.into_iter().map(|(number, _)| number),
            distributed,
        ));
        self.lanes.store(Some(Arc::clone(&lanes)));
        Ok(lanes)
    }

    pub(super) async fn lane(&self, number: i32) -> Result<Arc<Lane>, LedgerError> {
        let find = |lanes: &Lanes| lanes.iter().find(|lane| lane.number == number).map(Arc::clone);
        if let Some(lane) = find(&*self.all_lanes().await?) {
            return Ok(lane);
        }
        find(&*self.lanes_now().await?)
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
