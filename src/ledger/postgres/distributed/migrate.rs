//! Makes a ledger distributed, and keeps it so.

use sqlx::PgConnection;

use super::WRITERS_LOCK;
use crate::ledger::LedgerError;
use crate::ledger::postgres::{PostgresLedger, lanes};

/// The version of the functions. A function that changes its answer gets another name, or other parameters, and so stands beside the one before: processes
/// of the version before can go on, in lanes that stood before. Whatever changes, this is raised.
const VERSION: i64 = 6;

/// The tables that statements of lanes look at: a copy on every machine, written on all of them at once.
const LOOKED_AT: [&str; 5] = ["segment", "lane", "removal_epoch", "suppression", "suppression_key"];

/// The functions of a lane. With its parameters: one that Citus calls on the lane's machine.
const OF_LANE: [(&str, Option<&str>); 7] = [
    (
        include_str!("record.sql"),
        Some("record(timestamptz, bigint[], text[], bigint[], bigint[], bigint, bigint, bigint, bigint)"),
    ),
    (include_str!("remove.sql"), None),
    (include_str!("erase.sql"), Some("erase_user(timestamptz, text, bigint)")),
    (
        include_str!("archive.sql"),
        Some("archive(timestamptz, bigint, bigint, bigint, bigint, bigint)"),
    ),
    (include_str!("recount.sql"), None),
    (
        include_str!("advance_totals.sql"),
        Some("advance_totals(timestamptz, bigint, bigint[])"),
    ),
    (
        include_str!("clear_buckets.sql"),
        Some("clear_buckets(timestamptz, bigint, bigint[], bigint)"),
    ),
];

/// What several of them do in the end.
const COUNTERS: &str = include_str!("counters.sql");

/// What the versions before had for spans, and for buckets by another name or fewer parameters.
const NO_LONGER: [&str; 3] = [
    "clear_buckets(timestamptz, bigint, bigint)",
    "sweep_segment_bucket(timestamptz, bigint, bigint)",
    "sweep_segment_span(timestamptz, bigint, bigint)",
];

const OF_BASE: [&str; 4] = [
    include_str!("put_segment.sql"),
    include_str!("raise_epoch.sql"),
    include_str!("finish_erasure.sql"),
    include_str!("forget_suppressions.sql"),
];

/// The version of the functions that stand, and the one that is needed; `None`: the ledger is not distributed.
pub(in super::super) async fn version(
    ledger: &PostgresLedger,
    session: &mut PgConnection,
) -> Result<Option<(i64, i64)>, LedgerError> {
    Ok(noted(ledger, session).await?.map(|stands| (stands, VERSION)))
}

async fn noted(ledger: &PostgresLedger, session: &mut PgConnection) -> Result<Option<i64>, LedgerError> {
    let stands: bool = sqlx::query_scalar("SELECT to_regclass(format('%I.distribution', $1)) IS NOT NULL")
        .bind(&ledger.base)
        .fetch_one(&mut *session)
        .await?;
    if !stands {
        return Ok(None);
    }
    let asking = sqlx::query_scalar(ledger.sql("SELECT version::bigint FROM \"{base}\".distribution"));
    Ok(asking.fetch_optional(session).await?)
}

/// A migration that distributes.
pub(in super::super) struct Distribution<'a> {
    ledger: &'a PostgresLedger,
    noted: Option<i64>,
}

impl<'a> Distribution<'a> {
    /// `None` where the migration was not asked to distribute and none before it was; what was distributed stays so.
    ///
    /// # Errors
    /// [`LedgerError::Schema`] where Citus is not there, or is not ready for it.
    pub(in super::super) async fn wanted(
        ledger: &'a PostgresLedger,
        session: &mut PgConnection,
    ) -> Result<Option<Self>, LedgerError> {
        let noted = noted(ledger, session).await?;
        if noted.is_none() && !ledger.settings.distributed {
            return Ok(None);
        }
        // Calls of Citus are planned by their values, and may take as long as they need. The session is closed after this.
        for setting in ["SET plan_cache_mode = auto", "SET statement_timeout = 0"] {
            sqlx::query(setting).execute(&mut *session).await?;
        }
        ready(session).await?;
        Ok(Some(Self { ledger, noted }))
    }

    fn is_done(&self) -> bool {
        self.noted.is_some_and(|version| version >= VERSION)
    }

    /// The base schema: its tables that lanes look at, and its functions.
    pub(in super::super) async fn of_base(&self, session: &mut PgConnection) -> Result<(), LedgerError> {
        if self.is_done() {
            return Ok(());
        }
        for table in LOOKED_AT {
            let table = format!("\"{}\".{table}", self.ledger.base);
            let stands = "SELECT EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = to_regclass($1))";
            let stands: bool = sqlx::query_scalar(stands).bind(&table).fetch_one(&mut *session).await?;
            if !stands {
                run(session, &format!("SELECT create_reference_table('{table}')")).await?;
            }
            forget_local_rows(session, &table).await?;
        }
        for text in OF_BASE {
            run(session, &text.replace("{base}", &self.ledger.base)).await?;
        }
        Ok(())
    }

    /// A lane, with what stands in it already, and its functions. `stands`: other processes know it.
    pub(in super::super) async fn of_lane(
        &self,
        number: i32,
        stands: bool,
        session: &mut PgConnection,
    ) -> Result<(), LedgerError> {
        if stands && self.is_done() {
            return Ok(());
        }
        let schema = lanes::schema_of(&self.ledger.base, number);
        let histories: Vec<String> = sqlx::query_scalar(
            "SELECT i.inhrelid::regclass::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
              WHERE i.inhparent = to_regclass(format('%I.membership_history', $1)) AND c.relreplident <> 'f'",
        )
        .bind(&schema)
        .fetch_all(&mut *session)
        .await?;
        for partition in histories {
            run(session, &movable(&partition)).await?;
        }
        let distributed: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_dist_schema WHERE schemaid = to_regnamespace($1))")
                .bind(&schema)
                .fetch_one(&mut *session)
                .await?;
        if !distributed {
            run(session, &format!("SELECT citus_schema_distribute('{schema}')")).await?;
        }
        for table in [
            "membership",
            "segment_expiry",
            "segment_total",
            "membership_history",
            "_sqlx_migrations",
        ] {
            forget_local_rows(session, &format!("\"{schema}\".{table}")).await?;
        }
        let fill = |text: &str| {
            text.replace("{counters}", COUNTERS.trim_end())
                .replace("{base}", &self.ledger.base)
                .replace("{lane}", &schema)
                .replace("{number}", &number.to_string())
                .replace("{writers}", &WRITERS_LOCK.to_string())
        };
        for (text, parameters) in OF_LANE {
            run(session, &fill(text)).await?;
            if let Some(function) = parameters {
                call_there(session, &schema, function).await?;
            }
        }
        for function in NO_LONGER {
            run(session, &format!("DROP FUNCTION IF EXISTS \"{schema}\".{function}")).await?;
        }
        Ok(())
    }

    /// Notes that it is done: processes find out by this.
    pub(in super::super) async fn note(&self, session: &mut PgConnection) -> Result<(), LedgerError> {
        if self.is_done() {
            return Ok(());
        }
        let base = &self.ledger.base;
        run(
            session,
            &format!(
                "CREATE TABLE IF NOT EXISTS \"{base}\".distribution (
                   only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
                   version  integer NOT NULL
                 )"
            ),
        )
        .await?;
        run(
            session,
            &format!(
                "INSERT INTO \"{base}\".distribution AS d (version) VALUES ({VERSION})
                 ON CONFLICT (only_row) DO UPDATE SET version = EXCLUDED.version"
            ),
        )
        .await
    }
}

/// What makes a partition of a lane's history one that Citus moves while it is written, rows deleted from it too: it has no key to find them by.
pub(in super::super) fn movable(partition: &str) -> String {
    format!("ALTER TABLE {partition} REPLICA IDENTITY FULL")
}

/// Whether Citus is there, this is its coordinator, and it knows so.
async fn ready(session: &mut PgConnection) -> Result<(), LedgerError> {
    let refused = |why: &str| Err(LedgerError::Schema(format!("`migrate --distributed`: {why}")));
    let installed: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')")
        .fetch_one(&mut *session)
        .await?;
    if !installed {
        return refused(
            "the extension `citus` is not in this database: name it in shared_preload_libraries of every node and restart, \
             run CREATE EXTENSION citus in a database of this name on each, then citus_set_coordinator_host and citus_add_node here",
        );
    }
    let (group, nodes, itself, takers): (i32, i64, i64, i64) = sqlx::query_as(
        "SELECT (SELECT groupid FROM pg_dist_local_group), count(*), count(*) FILTER (WHERE groupid = 0), count(*) FILTER (WHERE shouldhaveshards)
           FROM pg_dist_node",
    )
    .fetch_one(session)
    .await?;
    if group != 0 {
        return refused("this is a worker of Citus: database_url must lead to the coordinator");
    }
    // Where it knows no node at all, Citus adds the coordinator by itself.
    if nodes > 0 && itself == 0 {
        return refused(
            "the coordinator is no node yet, so it holds no copy of the small tables: SELECT citus_set_coordinator_host(HOST, PORT)",
        );
    }
    if nodes > 0 && takers == 0 {
        return refused("no node takes lanes: SELECT citus_add_node(HOST, PORT) for each worker");
    }
    Ok(())
}

/// From now on Citus calls the function on the machine of the lane.
async fn call_there(session: &mut PgConnection, schema: &str, function: &str) -> Result<(), LedgerError> {
    let text = format!(
        "SELECT create_distributed_function('\"{schema}\".{function}', colocate_with := '{schema}.membership')"
    );
    run(session, &text).await
}

/// Distributing copies rows and hides those it copied from, which stay on the coordinator's disk.
async fn forget_local_rows(session: &mut PgConnection, table: &str) -> Result<(), LedgerError> {
    run(
        session,
        &format!("SELECT truncate_local_data_after_distributing_table('{table}')"),
    )
    .await
}

/// All that is filled in is proven, or the catalogue's own.
async fn run(session: &mut PgConnection, text: &str) -> Result<(), LedgerError> {
    sqlx::query(sqlx::AssertSqlSafe(text.to_owned()))
        .execute(session)
        .await?;
    Ok(())
}
