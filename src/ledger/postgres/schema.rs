//! The schema: base and lane, each by its own migrations.

use sqlx::migrate::Migrator;
use sqlx::{Acquire, Connection, PgConnection};

use super::{PostgresLedger, partitions};
use crate::ledger::{LedgerError, SchemaState};

static BASE: Migrator = sqlx::migrate!("src/ledger/postgres/migrations/base");
static LANE: Migrator = sqlx::migrate!("src/ledger/postgres/migrations/lane");

/// One migration of one database at a time, whatever the schema: an arbitrary number of our own.
const MIGRATION_LOCK: i64 = 0x5e67_c001;

fn newest(migrator: &Migrator) -> i64 {
    migrator.iter().map(|migration| migration.version).max().unwrap_or(0)
}

impl PostgresLedger {
    pub(super) async fn run_migrations(&self) -> Result<SchemaState, LedgerError> {
        let mut session = self.pool.acquire().await?;
        // A session that stays set to the lane's search_path, or keeps the lock, must not go back to the pool.
        session.close_on_drop();
        let session: &mut PgConnection = session.acquire().await?;
        // A migration may take as long as it needs.
        sqlx::query("SET statement_timeout = 0").execute(&mut *session).await?;
        sqlx::query("SELECT pg_advisory_lock($1)")
            .bind(MIGRATION_LOCK)
            .execute(&mut *session)
            .await?;
        for (schema, migrator) in [(&self.base, &BASE), (&self.lane, &LANE)] {
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
            sqlx::query(sqlx::AssertSqlSafe(format!("SET search_path TO \"{schema}\"")))
                .execute(&mut *session)
                .await?;
            migrator.run_direct(None, &mut *session, false).await?;
        }
        partitions::ensure(self, &mut *session).await?;
        sqlx::query("SELECT pg_advisory_unlock($1)")
            .bind(MIGRATION_LOCK)
            .execute(&mut *session)
            .await?;
        session.ping().await?;
        self.schema_state(session).await
    }

    /// The versions of base and lane, added: both only grow, so the sum is current exactly when both are.
    pub(super) async fn schema_state(&self, session: &mut PgConnection) -> Result<SchemaState, LedgerError> {
        let expected = newest(&BASE) + newest(&LANE);
        let both: bool = sqlx::query_scalar(
            "SELECT to_regclass(format('%I._sqlx_migrations', $1)) IS NOT NULL
                AND to_regclass(format('%I._sqlx_migrations', $2)) IS NOT NULL",
        )
        .bind(&self.base)
        .bind(&self.lane)
        .fetch_one(&mut *session)
        .await?;
        if !both {
            return Ok(SchemaState {
                installed: None,
                expected,
            });
        }
        let installed: Option<i64> = sqlx::query_scalar(self.sql(
            "SELECT (SELECT max(version) FROM \"{base}\"._sqlx_migrations WHERE success)
                  + (SELECT max(version) FROM \"{lane}\"._sqlx_migrations WHERE success)",
        ))
        .fetch_one(&mut *session)
        .await?;
        Ok(SchemaState { installed, expected })
    }
}
