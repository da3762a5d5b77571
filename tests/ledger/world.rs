//! Where a test's ledgers live: a fresh database for each test, in it a fresh place for each case of a property.

use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use segment_counter::counting::{Pair, Removal, Resolution, Rules, SegmentId, SegmentName, UserId, Window};
use segment_counter::ledger::{Location, NewSegment, Settings, SharedLedger, TestClock, open};
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};

use crate::support::{citus, postgres};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Sqlite,
    /// With one lane.
    Postgres,
    /// With four.
    Lanes,
    /// With two, each on the machine that Citus put it on; only where there is a cluster.
    Citus,
}

impl Kind {
    /// How many lanes.
    pub fn lanes(self) -> i32 {
        match self {
            Self::Sqlite | Self::Postgres => 1,
            Self::Lanes => 4,
            Self::Citus => 2,
        }
    }
}

/// A database of one test.
pub struct World {
    pub kind: Kind,
    pub url: String,
    folder: tempfile::TempDir,
    cases: AtomicU32,
    pub citus: Option<citus::Database>,
}

/// A place in it where nothing stands yet; any number of ledgers may be opened there.
pub struct Place {
    kind: Kind,
    pub url: String,
    pub schema: String,
    pub file: PathBuf,
}

pub fn run<F: Future<Output = ()>>(kind: Kind, test: impl FnOnce(World) -> F) {
    if kind == Kind::Citus && !citus::is_given("a test") {
        return;
    }
    runtime().block_on(async {
        let mut world = World::new(kind).await;
        let citus = world.citus.take();
        test(world).await;
        if let Some(database) = citus {
            database.drop().await;
        }
    });
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

impl World {
    pub async fn new(kind: Kind) -> Self {
        let citus = match kind {
            Kind::Citus => Some(citus::Database::new().await),
            Kind::Sqlite | Kind::Postgres | Kind::Lanes => None,
        };
        let url = match (kind, &citus) {
            (Kind::Sqlite, _) => String::new(),
            (_, Some(database)) => database.url.clone(),
            _ => postgres::server().database().await,
        };
        Self {
            kind,
            url,
            folder: tempfile::tempdir().unwrap(),
            cases: AtomicU32::new(0),
            citus,
        }
    }

    pub fn place(&self) -> Place {
        let case = self.cases.fetch_add(1, Ordering::Relaxed);
        Place {
            kind: self.kind,
            url: self.url.clone(),
            schema: format!("case_{case}"),
            file: self.folder.path().join(format!("case_{case}.db")),
        }
    }
}

impl Place {
    pub fn location(&self) -> Location {
        match self.kind {
            Kind::Sqlite => Location::File(self.file.clone()),
            Kind::Postgres | Kind::Lanes | Kind::Citus => Location::parse(&self.url, None, &self.schema, 8).unwrap(),
        }
    }

    /// A ledger here, whatever stands.
    pub fn open(&self, settings: &Settings) -> SharedLedger {
        let settings = Settings {
            lanes: self.kind.lanes().max(settings.lanes),
            distributed: self.kind == Kind::Citus,
            ..settings.clone()
        };
        open(&self.location(), settings).unwrap()
    }

    /// A ledger here, whose schema stands.
    pub async fn ledger(&self, settings: &Settings) -> SharedLedger {
        let ledger = self.open(settings);
        ledger.migrate().await.unwrap();
        ledger.check().await.unwrap();
        ledger
    }

    /// What the archive has kept: (segment, user, end in microseconds), sorted.
    pub async fn history(&self) -> Vec<(i64, String, i64)> {
        match self.kind {
            Kind::Sqlite => {
                let mut connection = SqliteConnection::connect(&format!("sqlite://{}", self.file.display()))
                    .await
                    .unwrap();
                sqlx::query_as("SELECT segment_id, user_id, expires_at FROM membership_history ORDER BY 1, 2, 3")
                    .fetch_all(&mut connection)
                    .await
                    .unwrap()
            }
            Kind::Postgres | Kind::Lanes | Kind::Citus => {
                let mut connection = PgConnection::connect(&self.url).await.unwrap();
                let mut all = Vec::new();
                for lane in self.lanes() {
                    let rows: Vec<(i64, String, i64)> = sqlx::query_as(AssertSqlSafe(format!(
                        "SELECT segment_id, user_id, (extract(epoch FROM expires_at) * 1000000)::bigint FROM {lane}.membership_history"
                    )))
                    .fetch_all(&mut connection)
                    .await
                    .unwrap();
                    all.extend(rows);
                }
                all.sort();
                all
            }
        }
    }

    /// The schemas of its lanes.
    fn lanes(&self) -> Vec<String> {
        (0..self.kind.lanes())
            .map(|lane| format!("{}_lane_{lane}", self.schema))
            .collect()
    }

    /// How many runs of jobs are remembered.
    pub async fn runs(&self) -> i64 {
        self.number("SELECT count(*) FROM {base}.job_run").await
    }

    /// How many rows there are of memberships and marks.
    pub async fn rows(&self) -> i64 {
        self.number("SELECT count(*) FROM {lane}.membership").await
    }

    /// How many totals have been moved on past buckets that still stand.
    pub async fn totals_ahead(&self) -> i64 {
        let sql = "SELECT count(*) FROM {lane}.segment_total t
                    WHERE EXISTS (SELECT 1 FROM {lane}.segment_expiry b WHERE b.segment_id = t.segment_id AND b.expires_at <= t.since)";
        self.number(sql).await
    }

    /// How many erased users are remembered.
    pub async fn suppressions(&self) -> i64 {
        self.number("SELECT count(*) FROM {base}.suppression").await
    }

    /// Whether anything of a user is left.
    pub async fn mentions(&self, user: &str) -> bool {
        let sql = format!(
            "SELECT (SELECT count(*) FROM {{lane}}.membership WHERE user_id = '{user}')
                  + (SELECT count(*) FROM {{lane}}.membership_history WHERE user_id = '{user}')"
        );
        self.number(&sql).await > 0
    }

    /// Triggers and notes that moves left.
    pub async fn traces_of_moves(&self) -> i64 {
        self.number("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'segment_move_%'")
            .await
            + self.number("SELECT count(*) FROM {base}.move_log").await
    }

    /// A number by a statement behind the ledger's back; `{base}` and `{lane}` stand for its schemas. Where there are several lanes, the sum.
    pub async fn number(&self, sql: &str) -> i64 {
        match self.kind {
            Kind::Sqlite => {
                let mut connection = SqliteConnection::connect(&format!("sqlite://{}", self.file.display()))
                    .await
                    .unwrap();
                let sql = sql.replace("{base}.", "").replace("{lane}.", "");
                let number = sqlx::query_scalar(AssertSqlSafe(sql));
                number.fetch_one(&mut connection).await.unwrap()
            }
            Kind::Postgres | Kind::Lanes | Kind::Citus => {
                let mut connection = PgConnection::connect(&self.url).await.unwrap();
                let sql = sql.replace("{base}", &self.schema);
                let lanes = if sql.contains("{lane}") {
                    self.lanes()
                } else {
                    vec![String::new()]
                };
                let mut sum = 0;
                for lane in lanes {
                    let number = sqlx::query_scalar(AssertSqlSafe(sql.replace("{lane}", &lane)));
                    let number: i64 = number.fetch_one(&mut connection).await.unwrap();
                    sum += number;
                }
                sum
            }
        }
    }

    /// Changes a table behind the ledger's back; `{lane}` stands for its schema.
    pub async fn tamper(&self, sql: &str) {
        match self.kind {
            Kind::Sqlite => {
                let mut connection = SqliteConnection::connect(&format!("sqlite://{}", self.file.display()))
                    .await
                    .unwrap();
                sqlx::query(AssertSqlSafe(sql.replace("{lane}.", "")))
                    .execute(&mut connection)
                    .await
                    .unwrap();
            }
            Kind::Postgres | Kind::Lanes | Kind::Citus => {
                for lane in self.lanes() {
                    let sql = sql.replace("{lane}", &lane).replace("{base}", &self.schema);
                    postgres::execute(&self.url, &sql).await;
                }
            }
        }
    }
}

/// How long the suite's memberships have ended before anything is cleared away, in microseconds.
pub const SETTLE: i64 = 600_000_000;

/// Where the suite's clock begins.
pub fn start() -> Timestamp {
    "2026-03-31T22:59:59.5Z".parse().unwrap()
}

pub fn clock() -> TestClock {
    TestClock::at(start())
}

pub fn settings(window: i64, resolution: i64, clock: Option<&TestClock>) -> Settings {
    let rules = Rules::new(
        Window::from_seconds(window).unwrap(),
        Resolution::from_seconds(resolution).unwrap(),
    )
    .unwrap();
    Settings {
        rules,
        settle: Duration::from_micros(SETTLE.unsigned_abs()),
        clock: clock.cloned(),
        ..Settings::default()
    }
}

pub fn name(text: &str) -> SegmentName {
    SegmentName::new(text).unwrap()
}

pub fn pair(segment: &str, user: &str) -> Pair {
    Pair {
        user: UserId::new(user).unwrap(),
        segment: name(segment),
        observed_at: None,
        ttl: None,
    }
}

pub fn removal(segment: &str, user: &str) -> Removal {
    Removal {
        user: UserId::new(user).unwrap(),
        segment: name(segment),
    }
}

pub fn pair_at(segment: &str, user: &str, at: Timestamp) -> Pair {
    Pair {
        observed_at: Some(at),
        ..pair(segment, user)
    }
}

pub fn put(segment: &str, window: Option<i64>) -> NewSegment {
    let window = window.map(|seconds| Window::from_seconds(seconds).unwrap());
    NewSegment {
        name: name(segment),
        window,
        description: None,
    }
}

pub fn after(at: Timestamp, micros: i64) -> Timestamp {
    at + SignedDuration::from_micros(micros)
}

pub async fn id(ledger: &SharedLedger, segment: &str) -> SegmentId {
    ledger.resolve(&[name(segment)]).await.unwrap()[0].expect("a segment that exists")
}

pub async fn count(ledger: &SharedLedger, segment: &str) -> i64 {
    let id = id(ledger, segment).await;
    ledger.count(&[id]).await.unwrap()[0].members
}

/// Recounts every segment; the sum of their drifts.
pub async fn drift(ledger: &SharedLedger) -> i64 {
    let all = ledger.least_recently_recounted(10_000).await.unwrap();
    let found = ledger.recount(&all).await.unwrap();
    found.iter().map(|recount| recount.drift).sum()
}

/// A whole pass of the archive in batches of `limit`; how many were moved.
pub async fn archive(ledger: &SharedLedger, limit: u32) -> i64 {
    let (mut cursor, mut moved) = (None, 0);
    loop {
        let batch = ledger.archive_batch(cursor, limit).await.unwrap();
        moved += batch.moved;
        match batch.next {
            Some(next) => cursor = Some(next),
            None => return moved,
        }
    }
}
