//! The partitions of the histories: one a month, made ahead, dropped whole when their month is past retention.

use std::sync::PoisonError;
use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tokio::time::Instant;

use super::session::{STEP, over};
use super::{PostgresLedger, distributed};
use crate::ledger::LedgerError;

/// How often a migration tries where somebody reads a history.
const TRIES: u32 = 60;

/// How long what was looked at is believed to stand.
const LOOK_EVERY: Duration = Duration::from_secs(300);

/// Two that make the same partition at once would collide in the catalogue.
const PARTITION_LOCK: i64 = 0x5e67_c002;

/// Makes the partitions of this month and the next where they are absent.
pub(super) async fn ensure(ledger: &PostgresLedger, session: &mut PgConnection) -> Result<(), LedgerError> {
    // The next month's are there too, so a look now and then is enough; but where a suite moves time, any look may be a month later.
    let now = Instant::now();
    let looked = *ledger.partitions_seen.lock().unwrap_or_else(PoisonError::into_inner);
    if ledger.settings.clock.is_none() && looked.is_some_and(|at| now.duration_since(at) < LOOK_EVERY) {
        return Ok(());
    }
    match look(ledger, session).await {
        // Somebody reads a history for long (a dump). What is missing is the next month's, but where nobody looked for a month: it can wait.
        Err(LedgerError::Timeout(why)) => {
            tracing::warn!(why, "the next partitions of the history are not made yet");
        }
        done => done?,
    }
    *ledger.partitions_seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    Ok(())
}

async fn look(ledger: &PostgresLedger, session: &mut PgConnection) -> Result<(), LedgerError> {
    let lanes = match ledger.lanes.load_full() {
        Some(lanes) => lanes,
        None => ledger.read_lanes(&mut *session).await?,
    };
    let lanes_of: Vec<&str> = lanes.iter().map(|lane| lane.schema.as_str()).collect();
    make(ledger, &lanes_of, lanes.distributed, session).await
}

/// Makes those of a lane, known to other processes or not yet, and of the trend, however long somebody reads them.
pub(super) async fn make_patiently(
    ledger: &PostgresLedger,
    lane: &str,
    distributed: bool,
    session: &mut PgConnection,
) -> Result<(), LedgerError> {
    for _ in 1..TRIES {
        match make(ledger, &[lane], distributed, session).await {
            Err(LedgerError::Timeout(_)) => tokio::time::sleep(Duration::from_millis(500)).await,
            done => return done,
        }
    }
    make(ledger, &[lane], distributed, session).await
}

async fn make(
    ledger: &PostgresLedger,
    lanes: &[&str],
    distributed: bool,
    session: &mut PgConnection,
) -> Result<(), LedgerError> {
    // Looks first: in all but one run a month there is nothing to do, and nothing to lock.
    let missing: Vec<(String, String, String, String)> = sqlx::query_as(
        "SELECT p.parent, p.parent || to_char(m.month, '_YYYY_MM'),
                to_char(m.month, 'YYYY-MM-DD'), to_char(m.month + interval '1 month', 'YYYY-MM-DD')
           FROM unnest($2::text[]) WITH ORDINALITY AS p(parent, ordinal),
                (SELECT date_trunc('month', coalesce($1, clock_timestamp()) AT TIME ZONE 'UTC') + n * interval '1 month' AS month
                   FROM generate_series(0, 1) AS n) m
          WHERE to_regclass(p.parent || to_char(m.month, '_YYYY_MM')) IS NULL
          ORDER BY p.ordinal, m.month",
    )
    .bind(ledger.clock())
    .bind(parents(ledger, lanes))
    .fetch_all(&mut *session)
    .await?;
    if missing.is_empty() {
        return Ok(());
    }
    // A lock of the transaction, not of the session: behind a pooler the next statement may be another session's.
    let mut transaction = session.begin().await?;
    // Whoever writes the history waits behind this.
    sqlx::query(ledger.lock_timeout()).execute(&mut *transaction).await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(PARTITION_LOCK)
        .execute(&mut *transaction)
        .await?;
    for (parent, name, from, to) in missing {
        sqlx::query(sqlx::AssertSqlSafe(format!(
            "CREATE TABLE IF NOT EXISTS {name} PARTITION OF {parent} FOR VALUES FROM ('{from} 00:00+00') TO ('{to} 00:00+00')"
        )))
        .execute(&mut *transaction)
        .await?;
        if distributed && parent.ends_with(".membership_history") {
            sqlx::query(sqlx::AssertSqlSafe(distributed::movable(&name)))
                .execute(&mut *transaction)
                .await?;
        }
    }
    Ok(transaction.commit().await?)
}

/// Drops the partitions whose month ended more than `keep_days` ago; says how many.
pub(super) async fn drop_past(ledger: &PostgresLedger, keep_days: u32) -> Result<i64, LedgerError> {
    let lanes = ledger.all_lanes().await?;
    let lanes: Vec<&str> = lanes.iter().map(|lane| lane.schema.as_str()).collect();
    let finding = sqlx::query_scalar(
        // Materialised: pg_inherits holds indexes too, whose names end in no month, and a plan may look at a name before at its parent.
        "WITH partition AS MATERIALIZED (
           SELECT c.oid, c.relname
             FROM unnest($2::text[]) AS p(parent)
             JOIN pg_inherits i ON i.inhparent = to_regclass(p.parent)
             JOIN pg_class c ON c.oid = i.inhrelid
         )
         SELECT oid::regclass::text FROM partition
          WHERE (to_date(right(relname, 7), 'YYYY_MM') + interval '1 month') AT TIME ZONE 'UTC'
                <= coalesce($1, clock_timestamp()) - $3 * interval '1 day'
          ORDER BY 1",
    )
    .bind(ledger.clock())
    .bind(parents(ledger, &lanes))
    .bind(i32::try_from(keep_days).unwrap_or(i32::MAX));
    let past: Vec<String> = over!(ledger, STEP, session => finding.fetch_all(&mut *session))?;
    for name in &past {
        let dropping = sqlx::query(sqlx::AssertSqlSafe(format!("DROP TABLE IF EXISTS {name}")));
        over!(ledger, STEP, session => async {
            let mut transaction = session.begin().await?;
            sqlx::query(ledger.lock_timeout()).execute(&mut *transaction).await?;
            dropping.execute(&mut *transaction).await?;
            transaction.commit().await
        })?;
    }
    Ok(i64::try_from(past.len()).unwrap_or(i64::MAX))
}

fn parents(ledger: &PostgresLedger, lanes: &[&str]) -> Vec<String> {
    // The base schema's name may be a word of SQL's; those of lanes are none.
    let trend = format!("\"{}\".segment_history", ledger.base);
    let histories = lanes.iter().map(|lane| format!("{lane}.membership_history"));
    std::iter::once(trend).chain(histories).collect()
}
