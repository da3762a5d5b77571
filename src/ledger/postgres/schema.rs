//! The schema: base and lane, each by its own migrations.

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::Duration;

use sqlx::migrate::Migrator;
use sqlx::{Connection, PgConnection};

use super::distributed::{self, Distribution};
use super::session::is_lock_timeout;
use super::{PostgresLedger, lanes, partitions};
use crate::ledger::{LedgerError, SchemaState};

static BASE: LazyLock<Migrator> = LazyLock::new(|| without_lock(sqlx::migrate!("src/ledger/postgres/migrations/base")));
static LANE: LazyLock<Migrator> = LazyLock::new(|| without_lock(sqlx::migrate!("src/ledger/postgres/migrations/lane")));

/// One migration of one database at a time, whatever the schema: an arbitrary number of our own.
const MIGRATION_LOCK: i64 = 0x5e67_c001;

/// The migrator's own lock is the session's, which would stay behind in a pooler where a migration fails; [`MIGRATION_LOCK`] does for both.
fn without_lock(mut migrator: Migrator) -> Migrator {
    migrator.set_locking(false);
    migrator
}

fn newest(migrator: &Migrator) -> i64 {
    migrator.iter().map(|migration| migration.version).max().unwrap_or(0)
}

impl PostgresLedger {
    pub(super) async fn run_migrations(&self) -> Result<SchemaState, LedgerError> {
        let guard = self.guard(MIGRATION_LOCK).await?;
        let mut session = self.pool.acquire().await?;
        // Where Citus is to distribute, it is set otherwise than those of the pool.
        session.close_on_drop();
        let session: &mut PgConnection = &mut session;
        let distribution = Distribution::wanted(self, session).await?;
        run(&self.base, &BASE, session).await?;
        if let Some(distribution) = &distribution {
            distribution.of_base(session).await?;
        }
        let standing: BTreeSet<i32> = sqlx::query_scalar(self.sql("SELECT number FROM \"{base}\".lane"))
            .fetch_all(&mut *session)
            .await?
            .into_iter()
            .collect();
        let wanted: BTreeSet<i32> = standing.iter().copied().chain(0..self.settings.lanes.max(1)).collect();
        for number in wanted {
            run(&lanes::schema_of(&self.base, number), &LANE, session).await?;
            if let Some(distribution) = &distribution {
                distribution
                    .of_lane(number, standing.contains(&number), session)
                    .await?;
            }
            // Known to the others only once it stands, with where its history goes.
            let lane = lanes::schema_of(&self.base, number);
            partitions::make_patiently(self, &lane, distribution.is_some(), session).await?;
            sqlx::query(self.sql("INSERT INTO \"{base}\".lane (number) VALUES ($1) ON CONFLICT DO NOTHING"))
                .bind(number)
                .execute(&mut *session)
                .await?;
        }
        if let Some(distribution) = &distribution {
            distribution.note(session).await?;
        }
        self.read_lanes(&mut *session).await?;
        guard.end().await?;
        self.schema_state(session).await
    }

    /// The versions of base and of the lane that is the furthest behind, added: both only grow, so the sum is current exactly when all are. Where the
    /// ledger is distributed, the version of its functions too.
    pub(super) async fn schema_state(&self, session: &mut PgConnection) -> Result<SchemaState, LedgerError> {
        let mut expected = newest(&BASE) + newest(&LANE);
        let Some(base) = self.installed(&self.base, session).await? else {
            return Ok(SchemaState {
                installed: None,
                expected,
            });
        };
        let (has_lanes, is_distributed): (bool, bool) = sqlx::query_as(
            "SELECT to_regclass(format('%I.lane', $1)) IS NOT NULL, to_regclass(format('%I.distribution', $1)) IS NOT NULL",
        )
        .bind(&self.base)
        .fetch_one(&mut *session)
        .await?;
        let mut functions = 0;
        if is_distributed && let Some((stands, needed)) = distributed::version(self, session).await? {
            functions = stands;
            expected += needed;
        }
        let numbers: Vec<i32> = if has_lanes {
            sqlx::query_scalar(self.sql("SELECT number FROM \"{base}\".lane"))
                .fetch_all(&mut *session)
                .await?
        } else {
            vec![0]
        };
        let mut behind = None;
        for number in numbers {
            let Some(version) = self.installed(&lanes::schema_of(&self.base, number), session).await? else {
                return Ok(SchemaState {
                    installed: None,
                    expected,
                });
            };
            behind = Some(behind.map_or(version, |other: i64| other.min(version)));
        }
        Ok(SchemaState {
            installed: behind.map(|lane| base + lane + functions),
            expected,
        })
    }

    /// The newest migration that stands in a schema.
    async fn installed(&self, schema: &str, session: &mut PgConnection) -> Result<Option<i64>, LedgerError> {
        let stands: bool = sqlx::query_scalar("SELECT to_regclass(format('%I._sqlx_migrations', $1)) IS NOT NULL")
            .bind(schema)
            .fetch_one(&mut *session)
            .await?;
        if !stands {
            return Ok(None);
        }
        let text = format!("SELECT max(version) FROM \"{schema}\"._sqlx_migrations WHERE success");
        Ok(sqlx::query_scalar(sqlx::AssertSqlSafe(text)).fetch_one(session).await?)
    }
}

/// How long a migration waits for a table that somebody uses, and how often it tries again: whoever comes behind it waits as well.
const LOCK_WAIT: &str = "SET LOCAL lock_timeout = '2 s'";
const TRIES: u32 = 60;

/// Brings one schema to the newest of its migrations, in one transaction: what it sets must stay with it, also where a pooler lends the session
/// to others in between.
async fn run(schema: &str, migrator: &Migrator, session: &mut PgConnection) -> Result<(), LedgerError> {
    for _ in 1..TRIES {
        match run_once(schema, migrator, session).await {
            Err(
                sqlx::migrate::MigrateError::Execute(error) | sqlx::migrate::MigrateError::ExecuteMigration(error, _),
            ) if is_lock_timeout(&error) => {
                tracing::info!(schema, "the migration waits for a table that is in use");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            done => return Ok(done?),
        }
    }
    Ok(run_once(schema, migrator, session).await?)
}

async fn run_once(
    schema: &str,
    migrator: &Migrator,
    session: &mut PgConnection,
) -> Result<(), sqlx::migrate::MigrateError> {
    let mut transaction = session.begin().await?;
    let session = &mut *transaction;
    // A migration may take as long as it needs, and reads tables whole.
    for setting in [
        "SET LOCAL statement_timeout = 0",
        "SET LOCAL enable_seqscan = on",
        LOCK_WAIT,
    ] {
        sqlx::query(setting).execute(&mut *session).await?;
    }
    // IF NOT EXISTS asks for CREATE on the database even where the schema stands: a role without it could not migrate again.
    let stands: bool = sqlx::query_scalar("SELECT to_regnamespace(quote_ident($1)) IS NOT NULL")
        .bind(schema)
        .fetch_one(&mut *session)
        .await?;
    if !stands {
        sqlx::query(sqlx::AssertSqlSafe(format!("CREATE SCHEMA \"{schema}\"")))
            .execute(&mut *session)
            .await?;
    }
    sqlx::query(sqlx::AssertSqlSafe(format!("SET LOCAL search_path TO \"{schema}\"")))
        .execute(&mut *session)
        .await?;
    migrator.run_direct(None, session, false).await?;
    Ok(transaction.commit().await?)
}
