//! Jobs and erasures: what only PostgreSQL can hold up or mislead.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use segment_counter::counting::UserId;
use segment_counter::ledger::{Location, Settings, open};
use sqlx::{Connection, PgConnection};

use super::support::postgres::{execute, server};
use super::{ledger, pair};

#[tokio::test]
async fn old_history_is_dropped_whatever_the_planner_knows_of_the_catalogues() {
    let server = server();
    let url = server.database().await;
    let ledger = ledger(&url, None);
    ledger.migrate().await.unwrap();
    // Indexes are partitioned too, and their names end in no month: with these figures the planner looks at names first.
    execute(&url, "VACUUM ANALYZE").await;
    assert_eq!(ledger.sweep(30).await.unwrap().partitions, 0);
    execute(
        &url,
        "CREATE TABLE segment_counter.segment_history_2020_01 PARTITION OF segment_counter.segment_history
           FOR VALUES FROM ('2020-01-01 00:00+00') TO ('2020-02-01 00:00+00')",
    )
    .await;
    assert_eq!(ledger.sweep(30).await.unwrap().partitions, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recount_that_takes_longer_than_a_statement_may_is_done_all_the_same() {
    let url = server().database().await;
    let settings = Settings {
        settle: Duration::from_secs(1),
        ..Settings::default()
    };
    let ledger = open(&Location::parse(&url, None, "segment_counter", 4).unwrap(), settings).unwrap();
    ledger.migrate().await.unwrap();
    ledger.record(&[pair("a"), pair("b")]).await.unwrap();
    let all = ledger.least_recently_recounted(10).await.unwrap();
    // What holds it up for longer than the half second of its statements.
    let mut other = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE segment_counter_lane_0.membership IN ACCESS EXCLUSIVE MODE")
        .execute(&mut other)
        .await
        .unwrap();
    let begun = Instant::now();
    let recounting = tokio::spawn(async move { ledger.recount(&all).await });
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    let found = recounting.await.unwrap().unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(1_500));
    assert_eq!((found.len(), found[0].members, found[0].drift), (1, 2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn erasures_at_once_wait_for_nobodys_session() {
    let url = server().database().await;
    for connections in [1, 4] {
        let location = Location::parse(&url, None, "segment_counter", connections).unwrap();
        let ledger = open(&location, Settings::default()).unwrap();
        ledger.migrate().await.unwrap();
        let users: Vec<String> = (0..20).map(|user| format!("{connections}-{user}")).collect();
        let pairs: Vec<_> = users.iter().map(|user| pair(user)).collect();
        ledger.record(&pairs).await.unwrap();
        let names: Vec<UserId> = users.iter().map(|user| UserId::new(user).unwrap()).collect();
        let erased = join_all(names.iter().map(|user| ledger.erase(user))).await;
        for erasure in erased {
            assert_eq!(erasure.unwrap().memberships, 1);
        }
    }
}

/// The counters of as many users in one segment.
const A_HUNDRED_THAT_HAVE_ENDED_AND_TEN_THAT_HAVE_NOT: &str = "
INSERT INTO segment_counter.segment (name, from_pair, created_at) VALUES ('s', false, now());
INSERT INTO segment_counter_lane_0.segment_expiry (segment_id, expires_at, members)
SELECT id, date_trunc('minute', now()) + interval '1 minute' * minute, 1 FROM segment_counter.segment,
       (SELECT 30 + n FROM generate_series(1, 10) n UNION ALL SELECT -12 - n FROM generate_series(1, 100) n) e(minute);
INSERT INTO segment_counter_lane_0.segment_total (segment_id, members)
SELECT segment_id, sum(members) FROM segment_counter_lane_0.segment_expiry GROUP BY 1";

#[tokio::test(flavor = "multi_thread")]
async fn one_count_moves_its_total_on_however_few_sessions_there_are() {
    for connections in [1, 2, 4] {
        let url = server().database().await;
        let location = Location::parse(&url, None, "segment_counter", connections).unwrap();
        open(&location, Settings::default()).unwrap().migrate().await.unwrap();
        execute(&url, A_HUNDRED_THAT_HAVE_ENDED_AND_TEN_THAT_HAVE_NOT).await;
        let ledger = open(&location, Settings::default()).unwrap();
        let all = ledger.least_recently_recounted(1).await.unwrap();
        assert_eq!(ledger.count(&all).await.unwrap()[0].members, 10);
        let mut session = PgConnection::connect(&url).await.unwrap();
        let begun = Instant::now();
        loop {
            let moved = "SELECT since > now() - interval '1 hour' FROM segment_counter_lane_0.segment_total";
            let moved: bool = sqlx::query_scalar(moved).fetch_one(&mut session).await.unwrap();
            if moved {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(5), "with {connections} sessions");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(ledger.count(&all).await.unwrap()[0].members, 10);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_are_answered_where_no_total_can_be_moved_on() {
    let url = server().database().await;
    ledger(&url, None).migrate().await.unwrap();
    execute(&url, A_HUNDRED_THAT_HAVE_ENDED_AND_TEN_THAT_HAVE_NOT).await;
    let database = url.rsplit_once('/').unwrap().1;
    let read_only = format!("ALTER DATABASE {database} SET default_transaction_read_only = on");
    execute(&url, &read_only).await;
    let ledger = ledger(&url, None);
    let all = ledger.least_recently_recounted(1).await.unwrap();
    for _ in 0..10 {
        assert_eq!(ledger.count(&all).await.unwrap()[0].members, 10);
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    let mut session = PgConnection::connect(&url).await.unwrap();
    let moved = "SELECT since > now() - interval '1 hour' FROM segment_counter_lane_0.segment_total";
    assert!(
        !sqlx::query_scalar::<_, bool>(moved)
            .fetch_one(&mut session)
            .await
            .unwrap()
    );
}
