//! Through PgBouncer in transaction mode: what a pooler keeps back, what must not stay behind in it, and what it costs.
//!
//! `tests/pgbouncer.sh` starts one and sets `PGBOUNCER_URL`; the rest of the suite goes through it by `DATABASE_URL` (`make test-pgbouncer`).
#![allow(clippy::print_stderr)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use segment_counter::counting::UserId;
use segment_counter::ledger::{Ledger, LedgerError, Location, PostgresLedger, Settings};
use sqlx::{Connection, PgConnection};
use tokio::time::Instant;

use crate::support::postgres;
use crate::world::{name, pair, removal, runtime, settings};

/// How many connections the pooler has to each database: those of tests/pgbouncer.sh.
const POOL: usize = 10;

/// Runs a test, with the URL of a pooled database of its own, as a role; without a pooler it is left out and says so.
fn run<F: Future<Output = ()>>(role: &str, test: impl FnOnce(String) -> F) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let Ok(url) = std::env::var("PGBOUNCER_URL") else {
        eprintln!("LEFT OUT: a test needs PgBouncer, and PGBOUNCER_URL is not set (`make test-pgbouncer` starts one)");
        return;
    };
    runtime().block_on(async {
        let database = format!(
            "pooled_{}_{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        postgres::execute(&url, &format!("CREATE DATABASE {database}")).await;
        let (before, _) = url.rsplit_once('/').unwrap();
        test(format!("{before}/{database}").replace("counter:", &format!("{role}:"))).await;
    });
}

/// With two lanes, over as many connections as a test's ledgers have.
fn opened(url: &str) -> PostgresLedger {
    let Location::Postgres(options) = Location::parse(url, None, "pooled", 8).unwrap() else {
        panic!("no PostgreSQL")
    };
    let settings = Settings {
        lanes: 2,
        ..settings(3_600, 1, None)
    };
    PostgresLedger::open(&options, settings).unwrap()
}

#[test]
fn commands_leave_nothing_behind_in_the_poolers_sessions() {
    run("counter", async |url| {
        // At once, so that the pooler opens what it may.
        let ledgers = [(); 3].map(|()| opened(&url));
        for ledger in &ledgers {
            ledger.migrate().await.unwrap();
            ledger.check().await.unwrap();
        }
        let [ledger, others @ ..] = &ledgers;
        let pairs: Vec<_> = (0..200).map(|n| pair("s", &format!("u{n}"))).collect();
        ledger.record(&pairs).await.unwrap();
        for to in [1, 0, 1] {
            let segment = name("s");
            let moving = ledger.move_segment(&segment, to, &|_| ());
            let erased = UserId::new(format!("u{to}")).unwrap();
            let (moved, swept, erased) = tokio::join!(moving, others[0].sweep(30), others[1].erase(&erased));
            assert_eq!(moved, Ok(true));
            swept.unwrap();
            erased.unwrap();
        }
        ledger.remove(&[removal("s", "u2")]).await.unwrap();
        let mut sessions = Vec::new();
        // Each transaction holds one of the pooler's sessions: together all of them.
        for _ in 0..POOL {
            let mut session = PgConnection::connect(&url).await.unwrap();
            sqlx::raw_sql("BEGIN").execute(&mut session).await.unwrap();
            let set: (String, String, String, bool) = sqlx::query_as(
                "SELECT current_setting('statement_timeout'), current_setting('search_path'), current_setting('plan_cache_mode'),
                        EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())",
            )
            .fetch_one(&mut session)
            .await
            .unwrap();
            let expected = ("30s", r#""$user", public"#, "force_generic_plan");
            assert_eq!(set, (expected.0.into(), expected.1.into(), expected.2.into(), false));
            sessions.push(session);
        }
    });
}

#[test]
fn a_role_without_the_settings_is_refused_and_told_the_statements_that_mend_it() {
    run("unset", async |url| {
        let ledger = opened(&url);
        ledger.migrate().await.unwrap();
        let LedgerError::UnsupportedVersion(why) = ledger.check().await.unwrap_err() else {
            panic!("not for its settings")
        };
        for part in [
            "statement_timeout is 0 and not 30000ms",
            "enable_seqscan is on and not off",
            "jit is on",
        ] {
            assert!(why.contains(part), "{part} is not in {why}");
        }
        let (_, cure) = why.split_once("must have them: ").unwrap();
        let (cure, _) = cure.split_once("; then").unwrap();
        // By the role itself.
        postgres::execute(&url, cure).await;
        // The pooler closes what is idle for long, and opens others.
        let until = Instant::now() + Duration::from_secs(60);
        while let Err(error) = ledger.check().await {
            assert!(Instant::now() < until, "{error}");
            tokio::time::sleep(Duration::from_secs(7)).await;
        }
        postgres::execute(&url, "ALTER ROLE unset RESET ALL").await;
    });
}

#[test]
fn a_statement_that_is_given_up_ends_at_the_server_too() {
    run("counter", async |url| {
        let mut session = PgConnection::connect(&url).await.unwrap();
        let asking = sqlx::query("SELECT pg_sleep(25)").execute(&mut session);
        tokio::time::timeout(Duration::from_millis(300), asking)
            .await
            .unwrap_err();
        drop(session);
        let mut session = PgConnection::connect(&url).await.unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        while sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' AND query LIKE '%pg\\_sleep(25)%' AND pid <> pg_backend_pid())",
        )
        .fetch_one(&mut session)
        .await
        .unwrap()
        {
            assert!(Instant::now() < until, "it still runs");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
}

/// Prints figures; fails by what was counted only.
#[test]
fn what_a_pooler_costs() {
    run("counter", async |url| {
        let address = |url: &str| {
            let (_, address) = url.rsplit_once('@').unwrap();
            address.split_once('/').unwrap().0.to_owned()
        };
        let server = std::env::var("PGBOUNCER_SERVER_URL").expect("PGBOUNCER_SERVER_URL");
        let direct = opened(&url.replace(&address(&url), &address(&server)));
        let pooled = opened(&url);
        direct.migrate().await.unwrap();
        direct.record(&[pair("s", "u")]).await.unwrap();
        let id = direct.resolve(&[name("s")]).await.unwrap()[0].unwrap();
        let (mut counts, mut records) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for round in 0..60 {
            // In turns, so that whatever else the machine does meets both.
            for (which, ledger) in [&direct, &pooled].into_iter().enumerate() {
                let pairs: Vec<_> = (0..500).map(|n| pair("s", &format!("u-{which}-{round}-{n}"))).collect();
                let began = Instant::now();
                ledger.record(&pairs).await.unwrap();
                records[which].push(began.elapsed());
                for _ in 0..50 {
                    let began = Instant::now();
                    ledger.count(&[id]).await.unwrap();
                    counts[which].push(began.elapsed());
                }
            }
        }
        for (what, times) in [("a count", counts), ("a recording of 500 new pairs", records)] {
            let [direct, pooled] = times.map(|mut all| {
                all.sort_unstable();
                all[all.len() / 2]
            });
            let times = pooled.as_secs_f64() / direct.as_secs_f64();
            eprintln!("{what}: {direct:?} directly, {pooled:?} through the pooler ({times:.2} times), medians");
        }
        assert_eq!(direct.recount(&[id]).await.unwrap()[0].drift, 0);
    });
}
