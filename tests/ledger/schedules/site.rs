//! Where schedules are run: any number of ledgers at one place, and what stands there behind their backs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use segment_counter::ledger::{
    Ledger, LedgerError, Location, PostgresLedger, Settings, SharedLedger, SqliteLedger, TestClock, open,
};
use sqlx::postgres::{PgPoolOptions, PgRow};
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, FromRow, PgPool, Postgres, SqlitePool, Transaction};

use super::steps::{Member, On, rules};
use crate::world::{Place, World, clock, settings, start};

/// How long a row is held.
const HELD: Duration = Duration::from_millis(30);

/// How long a connection is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many ledgers are open before those by other rules are closed.
const MOST_LEDGERS: usize = 12;

pub type Key = (String, String);

pub struct Site {
    pub on: On,
    pub clock: TestClock,
    /// None: in memory.
    place: Option<Place>,
    memory: Option<SharedLedger>,
    behind: Behind,
    rules: u8,
    /// By rules and number.
    ledgers: BTreeMap<(u8, usize), SharedLedger>,
    mover: Option<Arc<PostgresLedger>>,
}

/// Connections that no ledger knows of.
enum Behind {
    Sqlite(SqlitePool),
    Postgres { pool: PgPool, base: String, lanes: usize },
}

/// What stands, of the segments that exist. Instants in microseconds.
#[derive(Debug, Default)]
pub struct Stand {
    /// With their own windows, in seconds.
    pub segments: BTreeMap<String, Option<i64>>,
    /// When the membership ends, and when it was removed.
    pub rows: BTreeMap<Key, (i64, Option<i64>)>,
    pub buckets: BTreeMap<(String, i64), i64>,
    /// What each segment's total counts, and since when.
    pub totals: BTreeMap<String, (i64, i64)>,
}

impl Site {
    /// A place where nothing stands.
    pub async fn new(on: On, world: &World, number: u8) -> Self {
        let clock = clock();
        let site_settings = by(number, on, &clock);
        let (mut place, mut memory) = (None, None);
        let behind = if on == On::Memory {
            let ledger = SqliteLedger::open(None, site_settings);
            let behind = Behind::Sqlite(ledger.pool_for_conformance());
            ledger.migrate().await.unwrap();
            let ledger: SharedLedger = Arc::new(ledger);
            memory = Some(ledger);
            behind
        } else {
            let here = place.insert(world.place());
            let ledger = open(&location(here), site_settings).unwrap();
            patiently(async || ledger.migrate().await).await;
            ledger.close().await;
            if on == On::File {
                let url = format!("sqlite://{}", here.file.display());
                Behind::Sqlite(SqlitePool::connect(&url).await.unwrap())
            } else {
                let pool = PgPoolOptions::new()
                    .max_connections(2)
                    .connect(&here.url)
                    .await
                    .unwrap();
                let (base, lanes) = (here.schema.clone(), usize::try_from(on.lanes()).unwrap());
                Behind::Postgres { pool, base, lanes }
            }
        };
        Self {
            on,
            clock,
            place,
            memory,
            behind,
            rules: number,
            ledgers: BTreeMap::new(),
            mover: None,
        }
    }

    /// Makes the place as it was when nothing stood, for the next schedule: a new one costs PostgreSQL half a second. The ledgers stay open, and
    /// hold numbers of segments that are gone.
    pub async fn clear(&mut self, rules: u8) {
        let Behind::Postgres { pool, .. } = &self.behind else {
            panic!("a place on {:?} is made anew", self.on);
        };
        let sql = "DELETE FROM {lane}.membership; DELETE FROM {lane}.segment_expiry; DELETE FROM {lane}.segment_total;
                   DELETE FROM {lane}.membership_history; DELETE FROM {base}.segment_history; DELETE FROM {base}.segment;
                   DELETE FROM {base}.segment_deleted; DELETE FROM {base}.suppression;";
        for sql in self.fill(sql) {
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(pool).await.unwrap();
        }
        self.clock.set(start());
        self.switch(rules).await;
    }

    /// A server takes so many connections and no more: those of ledgers by other rules are closed now and then.
    async fn switch(&mut self, rules: u8) {
        self.rules = rules;
        if self.on.is_postgres() && self.ledgers.len() > MOST_LEDGERS {
            let (kept, others) = std::mem::take(&mut self.ledgers)
                .into_iter()
                .partition(|((by, _), _)| *by == rules);
            self.ledgers = kept;
            let others: BTreeMap<_, SharedLedger> = others;
            for ledger in others.into_values() {
                ledger.close().await;
            }
        }
        if let Some(mover) = self.mover.take() {
            mover.close().await;
        }
    }

    /// Who moves segments between lanes, where there are some.
    pub fn mover(&mut self) -> Option<Arc<PostgresLedger>> {
        if self.on == On::Lanes && self.mover.is_none() {
            let Location::Postgres(options) = location(self.place.as_ref()?) else {
                return None;
            };
            let mover = PostgresLedger::open(&options, by(self.rules, self.on, &self.clock)).unwrap();
            self.mover = Some(Arc::new(mover));
        }
        self.mover.clone()
    }

    /// The ledger of this number by the rules of now, opened where it is not open yet.
    pub fn ledger(&mut self, number: usize) -> SharedLedger {
        if let Some(ledger) = &self.memory {
            return ledger.clone();
        }
        let here = self.place.as_ref().unwrap();
        let opened = self
            .ledgers
            .entry((self.rules, number))
            .or_insert_with(|| open(&location(here), by(self.rules, self.on, &self.clock)).unwrap());
        opened.clone()
    }

    /// From here on by these rules, by a ledger that remembers nothing.
    pub async fn reopen(&mut self, rules: u8) {
        self.switch(rules).await;
        if let Some(before) = self.ledgers.remove(&(rules, 0)) {
            before.close().await;
        }
    }

    pub async fn close(self) {
        for ledger in self.ledgers.into_values().chain(self.memory) {
            ledger.close().await;
        }
        if let Some(mover) = self.mover {
            mover.close().await;
        }
        match self.behind {
            Behind::Sqlite(pool) => pool.close().await,
            Behind::Postgres { pool, .. } => pool.close().await,
        }
    }

    /// A statement for each lane, or one where it asks for none. `{base}` and `{lane}` stand for schemas, `{here}` for "the segment lives in it".
    fn fill(&self, sql: &str) -> Vec<String> {
        match &self.behind {
            Behind::Sqlite(_) => vec![
                sql.replace("{base}.", "")
                    .replace("{lane}.", "")
                    .replace("{here}", "true"),
            ],
            Behind::Postgres { base, lanes, .. } => {
                let lanes = if sql.contains("{lane}") { *lanes } else { 1 };
                let schema = |lane| format!("{base}_lane_{lane}");
                let filled = (0..lanes).map(|lane| {
                    sql.replace("{base}", base)
                        .replace("{lane}", &schema(lane))
                        .replace("{here}", &format!("s.lane = {lane}"))
                });
                filled.collect()
            }
        }
    }

    /// Rows by a statement in which `«x»` stands for an instant of a column in microseconds; of all lanes.
    async fn fetch<T>(&self, sql: &str) -> Vec<T>
    where
        T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin,
    {
        let mut rows = Vec::new();
        for sql in self.fill(sql) {
            rows.extend(match &self.behind {
                Behind::Sqlite(pool) => {
                    let sql = AssertSqlSafe(sql.replace(['«', '»'], ""));
                    sqlx::query_as(sql).fetch_all(pool).await.unwrap()
                }
                Behind::Postgres { pool, .. } => {
                    let sql = sql
                        .replace('«', "(extract(epoch FROM ")
                        .replace('»', ") * 1000000)::bigint");
                    sqlx::query_as(AssertSqlSafe(sql)).fetch_all(pool).await.unwrap()
                }
            });
        }
        rows
    }

    pub async fn stand(&self) -> Stand {
        let segments = self.fetch("SELECT name, window_seconds FROM {base}.segment").await;
        let rows: Vec<(String, String, i64, Option<i64>)> = self
            .fetch(
                "SELECT s.name, m.user_id, «m.expires_at», «m.removed_at»
                   FROM {lane}.membership m JOIN {base}.segment s ON s.id = m.segment_id AND {here}",
            )
            .await;
        let buckets: Vec<(String, i64, i64)> = self
            .fetch("SELECT s.name, «c.expires_at», c.members FROM {lane}.segment_expiry c JOIN {base}.segment s ON s.id = c.segment_id AND {here}")
            .await;
        let totals: Vec<(String, i64, i64)> = self
            .fetch("SELECT s.name, c.members, «c.since» FROM {lane}.segment_total c JOIN {base}.segment s ON s.id = c.segment_id AND {here}")
            .await;
        Stand {
            segments: segments.into_iter().collect(),
            rows: rows
                .into_iter()
                .map(|(segment, user, end, removed)| ((segment, user), (end, removed)))
                .collect(),
            buckets: buckets
                .into_iter()
                .map(|(segment, end, members)| ((segment, end), members))
                .collect(),
            totals: totals
                .into_iter()
                .map(|(segment, members, since)| (segment, (members, since)))
                .collect(),
        }
    }

    /// Whether anything of a user is left, also of deleted segments.
    pub async fn mentions(&self, user: &str) -> bool {
        let sql = format!(
            "SELECT (SELECT count(*) FROM {{lane}}.membership WHERE user_id = '{user}')
                  + (SELECT count(*) FROM {{lane}}.membership_history WHERE user_id = '{user}')"
        );
        self.fetch::<(i64,)>(&sql).await.iter().any(|(rows,)| *rows > 0)
    }

    /// Holds a row (or, where there is none, its place) as a slow client would; let it go with [`let_go`].
    pub async fn hold(&self, (segment, user): Member) -> Option<Transaction<'static, Postgres>> {
        let Behind::Postgres { pool, .. } = &self.behind else {
            return None;
        };
        let mut transaction = pool.begin().await.unwrap();
        for sql in self.fill(
            "INSERT INTO {lane}.membership AS m (segment_id, user_id, expires_at)
             SELECT s.id, $2, timestamptz 'epoch' FROM {base}.segment s WHERE s.name = $1 AND {here}
             ON CONFLICT (segment_id, user_id) DO UPDATE SET prev_expires_at = m.prev_expires_at",
        ) {
            sqlx::query(AssertSqlSafe(sql))
                .bind(format!("s{segment}"))
                .bind(format!("u{user}"))
                .execute(&mut *transaction)
                .await
                .unwrap();
        }
        Some(transaction)
    }
}

/// With patience for a connection: a schedule is about what calls do, however long they wait on a machine that has much else to do.
fn location(place: &Place) -> Location {
    match place.location() {
        Location::Postgres(options) => Location::Postgres(options.waiting(PATIENCE)),
        other => other,
    }
}

fn by(number: u8, on: On, clock: &TestClock) -> Settings {
    Settings {
        rules: rules(number),
        lanes: on.lanes(),
        distributed: on == On::Citus,
        ..settings(600, 60, Some(clock))
    }
}

/// Asks again for a while: logins take long on a machine that has much to do, and none is what a schedule is about.
pub async fn patiently<T>(ask: impl AsyncFn() -> Result<T, LedgerError>) -> T {
    let mut tries = 0;
    loop {
        tries += 1;
        match ask().await {
            Ok(answer) => return answer,
            Err(error) if error.is_transient() && tries < 30 => tokio::time::sleep(Duration::from_millis(200)).await,
            Err(error) => panic!("asked {tries} times: {error}"),
        }
    }
}

/// Lets a row go as it was, a while later.
pub async fn let_go(held: Transaction<'static, Postgres>) {
    tokio::time::sleep(HELD).await;
    held.rollback().await.unwrap();
}
