//! What only PostgreSQL can do to its ledger: crash, refuse a login, be read-only, be away, be unsafe. Each has its own class of error.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

#[path = "ledger_postgres/archive.rs"]
mod archive;
#[path = "ledger_postgres/failover.rs"]
mod failover;
#[path = "ledger_postgres/jobs.rs"]
mod jobs;
#[path = "ledger_postgres/moves.rs"]
mod moves;
mod support;
#[path = "ledger_postgres/sweeps.rs"]
mod sweeps;

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use segment_counter::counting::{Pair, SegmentName, UserId};
use segment_counter::ledger::{LedgerError, Location, Settings, SharedLedger, open};
use support::postgres::{Server, execute, server};
use support::proxy::Proxy;
use tokio_util::sync::CancellationToken;

fn ledger(url: &str, password: Option<&str>) -> SharedLedger {
    open(
        &Location::parse(url, password, "segment_counter", 4).unwrap(),
        Settings::default(),
    )
    .unwrap()
}

fn pair(user: &str) -> Pair {
    Pair {
        user: UserId::new(user).unwrap(),
        segment: SegmentName::new("s").unwrap(),
        observed_at: None,
        ttl: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_5_a_crash_of_the_server_loses_no_acknowledged_pair() {
    let server = Server::start(&[]);
    let url = server.database().await;
    let first = ledger(&url, None);
    first.migrate().await.unwrap();
    let mut acknowledged = 0_i64;
    for crash in 0..3 {
        let writer = ledger(&url, None);
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let writes = tokio::spawn(async move {
            let mut acknowledged = 0_i64;
            // A crash between two statements fails none of them: the pool reconnects. So it is told to stop as well.
            while !stopped.is_cancelled() {
                let Ok(recorded) = writer.record(&[pair(&format!("{crash}-{acknowledged}"))]).await else {
                    break;
                };
                assert_eq!(recorded.pairs.len(), 1);
                acknowledged += 1;
            }
            acknowledged
        });
        tokio::time::sleep(Duration::from_millis(400)).await;
        tokio::task::block_in_place(|| server.crash_and_restart());
        stop.cancel();
        let done = writes.await.unwrap();
        assert!(done > 0);
        acknowledged += done;
        // The one whose answer the crash cut off may have been committed or not.
        let after = ledger(&url, None);
        let segment = after.resolve(&[SegmentName::new("s").unwrap()]).await.unwrap()[0].unwrap();
        let members = after.count(&[segment]).await.unwrap()[0].members;
        assert!(
            members >= acknowledged && members <= acknowledged + crash + 1,
            "{acknowledged} pairs, {members} members"
        );
        let recount = after.recount(&[segment]).await.unwrap()[0];
        assert_eq!((recount.drift, recount.members), (0, members));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_5_a_server_that_does_not_sync_is_refused() {
    let server = Server::start(&["fsync=off"]);
    let ledger = ledger(&server.database().await, None);
    ledger.migrate().await.unwrap();
    let error = ledger.check().await.unwrap_err();
    assert!(
        matches!(&error, LedgerError::NotDurable(why) if why.contains("fsync")),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_5_a_session_acknowledges_only_what_is_on_disk_whatever_the_role_was_given() {
    let url = server().database().await;
    let database = url.rsplit_once('/').unwrap().1;
    execute(&url, &format!("ALTER DATABASE {database} SET synchronous_commit = off")).await;
    let ledger = ledger(&url, None);
    ledger.migrate().await.unwrap();
    ledger.check().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_no_timeout() {
    let error = ledger(&server().database().await, Some("wrong"))
        .check()
        .await
        .unwrap_err();
    assert!(matches!(error, LedgerError::AuthenticationFailed(_)), "{error:?}");
    assert!(!error.to_string().contains("wrong"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_unreachable_and_serves_again_when_it_is_back() {
    let server = Server::start(&[]);
    let url = server.database().await;
    let ledger = ledger(&url, None);
    ledger.migrate().await.unwrap();
    ledger.record(&[pair("u")]).await.unwrap();
    tokio::task::block_in_place(|| server.stop());
    // The first may meet the dead connection, the next finds nobody at the port.
    for _ in 0..2 {
        let error = ledger.record(&[pair("u")]).await.unwrap_err();
        assert!(matches!(error, LedgerError::Unreachable(_)), "{error:?}");
        assert!(error.is_transient());
    }
    tokio::task::block_in_place(|| server.crash_and_restart());
    // Each session of the pool that died may cost one call; every such error says that a retry may help, and one soon does.
    let mut served = ledger.record(&[pair("u")]).await;
    for _ in 0..10 {
        match &served {
            Ok(_) => break,
            Err(error) => assert!(error.is_transient(), "{error:?}"),
        }
        served = ledger.record(&[pair("u")]).await;
    }
    served.unwrap();
    let nobody = self::ledger("postgres://u@127.0.0.1:1/d", Some("secret"))
        .check()
        .await
        .unwrap_err();
    assert!(matches!(nobody, LedgerError::Unreachable(_)), "{nobody:?}");
    assert!(!nobody.to_string().contains("secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_absent_is_unreachable() {
    let error = ledger(&server().url_of("never_made"), None).check().await.unwrap_err();
    assert!(matches!(error, LedgerError::Unreachable(_)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_database_says_so() {
    let url = server().database().await;
    ledger(&url, None).migrate().await.unwrap();
    let database = url.rsplit_once('/').unwrap().1;
    execute(
        &url,
        &format!("ALTER DATABASE {database} SET default_transaction_read_only = on"),
    )
    .await;
    let ledger = ledger(&url, None);
    for error in [
        ledger.check().await.unwrap_err(),
        ledger.record(&[pair("u")]).await.unwrap_err(),
    ] {
        assert!(matches!(error, LedgerError::ReadOnly(_)), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_rights_lacks_a_privilege() {
    let url = server().database().await;
    ledger(&url, None).migrate().await.unwrap();
    let role = format!("poor_{}", url.rsplit_once('/').unwrap().1);
    execute(&url, &format!("CREATE ROLE {role} LOGIN PASSWORD 'poor'")).await;
    let poor = ledger(
        &format!("postgres://{role}:poor@{}", url.split_once('@').unwrap().1),
        None,
    );
    for error in [
        poor.check().await.unwrap_err(),
        poor.record(&[pair("u")]).await.unwrap_err(),
    ] {
        assert!(matches!(error, LedgerError::MissingPrivilege(_)), "{error:?}");
    }
    execute(
        &url,
        &format!("GRANT USAGE ON SCHEMA segment_counter, segment_counter_lane_0 TO {role}"),
    )
    .await;
    let error = poor.check().await.unwrap_err();
    assert!(matches!(error, LedgerError::MissingPrivilege(_)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_create_in_its_database_needs_nothing_more() {
    let url = server().database().await;
    let database = url.rsplit_once('/').unwrap().1;
    let role = format!("modest_{database}");
    execute(&url, &format!("CREATE ROLE {role} LOGIN PASSWORD 'modest'")).await;
    execute(&url, &format!("GRANT CREATE ON DATABASE {database} TO {role}")).await;
    let modest = ledger(
        &format!("postgres://{role}:modest@{}", url.split_once('@').unwrap().1),
        None,
    );
    modest.migrate().await.unwrap();
    modest.check().await.unwrap();
    modest.record(&[pair("u")]).await.unwrap();
    modest.archive_batch(None, 10).await.unwrap();
    modest.sweep(30).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_password_is_used_for_new_connections_while_it_runs() {
    let url = server().database().await;
    let role = format!("turned_{}", url.rsplit_once('/').unwrap().1);
    execute(&url, &format!("CREATE ROLE {role} LOGIN SUPERUSER PASSWORD 'old'")).await;
    let ledger = ledger(
        &format!("postgres://{role}:old@{}", url.split_once('@').unwrap().1),
        None,
    );
    ledger.migrate().await.unwrap();
    ledger.record(&[pair("u")]).await.unwrap();
    execute(&url, &format!("ALTER ROLE {role} PASSWORD 'new'")).await;
    let all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename = ";
    execute(&url, &format!("{all}'{role}'")).await;
    tokio::time::sleep(std::time::Duration::from_millis(1_200)).await;
    let error = ledger.record(&[pair("u")]).await.unwrap_err();
    assert!(matches!(error, LedgerError::AuthenticationFailed(_)), "{error:?}");
    ledger.set_password("new");
    ledger.record(&[pair("u")]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_batch_takes_time_in_proportion_to_its_size() {
    let url = server().database().await;
    let ledger = ledger(&url, None);
    ledger.migrate().await.unwrap();
    // Planned while the tables are empty, as in a new installation.
    for user in 0..8 {
        ledger.record(&[pair(&user.to_string())]).await.unwrap();
    }
    let mut fastest = std::collections::BTreeMap::new();
    for round in 0..3 {
        for size in [1_000_u32, 8_000] {
            let batch: Vec<_> = (0..size).map(|user| pair(&format!("{round}-{size}-{user}"))).collect();
            let began = std::time::Instant::now();
            ledger.record(&batch).await.unwrap();
            let took = began.elapsed();
            fastest
                .entry(size)
                .and_modify(|least: &mut std::time::Duration| *least = took.min(*least))
                .or_insert(took);
        }
    }
    // 8 times where the time grows with the size, 64 times where it grows with its square.
    let ratio = fastest[&8_000].as_secs_f64() / fastest[&1_000].as_secs_f64();
    assert!(ratio < 30.0, "{ratio:.1} times: {fastest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_says_soon_why_and_does_not_mind_a_busy_pool() {
    let server = Server::start(&[]);
    let url = server.database().await;
    let one = open(
        &Location::parse(&url, None, "segment_counter", 1).unwrap(),
        Settings::default(),
    )
    .unwrap();
    one.migrate().await.unwrap();
    one.record(&[pair("u")]).await.unwrap();
    // Its only connection waits for a lock that another session holds.
    let mut other = <sqlx::PgConnection as sqlx::Connection>::connect(&url).await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE segment_counter_lane_0.membership")
        .execute(&mut other)
        .await
        .unwrap();
    let waiting = tokio::spawn({
        let one = one.clone();
        async move { one.record(&[pair("v")]).await }
    });
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let began = std::time::Instant::now();
    one.check().await.unwrap();
    assert!(
        began.elapsed() < std::time::Duration::from_millis(1_900),
        "{:?}",
        began.elapsed()
    );
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    waiting.await.unwrap().unwrap();
    tokio::task::block_in_place(|| server.stop());
    for _ in 0..3 {
        let began = std::time::Instant::now();
        let error = one.check().await.unwrap_err();
        assert!(matches!(error, LedgerError::Unreachable(_)), "{error:?}");
        assert!(
            began.elapsed() < std::time::Duration::from_millis(1_900),
            "{:?}",
            began.elapsed()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_hold_every_name_is_refused() {
    let url = server().database().await;
    let name = format!("latin_{}", url.rsplit_once('/').unwrap().1);
    server()
        .execute(&format!(
            "CREATE DATABASE {name} ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
        ))
        .await;
    let ledger = ledger(&server().url_of(&name), None);
    ledger.migrate().await.unwrap();
    let error = ledger.check().await.unwrap_err();
    assert!(
        matches!(&error, LedgerError::UnsupportedVersion(why) if why.contains("LATIN1") && why.contains("UTF8")),
        "{error:?}"
    );
}

/// What a machine that is gone looks like: connections stand, nothing comes back, and nobody says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_falls_silent_is_given_up_and_keeps_no_session_for_ever() {
    let url = server().database().await;
    let proxy = Proxy::in_front_of(&url);
    let ledger = ledger(&proxy.url(&url), None);
    ledger.migrate().await.unwrap();
    ledger.record(&[pair("first")]).await.unwrap();
    let segment = ledger.resolve(&[SegmentName::new("s").unwrap()]).await.unwrap()[0].unwrap();
    let counts = || join_all((0..4).map(|_| async { ledger.count(&[segment]).await }));
    assert!(
        counts().await.iter().all(Result::is_ok),
        "every session is there and was used just now"
    );

    // Who goes away in the middle leaves no session behind that waits for an answer.
    proxy.black_hole();
    let one = [segment];
    let impatient = (0..4).map(|_| tokio::time::timeout(Duration::from_millis(300), ledger.count(&one)));
    assert!(join_all(impatient).await.iter().all(Result::is_err));
    proxy.heal();
    assert!(
        counts().await.iter().all(Result::is_ok),
        "the sessions that were given up are made anew"
    );

    // Who stays is told.
    proxy.black_hole();
    let asked = Instant::now();
    let error = ledger.record(&[pair("second")]).await.unwrap_err();
    assert!(matches!(error, LedgerError::Timeout(_)), "{error:?}");
    assert!(
        error.is_transient() && asked.elapsed() < Duration::from_secs(9),
        "{:?}",
        asked.elapsed()
    );
    let error = ledger.check().await.unwrap_err();
    assert!(matches!(error, LedgerError::Unreachable(_)), "{error:?}");
    proxy.heal();
    let healed = Instant::now();
    while ledger.record(&[pair("second")]).await.is_err() {
        assert!(healed.elapsed() < Duration::from_secs(10));
    }
    assert_eq!(ledger.count(&[segment]).await.unwrap()[0].members, 2);

    // A way that is cut is no defect of the database.
    proxy.cut();
    for _ in 0..6 {
        let error = ledger.record(&[pair("third")]).await.unwrap_err();
        assert!(matches!(error, LedgerError::Unreachable(_)), "{error:?}");
    }
}
