//! The archive's batches, many of them in one text: what holds one up, and what a crash leaves of them.

use std::time::{Duration, Instant};

use segment_counter::ledger::{ArchiveCursor, Job, JobReport, SharedLedger};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection, FromRow, PgConnection};

use super::support::postgres::{Server, execute, server};
use super::{ledger, pair};

/// How many rows a batch takes: tables of these tests are full of many times as many.
const BATCH: u32 = 200;

/// A ledger with so many memberships that ended an hour ago.
async fn full_of_what_ended(url: &str, members: u32) -> SharedLedger {
    let ledger = ledger(url, None);
    ledger.migrate().await.unwrap();
    ledger.record(&[pair("stays")]).await.unwrap();
    execute(
        url,
        &format!(
            "INSERT INTO segment_counter_lane_0.membership (segment_id, user_id, expires_at)
             SELECT s.id, n::text, now() - interval '1 hour' FROM segment_counter.segment s, generate_series(1, {members}) n"
        ),
    )
    .await;
    ledger
}

async fn ask<T: for<'r> FromRow<'r, PgRow> + Send + Unpin>(url: &str, sql: &str) -> T {
    let mut session = PgConnection::connect(url).await.unwrap();
    sqlx::query_as(AssertSqlSafe(sql.to_owned()))
        .fetch_one(&mut session)
        .await
        .unwrap()
}

/// How many are in the history, and how many of them more than once or in the table too.
async fn kept(url: &str) -> (i64, i64) {
    ask(
        url,
        "SELECT count(*), count(*) - count(DISTINCT user_id)
                + (SELECT count(*) FROM segment_counter_lane_0.membership JOIN segment_counter_lane_0.membership_history USING (segment_id, user_id))
           FROM segment_counter_lane_0.membership_history",
    )
    .await
}

/// A pass of the archive, at most so many steps of it: how many were moved, and where to go on.
async fn steps(ledger: &SharedLedger, most: usize) -> (i64, Option<ArchiveCursor>) {
    steps_of(ledger, BATCH, most).await
}

async fn steps_of(ledger: &SharedLedger, batch: u32, most: usize) -> (i64, Option<ArchiveCursor>) {
    let (mut moved, mut cursor) = (0, None);
    for _ in 0..most {
        let batch = ledger.archive_batch(cursor, batch).await.unwrap();
        moved += batch.moved;
        cursor = batch.next;
        if cursor.is_none() {
            break;
        }
    }
    (moved, cursor)
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_somebody_holds_are_left_for_the_next_pass_and_nothing_else_is() {
    let url = server().database().await;
    let ledger = full_of_what_ended(&url, 20_000).await;
    let mut other = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT FROM segment_counter_lane_0.membership WHERE user_id IN ('3000', '3001', '9000', '20000') FOR UPDATE")
        .execute(&mut other)
        .await
        .unwrap();
    let begun = Instant::now();
    assert_eq!(steps(&ledger, 1_000).await, (20_000 - 4, None));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(kept(&url).await, (20_000 - 4, 0));
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    assert_eq!(steps(&ledger, 1_000).await, (4, None));
    assert_eq!(kept(&url).await, (20_000, 0));
    let (in_transactions,): (i64,) = ask(
        &url,
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'",
    )
    .await;
    assert_eq!(in_transactions, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_noted_of_an_archive_survives_a_crash_a_moment_later() {
    let server = Server::start(&[]);
    let url = server.database().await;
    let ledger = full_of_what_ended(&url, 40_000).await;
    let job = ledger.begin_job(Job::Archive, true).await.unwrap().unwrap();
    let (moved, more) = steps(&ledger, 4).await;
    assert!(moved > 10_000 && more.is_some(), "many batches at once: {moved}");
    let report = JobReport {
        processed: moved,
        ..JobReport::default()
    };
    ledger.job_progress(job, &report).await.unwrap();
    tokio::task::block_in_place(|| server.crash_and_restart());
    assert_eq!(kept(&url).await, (moved, 0));
    let ledger = super::ledger(&url, None);
    assert_eq!(steps(&ledger, 1_000).await, (40_000 - moved, None));
    assert_eq!(kept(&url).await, (40_000, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_among_the_moves_is_told_and_spoils_neither_them_nor_the_session() {
    let url = server().database().await;
    let ledger = full_of_what_ended(&url, 40_000).await;
    let (before, cursor) = steps(&ledger, 1).await;
    assert!(
        cursor.is_some_and(|cursor| cursor.full > 0),
        "the next is a text of many moves"
    );
    let refusing = "ALTER TABLE segment_counter_lane_0.membership_history ADD CONSTRAINT refusing CHECK (user_id <> '2900') NOT VALID";
    execute(&url, refusing).await;
    for _ in 0..3 {
        let error = ledger.archive_batch(cursor, BATCH).await.unwrap_err();
        assert!(error.to_string().contains("refusing"), "{error}");
    }
    let (moved, twice) = kept(&url).await;
    assert!(
        moved > before && moved < 2_900 + 200,
        "what came before it was moved: {before}, {moved}"
    );
    assert_eq!(twice, 0);
    execute(
        &url,
        "ALTER TABLE segment_counter_lane_0.membership_history DROP CONSTRAINT refusing",
    )
    .await;
    assert_eq!(steps(&ledger, 1_000).await, (40_000 - moved, None));
    assert_eq!(kept(&url).await, (40_000, 0));
    let ledger = super::ledger(&url, None);
    assert_eq!(ledger.record(&[pair("stays")]).await.unwrap().pairs.len(), 1);
}

#[tokio::test]
async fn a_sweep_clears_what_has_ended_of_many_segments_and_nothing_else() {
    let url = server().database().await;
    let ledger = ledger(&url, None);
    ledger.migrate().await.unwrap();
    // More than a statement clears: of the first and the last segment nothing, of one more than that by itself. Each has three more that ended within the
    // settle time, and five that are to come, far from what a minute more or less would change.
    execute(
        &url,
        "INSERT INTO segment_counter.segment (name, from_pair, created_at) SELECT 's-' || n, false, now() FROM generate_series(1, 40) n;
         INSERT INTO segment_counter_lane_0.segment_expiry (segment_id, expires_at, members)
         SELECT s.id, date_trunc('minute', now()) + interval '1 minute' * e.minute, 2
           FROM segment_counter.segment s
          CROSS JOIN LATERAL (SELECT CASE s.name WHEN 's-1' THEN 0 WHEN 's-40' THEN 0 WHEN 's-20' THEN 15000 ELSE 700 END AS past) p
          CROSS JOIN LATERAL (SELECT -12 - n FROM generate_series(1, p.past) n
                              UNION ALL SELECT -n FROM generate_series(1, 3) n UNION ALL SELECT 30 + n FROM generate_series(1, 5) n) e(minute);
         INSERT INTO segment_counter_lane_0.segment_total (segment_id, members)
         SELECT segment_id, sum(members) FROM segment_counter_lane_0.segment_expiry GROUP BY 1",
    )
    .await;
    let all = ledger.least_recently_recounted(100).await.unwrap();
    let counts = async || -> Vec<i64> {
        ledger
            .count(&all)
            .await
            .unwrap()
            .iter()
            .map(|count| count.members)
            .collect()
    };
    assert_eq!(counts().await, vec![10; 40]);
    assert_eq!(ledger.sweep(30).await.unwrap().counters, 15_000 + 37 * 700);
    assert_eq!(counts().await, vec![10; 40]);
    let (rest,): (i64,) = ask(&url, "SELECT count(*) FROM segment_counter_lane_0.segment_expiry").await;
    assert_eq!(rest, 40 * 8);
    assert_eq!(ledger.sweep(30).await.unwrap().counters, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_of_several_commits_leave_out_nothing_that_is_held_or_bears_a_removal() {
    // No multiple of what is committed at a time.
    let (batch, members) = (3_300, 60_000);
    let url = server().database().await;
    let ledger = full_of_what_ended(&url, members).await;
    // Removals that are remembered, and others that need be no longer: sixty each.
    execute(
        &url,
        "UPDATE segment_counter_lane_0.membership SET removed_at = now() - interval '1 minute' WHERE user_id LIKE '%100' AND expires_at < now();
         UPDATE segment_counter_lane_0.membership SET removed_at = now() - interval '2 years' WHERE user_id LIKE '%500' AND expires_at < now()",
    )
    .await;
    // As they lay, with nothing dead between them.
    execute(&url, "VACUUM FULL segment_counter_lane_0.membership").await;
    let mut other = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT FROM segment_counter_lane_0.membership WHERE user_id IN ('20001', '45500', '55100', '60000') FOR UPDATE")
        .execute(&mut other)
        .await
        .unwrap();
    let all = i64::from(members);
    assert_eq!(steps_of(&ledger, batch, 1_000).await, (all - 4, None));
    assert_eq!(kept(&url).await, (all - 4, 59), "what is remembered stays as its mark");
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    assert_eq!(steps_of(&ledger, batch, 1_000).await, (4, None));
    assert_eq!(kept(&url).await, (all, 60));
    let (rows,): (i64,) = ask(&url, "SELECT count(*) FROM segment_counter_lane_0.membership").await;
    assert_eq!(rows, 60 + 1);
}
