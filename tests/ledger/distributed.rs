//! Lanes on the machines that Citus puts them on: how a ledger comes there, and how a lane moves from one machine to another while it is written.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use segment_counter::counting::{Outcome, UserId, Window};
use segment_counter::ledger::{
    LedgerError, Location, MoveError, PostgresLedger, RemovalOutcome, Settings, SharedLedger, open,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::{citus, postgres};
use crate::world::{Kind, Place, World, archive, count, drift, name, pair, removal, runtime, settings};

fn with_lanes(lanes: i32, distributed: bool) -> Settings {
    Settings {
        lanes,
        distributed,
        ..settings(3_600, 1, None)
    }
}

#[test]
fn without_the_extension_a_migration_says_what_it_needs_and_changes_nothing() {
    crate::world::run(Kind::Postgres, async |world: World| {
        let place = world.place();
        let asked = open(&place.location(), with_lanes(2, true)).unwrap();
        let LedgerError::Schema(why) = asked.migrate().await.unwrap_err() else {
            panic!("not for its schema");
        };
        for part in ["--distributed", "shared_preload_libraries", "CREATE EXTENSION citus"] {
            assert!(why.contains(part), "{part} is not in {why}");
        }
        assert_eq!(asked.schema().await.unwrap().installed, None);
    });
}

/// How many lanes are on each machine.
async fn lanes_by_machine(place: &Place, url: &str) -> Vec<(String, i64)> {
    let mut session = PgConnection::connect(url).await.unwrap();
    sqlx::query_as(
        "SELECT n.nodeport::text, count(*) FROM pg_dist_schema d
           JOIN pg_dist_partition t ON t.colocationid = d.colocationid AND t.logicalrelid::text LIKE $1
           JOIN pg_dist_shard s ON s.logicalrelid = t.logicalrelid JOIN pg_dist_placement p ON p.shardid = s.shardid
           JOIN pg_dist_node n ON n.groupid = p.groupid
          GROUP BY 1 ORDER BY 1",
    )
    .bind(format!("{}%.membership", place.schema))
    .fetch_all(&mut session)
    .await
    .unwrap()
}

#[test]
fn what_stands_is_distributed_with_all_that_is_in_it_under_a_process_that_serves() {
    crate::world::run(Kind::Citus, async |world: World| {
        let place = world.place();
        // One that serves all the time, from before.
        let serving = open(&place.location(), with_lanes(1, false)).unwrap();
        serving.migrate().await.unwrap();
        let pairs: Vec<_> = (0..300).map(|n| pair("old", &format!("u{n}"))).collect();
        serving.record(&pairs).await.unwrap();
        serving.remove(&[removal("old", "u0")]).await.unwrap();
        serving.erase(&UserId::new("u1").unwrap()).await.unwrap();
        assert_eq!((count(&serving, "old").await, drift(&serving).await), (298, 0));

        let asked = open(&place.location(), with_lanes(2, true)).unwrap();
        assert!(asked.migrate().await.unwrap().is_current());
        assert!(asked.migrate().await.unwrap().is_current());
        assert_eq!(
            lanes_by_machine(&place, &world.url)
                .await
                .iter()
                .map(|(_, lanes)| lanes)
                .sum::<i64>(),
            2
        );
        // A check is how a process learns of it.
        serving.check().await.unwrap();
        assert_eq!((count(&serving, "old").await, drift(&serving).await), (298, 0));
        let late = segment_counter::counting::Pair {
            observed_at: Some(serving.now().await.unwrap() - Duration::from_secs(60)),
            ..pair("old", "u0")
        };
        let recorded = serving
            .record(&[late, pair("old", "new"), pair("made", "u"), pair("made too", "u")])
            .await
            .unwrap();
        let outcomes: Vec<_> = recorded.pairs.iter().map(|one| one.outcome).collect();
        assert_eq!(
            outcomes,
            [Outcome::Removed, Outcome::Created, Outcome::Created, Outcome::Created]
        );
        assert_eq!((count(&serving, "old").await, count(&serving, "made").await), (299, 1));
        assert!(serving.delete_segment(&name("made")).await.unwrap().is_some());

        // Without being asked to, a migration keeps it so, and adds lanes that are so too.
        let plain = open(&place.location(), with_lanes(3, false)).unwrap();
        assert!(plain.migrate().await.unwrap().is_current());
        plain.check().await.unwrap();
        let lanes = lanes_by_machine(&place, &world.url).await;
        assert_eq!(lanes.iter().map(|(_, lanes)| lanes).sum::<i64>(), 3);
        assert!(lanes.len() > 1, "all on one machine: {lanes:?}");
        let pairs: Vec<_> = (0..6).map(|n| pair(&format!("many-{n}"), "u")).collect();
        plain.record(&pairs).await.unwrap();
        assert_eq!(drift(&plain).await, 0);
        assert!((0..6).any(|n| plain.lane_of(&name(&format!("many-{n}"))) == 2));
    });
}

#[test]
fn a_segment_stays_in_its_lane_and_it_is_said_how_a_lane_is_moved() {
    crate::world::run(Kind::Citus, async |world: World| {
        let place = world.place();
        place
            .ledger(&with_lanes(2, true))
            .await
            .record(&[pair("s", "u")])
            .await
            .unwrap();
        let Location::Postgres(options) = place.location() else {
            panic!("lanes are of PostgreSQL")
        };
        let mover = PostgresLedger::open(&options, with_lanes(2, true)).unwrap();
        let refused = mover.move_segment(&name("s"), 1, &|_| ()).await.unwrap_err();
        let schema = format!("{}_lane_0", place.schema);
        assert_eq!(refused, MoveError::Distributed { lane: 0, schema });
        assert!(refused.to_string().contains("citus_schema_move"), "{refused}");
        assert_eq!(mover.move_segment(&name("s"), 0, &|_| ()).await, Ok(false));
    });
}

/// What a writer knows at the end.
struct Told {
    /// Acknowledged as new.
    created: i64,
    /// Calls that failed, or that took longer than they may; they are sent again.
    failed: usize,
    longest: Duration,
}

#[test]
#[expect(clippy::print_stderr, reason = "figures for who runs it")]
fn a_lane_moves_between_machines_under_load_and_nothing_acknowledged_is_lost() {
    if !citus::is_given("a load under citus_schema_move") {
        return;
    }
    runtime().block_on(async {
        let world = World::new(Kind::Citus).await;
        let place = world.place();
        let settings = Settings {
            settle: Duration::from_secs(20),
            ..with_lanes(2, true)
        };
        let ledger = place.ledger(&settings).await;
        // Both lanes have segments, so that one moves and one stays.
        let steady: Vec<_> = (0..400).map(|n| pair(&format!("s{}", n % 4), &format!("steady-{n}"))).collect();
        ledger.record(&steady).await.unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let removed = Arc::new(AtomicI64::new(0));
        let mut writers = JoinSet::new();
        for writer in 0..3_u32 {
            let (ledger, over) = (place.ledger(&settings).await, Arc::clone(&over));
            writers.spawn(async move { write(&ledger, writer, &over).await });
        }
        let mut others = JoinSet::new();
        {
            let (ledger, end, removed) = (place.ledger(&settings).await, Arc::clone(&over), Arc::clone(&removed));
            others.spawn(async move { remove(&ledger, &end, &removed).await });
            let (ledger, end) = (place.ledger(&settings).await, Arc::clone(&over));
            others.spawn(async move {
                while !end.load(Ordering::Relaxed) {
                    archive_all(&ledger).await;
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            });
        }
        let mut moves = Vec::new();
        for (host, port) in there_and_back(&place, &world).await {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let began = Instant::now();
            let sql = format!("SELECT citus_schema_move('{}_lane_0', '{host}', {port})", place.schema);
            postgres::execute(&world.url, &sql).await;
            moves.push(began.elapsed());
        }
        // Long enough that what was brief is archived.
        tokio::time::sleep(Duration::from_secs(22)).await;
        over.store(true, Ordering::Relaxed);
        let (mut created, mut failed, mut longest) = (0, 0, Duration::ZERO);
        while let Some(told) = writers.join_next().await {
            let told = told.unwrap();
            created += told.created;
            failed += told.failed;
            longest = longest.max(told.longest);
        }
        while let Some(done) = others.join_next().await {
            done.unwrap();
        }
        eprintln!(
            "{created} acknowledged, {} removed, {failed} calls sent again, the longest {longest:?}, moves of {moves:?}",
            removed.load(Ordering::SeqCst)
        );
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mut members = 0;
        for n in 0..4 {
            members += count(&ledger, &format!("s{n}")).await;
        }
        assert_eq!(members, 400 + created);
        assert_eq!(drift(&ledger).await, 0);
        assert!(removed.load(Ordering::SeqCst) > 10);
        // Nobody was archived twice.
        tokio::time::sleep(Duration::from_secs(19)).await;
        archive(&ledger, 1_000).await;
        let mut brief: Vec<_> = place.history().await;
        brief.retain(|(_, user, _)| user.starts_with("brief-"));
        let all = brief.len();
        assert!(all > 5, "only {all} were archived");
        brief.dedup();
        assert_eq!(brief.len(), all);
        world.citus.unwrap().drop().await;
    });
}

/// New users who stay, and one that ends within a second. What is not acknowledged is sent again until it is.
async fn write(ledger: &SharedLedger, writer: u32, over: &AtomicBool) -> Told {
    let mut told = Told {
        created: 0,
        failed: 0,
        longest: Duration::ZERO,
    };
    let mut round = 0;
    while !over.load(Ordering::Relaxed) {
        round += 1;
        let mut pairs: Vec<_> = (0..20)
            .map(|n| pair(&format!("s{}", n % 4), &format!("new-{writer}-{round}-{n}")))
            .collect();
        let mut brief = pair("s0", &format!("brief-{writer}-{round}"));
        brief.ttl = Some(Window::from_seconds(1).unwrap());
        pairs.push(brief);
        let began = Instant::now();
        // In one lane it may have been recorded where in the other it was not, and an answer may be lost: then these are renewals or repeats.
        while let Err(error) = ledger.record(&pairs).await {
            assert!(error.is_transient(), "{error:?}");
            told.failed += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        told.longest = told.longest.max(began.elapsed());
        told.created += 20;
    }
    told
}

/// Added and removed over and over: none of them may be in at the end.
async fn remove(ledger: &SharedLedger, over: &AtomicBool, removed: &AtomicI64) {
    let mut round = 0;
    while !over.load(Ordering::Relaxed) {
        round += 1;
        let (segment, user) = (format!("s{}", round % 4), format!("gone-{round}"));
        while let Err(error) = ledger.record(&[pair(&segment, &user)]).await {
            assert!(error.is_transient(), "{error:?}");
        }
        let mut again = false;
        loop {
            match ledger.remove(&[removal(&segment, &user)]).await {
                Ok(answer) => {
                    assert!(again || answer.outcomes == [RemovalOutcome::Removed], "{answer:?}");
                    break;
                }
                Err(error) => assert!(error.is_transient(), "{error:?}"),
            }
            again = true;
        }
        removed.fetch_add(1, Ordering::SeqCst);
    }
}

async fn archive_all(ledger: &SharedLedger) {
    let mut cursor = None;
    loop {
        match ledger.archive_batch(cursor, 100).await {
            Ok(batch) => match batch.next {
                Some(next) => cursor = Some(next),
                None => return,
            },
            Err(error) => {
                assert!(error.is_transient(), "{error:?}");
                return;
            }
        }
    }
}

/// The machines that lane 0 shall go to: the other one, and back again, twice.
async fn there_and_back(place: &Place, world: &World) -> Vec<(String, u16)> {
    let mut session = PgConnection::connect(&world.url).await.unwrap();
    let sql = format!(
        "SELECT n.nodeport FROM pg_dist_shard s JOIN pg_dist_placement p ON p.shardid = s.shardid JOIN pg_dist_node n ON n.groupid = p.groupid
          WHERE s.logicalrelid = '{}_lane_0.membership'::regclass",
        place.schema
    );
    let now: i32 = sqlx::query_scalar(AssertSqlSafe(sql))
        .fetch_one(&mut session)
        .await
        .unwrap();
    let workers = &world.citus.as_ref().unwrap().workers;
    let other = workers.iter().find(|(_, port)| i32::from(*port) != now).unwrap();
    let here = workers.iter().find(|(_, port)| i32::from(*port) == now).unwrap();
    vec![other.clone(), here.clone(), other.clone()]
}
