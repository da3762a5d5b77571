//! Whom a sweep meets: writers whose commit takes longer than anything of ours allows, since no limit on statements bounds it, and writers with another
//! settle time.

use std::time::{Duration, Instant};

use segment_counter::counting::{SegmentName, Window};
use segment_counter::ledger::{Location, Settings, TestClock, open};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::pair;
use super::support::postgres::{Server, server};

pub async fn until_sessions_wait(url: &str, so: &str) {
    let mut session = PgConnection::connect(url).await.unwrap();
    let waiting = format!("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND {so})");
    let begun = Instant::now();
    while !sqlx::query_scalar::<_, bool>(AssertSqlSafe(waiting.clone()))
        .fetch_one(&mut session)
        .await
        .unwrap()
    {
        assert!(begun.elapsed() < Duration::from_secs(10), "nobody waits");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub async fn standby(server: &Server, setting: &str) {
    server.execute(&format!("ALTER SYSTEM {setting}")).await;
    server.execute("SELECT pg_reload_conf()").await;
    // Sessions see it between two statements.
    tokio::time::sleep(Duration::from_millis(200)).await;
}

/// A renewal is under way when the standby goes; its old bucket settles while the commit waits, and a sweep comes by, or a count of many buckets.
async fn a_renewal_waits_for_a_standby(sweeps: bool) {
    let server = Server::start(&[]);
    let url = server.database().await;
    let clock = TestClock::at("2026-03-01T12:00:00Z".parse().unwrap());
    let settings = Settings {
        settle: Duration::from_secs(2),
        clock: Some(clock.clone()),
        ..Settings::default()
    };
    let location = Location::parse(&url, None, "segment_counter", 4).unwrap();
    let ledger = open(&location, settings.clone()).unwrap();
    ledger.migrate().await.unwrap();
    // One ends in each of the minutes to come; the first is renewed below.
    let mut ending = vec![];
    for minute in 1..=40 {
        let mut ends = pair(&format!("ends-{minute}"));
        ends.ttl = Some(Window::from_seconds(60 * minute).unwrap());
        ending.push(ends);
    }
    ledger.record(&ending).await.unwrap();
    let all = ledger.least_recently_recounted(1).await.unwrap();
    assert_eq!(ledger.count(&all).await.unwrap()[0].members, 40);

    standby(&server, "SET synchronous_standby_names = 'gone'").await;
    let renewing = tokio::spawn({
        let ledger = ledger.clone();
        async move { ledger.record(&[pair("ends-1")]).await }
    });
    until_sessions_wait(&url, "wait_event = 'SyncRep'").await;
    clock.set("2026-03-01T13:00:00Z".parse().unwrap());
    let meanwhile = tokio::spawn({
        let (ledger, all) = (ledger.clone(), all.clone());
        async move {
            if sweeps {
                return ledger.sweep(30).await.unwrap().counters;
            }
            let counted = ledger.count(&all).await.unwrap();
            assert_eq!(counted[0].members, 0, "what has not been committed is not counted");
            0
        }
    });
    tokio::time::sleep(Duration::from_millis(700)).await;
    standby(&server, "RESET synchronous_standby_names").await;
    let _ = renewing.await.unwrap();
    let cleared = meanwhile.await.unwrap();

    // Whatever became of its answer, the renewal stands, and so it counts.
    let mut session = PgConnection::connect(&url).await.unwrap();
    let renewed = "SELECT count(*) FROM segment_counter_lane_0.membership WHERE expires_at > '2026-03-02'";
    assert_eq!(
        sqlx::query_scalar::<_, i64>(renewed)
            .fetch_one(&mut session)
            .await
            .unwrap(),
        1
    );
    assert_eq!(ledger.count(&all).await.unwrap()[0].members, 1);
    if !sweeps {
        // By another process: this one tries again only after a while, where it gave up waiting.
        let ledger = open(&location, settings).unwrap();
        let total = "SELECT since > '2026-03-01' FROM segment_counter_lane_0.segment_total";
        let begun = Instant::now();
        while !sqlx::query_scalar::<_, bool>(total)
            .fetch_one(&mut session)
            .await
            .unwrap()
        {
            assert!(begun.elapsed() < Duration::from_secs(10), "no count moved the total on");
            ledger.count(&all).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(ledger.count(&all).await.unwrap()[0].members, 1);
    }
    assert_eq!(cleared + ledger.sweep(30).await.unwrap().counters, 40);
    assert_eq!(ledger.count(&all).await.unwrap()[0].members, 1);
    let recounted = ledger.recount(&all).await.unwrap();
    assert_eq!((recounted[0].members, recounted[0].drift), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_takes_nothing_out_of_totals_that_a_commit_under_way_may_still_move() {
    a_renewal_waits_for_a_standby(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_moves_no_total_past_what_a_commit_under_way_may_still_move() {
    a_renewal_waits_for_a_standby(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_with_a_longer_settle_time_is_seen_by_a_sweep_that_waits_meanwhile() {
    let url = server().database().await;
    let clock = TestClock::at("2026-03-01T12:00:00Z".parse().unwrap());
    let settled_after = |seconds| {
        let settings = Settings {
            settle: Duration::from_secs(seconds),
            clock: Some(clock.clone()),
            ..Settings::default()
        };
        open(&Location::parse(&url, None, "segment_counter", 4).unwrap(), settings).unwrap()
    };
    let (slow, quick) = (settled_after(1_800), settled_after(300));
    slow.migrate().await.unwrap();
    let ends_soon = |segment| {
        let mut pair = pair("u");
        pair.segment = SegmentName::new(segment).unwrap();
        pair.ttl = Some(Window::from_seconds(60).unwrap());
        pair
    };
    slow.record(&[ends_soon("first"), ends_soon("second")]).await.unwrap();
    clock.set("2026-03-01T12:11:00Z".parse().unwrap());
    // The first total holds the sweep up, whose look at the second one was before the renewal.
    let mut other = PgConnection::connect(&url).await.unwrap();
    let hold = "BEGIN; SELECT FROM segment_counter_lane_0.segment_total t JOIN segment_counter.segment s ON s.id = t.segment_id
                 WHERE s.name = 'first' FOR UPDATE OF t";
    sqlx::raw_sql(hold).execute(&mut other).await.unwrap();
    let sweeping = tokio::spawn(async move { quick.sweep(30).await.unwrap() });
    until_sessions_wait(&url, "wait_event_type = 'Lock'").await;
    let mut renewed = ends_soon("second");
    renewed.ttl = None;
    slow.record(&[renewed]).await.unwrap();
    sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    assert_eq!(sweeping.await.unwrap().counters, 2);
    let all = slow.least_recently_recounted(10).await.unwrap();
    let counted = slow.count(&all).await.unwrap();
    assert_eq!(counted.iter().map(|count| count.members).sum::<i64>(), 1);
    for recounted in slow.recount(&all).await.unwrap() {
        assert_eq!(recounted.drift, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_passes_over_no_total_that_a_count_moves_on_meanwhile() {
    let url = server().database().await;
    let clock = TestClock::at("2026-03-01T12:00:00Z".parse().unwrap());
    let settings = Settings {
        clock: Some(clock.clone()),
        ..Settings::default()
    };
    let ledger = open(&Location::parse(&url, None, "segment_counter", 4).unwrap(), settings).unwrap();
    ledger.migrate().await.unwrap();
    let ends_after = |minutes: i64| {
        let mut pair = pair(&format!("u{minutes}"));
        pair.ttl = Some(Window::from_seconds(60 * minutes).unwrap());
        pair
    };
    let pairs: Vec<_> = (1..=20).map(ends_after).collect();
    ledger.record(&pairs).await.unwrap();
    clock.set("2026-03-01T13:00:00Z".parse().unwrap());
    // Somebody takes out of the total what ended until a while ago, and commits when the sweep waits for it.
    let mut other = PgConnection::connect(&url).await.unwrap();
    let moved_on =
        "BEGIN; UPDATE segment_counter_lane_0.segment_total SET members = members - 5, since = '2026-03-01T12:05:00Z'";
    sqlx::raw_sql(moved_on).execute(&mut other).await.unwrap();
    let sweeping = tokio::spawn({
        let ledger = ledger.clone();
        async move { ledger.sweep(30).await.unwrap() }
    });
    until_sessions_wait(&url, "wait_event_type = 'Lock'").await;
    sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    assert_eq!(sweeping.await.unwrap().counters, 20);
    let all = ledger.least_recently_recounted(10).await.unwrap();
    assert_eq!(ledger.recount(&all).await.unwrap()[0].drift, 0);
}
