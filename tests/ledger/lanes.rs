//! Lanes: where segments go, and how one moves while it is written.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use segment_counter::counting::{Outcome, UserId};
use segment_counter::ledger::{Ledger, Location, MoveError, PostgresLedger, Settings};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::world::{Kind, Place, World, archive, count, drift, id, name, pair, put, removal, settings};

pub async fn opened(place: &Place, settings: &Settings) -> Arc<PostgresLedger> {
    let Location::Postgres(options) = place.location() else {
        panic!("lanes are of PostgreSQL")
    };
    let ledger = PostgresLedger::open(&options, settings.clone()).unwrap();
    ledger.migrate().await.unwrap();
    Arc::new(ledger)
}

pub fn with_lanes(lanes: i32) -> Settings {
    Settings {
        lanes,
        ..settings(3_600, 1, None)
    }
}

pub fn quiet(_: &segment_counter::ledger::MoveProgress) {}

#[test]
fn new_segments_go_to_the_lane_with_the_fewest_and_lanes_can_be_added() {
    crate::world::run(Kind::Postgres, async |world: World| {
        let place = world.place();
        let ledger = opened(&place, &with_lanes(1)).await;
        ledger.record(&[pair("old-1", "u"), pair("old-2", "u")]).await.unwrap();
        assert_eq!(ledger.lanes(), 1);
        // Another process adds two; a migration that names fewer takes none away.
        opened(&place, &with_lanes(3)).await;
        opened(&place, &with_lanes(1)).await;
        ledger.check().await.unwrap();
        assert_eq!(ledger.lanes(), 3, "a check is how a process learns of them");
        let pairs: Vec<_> = (0..4).map(|n| pair(&format!("new-{n}"), "u")).collect();
        ledger.record(&pairs).await.unwrap();
        ledger.put_segment(&put("put", None)).await.unwrap();
        ledger.record(&[pair("put", "u")]).await.unwrap();
        let mut lanes: Vec<usize> = ["old-1", "old-2", "new-0", "new-1", "new-2", "new-3", "put"]
            .map(|segment| ledger.lane_of(&name(segment)))
            .to_vec();
        assert_eq!(lanes[..2], [0, 0]);
        lanes.sort_unstable();
        assert_eq!(lanes, [0, 0, 0, 1, 1, 2, 2]);
        let page = ledger.segments(None, 100).await.unwrap();
        assert!(page.segments.iter().all(|segment| segment.members == 1), "{page:?}");
    });
}

#[test]
fn lanes_are_added_under_writers_and_nothing_acknowledged_is_lost() {
    crate::world::run(Kind::Postgres, async |world: World| {
        let place = world.place();
        let ledger: Arc<dyn Ledger> = opened(&place, &with_lanes(1)).await;
        let over = Arc::new(AtomicBool::new(false));
        let mut writers = JoinSet::new();
        for writer in 0..4 {
            let (ledger, over) = (Arc::clone(&ledger), Arc::clone(&over));
            writers.spawn(async move {
                let mut sent: i64 = 0;
                while !over.load(Ordering::Relaxed) || sent < 50 {
                    // A segment that stands, and a new one every ten times.
                    let user = format!("{writer}-{sent}");
                    let pairs = [pair("old", &user), pair(&format!("new-{writer}-{}", sent / 10), &user)];
                    let recorded = ledger.record(&pairs).await.unwrap();
                    assert!(recorded.pairs.iter().all(|one| one.outcome == Outcome::Created));
                    sent += 1;
                }
                sent
            });
        }
        for lanes in 2..=4 {
            tokio::time::sleep(Duration::from_millis(200)).await;
            opened(&place, &with_lanes(lanes)).await;
            ledger.check().await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        over.store(true, Ordering::Relaxed);
        let sent: i64 = writers.join_all().await.into_iter().sum();
        let (mut members, mut last) = (0, None);
        loop {
            let page = ledger.segments(last.as_ref(), 1_000).await.unwrap();
            members += page.segments.iter().map(|segment| segment.members).sum::<i64>();
            last = page.segments.last().map(|segment| segment.name.clone());
            if !page.more {
                break;
            }
        }
        assert_eq!((count(&ledger, "old").await, members), (sent, 2 * sent));
        assert_eq!(drift(&ledger).await, 0);
        let used = format!("SELECT count(DISTINCT lane) FROM \"{}\".segment", place.schema);
        let used: i64 = sqlx::query_scalar(AssertSqlSafe(used))
            .fetch_one(&mut PgConnection::connect(&place.url).await.unwrap())
            .await
            .unwrap();
        assert_eq!(used, 4, "new segments go to the new lanes");
    });
}

#[test]
fn an_erasure_leaves_out_no_lane_that_another_process_has_just_added() {
    crate::world::run(Kind::Postgres, async |world: World| {
        let place = world.place();
        let before = opened(&place, &with_lanes(1)).await;
        before.record(&[pair("old", "u")]).await.unwrap();
        let after: Arc<dyn Ledger> = opened(&place, &with_lanes(2)).await;
        after.record(&[pair("new", "u")]).await.unwrap();
        assert_eq!((before.lanes(), after.lane_of(&name("new"))), (1, 1));
        let erased = before.erase(&UserId::new("u").unwrap()).await.unwrap();
        assert_eq!(erased.memberships, 2);
        assert_eq!((count(&after, "old").await, count(&after, "new").await), (0, 0));
    });
}

#[test]
fn a_move_says_why_it_cannot_be() {
    crate::world::run(Kind::Lanes, async |world: World| {
        let place = world.place();
        let ledger = opened(&place, &with_lanes(2)).await;
        ledger.record(&[pair("s", "u")]).await.unwrap();
        assert_eq!(
            ledger.move_segment(&name("none"), 1, &quiet).await,
            Err(MoveError::NoSegment)
        );
        assert_eq!(
            ledger.move_segment(&name("s"), 2, &quiet).await,
            Err(MoveError::NoLane { wanted: 2, lanes: 2 })
        );
        assert_eq!(ledger.move_segment(&name("s"), 0, &quiet).await, Ok(false));
    });
}

#[test]
#[expect(clippy::print_stderr, reason = "a figure for who runs it")]
fn a_segment_moves_while_it_is_written_removed_from_erased_from_archived_and_counted() {
    crate::world::run(Kind::Lanes, async |world: World| {
        let place = world.place();
        let settings = Settings {
            lanes: 4,
            settle: Duration::from_secs(20),
            ..settings(3_600, 1, None)
        };
        let mover = opened(&place, &settings).await;
        // These stay in all the time; a strict count never misses one.
        let steady: Vec<_> = (0..2_000).map(|n| pair("s", &format!("steady-{n}"))).collect();
        let shared: Arc<dyn Ledger> = mover.clone();
        for chunk in steady.chunks(500) {
            shared.record(chunk).await.unwrap();
        }
        let segment = id(&shared, "s").await;
        let over = Arc::new(AtomicBool::new(false));
        let created = Arc::new(AtomicI64::new(0));
        let mut tasks = JoinSet::new();
        for writer in 0..3_u32 {
            let (ledger, over, created) = (place.ledger(&settings).await, Arc::clone(&over), Arc::clone(&created));
            let steady = steady.clone();
            tasks.spawn(async move {
                let mut round = 0_usize;
                let mut longest = Duration::ZERO;
                while !over.load(Ordering::Relaxed) {
                    round += 1;
                    // Renewals, users who are new and stay, and some that end within a second, for the archive.
                    let mut pairs: Vec<_> = (0..40)
                        .map(|n| steady[(n * 7 + round * 31) % steady.len()].clone())
                        .collect();
                    pairs.extend((0..5).map(|n| pair("s", &format!("new-{writer}-{round}-{n}"))));
                    let mut brief = pair("s", &format!("brief-{writer}-{round}"));
                    brief.ttl = Some(segment_counter::counting::Window::from_seconds(1).unwrap());
                    pairs.push(brief);
                    let began = Instant::now();
                    let recorded = ledger.record(&pairs).await.unwrap();
                    longest = longest.max(began.elapsed());
                    for (pair, one) in pairs.iter().zip(&recorded.pairs) {
                        if pair.user.as_str().starts_with("new-") {
                            assert_eq!(one.outcome, Outcome::Created);
                            created.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                }
                longest
            });
        }
        {
            // Added, removed and erased over and over: none of them may be in at the end.
            let (ledger, end) = (place.ledger(&settings).await, Arc::clone(&over));
            tasks.spawn(async move {
                let mut round = 0;
                while !end.load(Ordering::Relaxed) {
                    round += 1;
                    let (gone, erased) = (format!("gone-{round}"), format!("erased-{round}"));
                    ledger.record(&[pair("s", &gone), pair("s", &erased)]).await.unwrap();
                    ledger.remove(&[removal("s", &gone)]).await.unwrap();
                    ledger.erase(&UserId::new(erased.as_str()).unwrap()).await.unwrap();
                    assert_eq!(drift(&ledger).await, 0);
                }
                Duration::ZERO
            });
            let (ledger, end) = (place.ledger(&settings).await, Arc::clone(&over));
            tasks.spawn(async move {
                while !end.load(Ordering::Relaxed) {
                    archive(&ledger, 100).await;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Duration::ZERO
            });
            let (ledger, end) = (place.ledger(&settings).await, Arc::clone(&over));
            tasks.spawn(async move {
                while !end.load(Ordering::Relaxed) {
                    let counted = ledger.count(&[segment]).await.unwrap()[0];
                    assert!(counted.exists && counted.members >= 2_000, "{counted:?}");
                }
                Duration::ZERO
            });
        }
        let moves = AtomicI64::new(0);
        for to in [1, 0, 1, 0, 1] {
            // Said more than once: what the segment left is cleared away after the change.
            let said = AtomicBool::new(false);
            let progress = |state: &segment_counter::ledger::MoveProgress| {
                if state.moved && !said.swap(true, Ordering::SeqCst) {
                    moves.fetch_add(1, Ordering::SeqCst);
                }
            };
            assert_eq!(mover.move_segment(&name("s"), to, &progress).await, Ok(true));
            assert_eq!(mover.lane_of(&name("s")), usize::try_from(to).unwrap());
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        assert_eq!(moves.load(Ordering::SeqCst), 5);
        // Long enough that what was brief is archived: some of it was while a copy was made.
        tokio::time::sleep(Duration::from_secs(22)).await;
        over.store(true, Ordering::Relaxed);
        let mut longest = Duration::ZERO;
        while let Some(task) = tasks.join_next().await {
            longest = longest.max(task.unwrap());
        }
        eprintln!("the longest that a batch took: {longest:?}");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(count(&shared, "s").await, 2_000 + created.load(Ordering::SeqCst));
        assert_eq!(drift(&shared).await, 0);
        // Everybody is in one lane, and nobody was archived twice.
        tokio::time::sleep(Duration::from_secs(19)).await;
        archive(&shared, 1_000).await;
        let mut brief: Vec<_> = place
            .history()
            .await
            .into_iter()
            .filter(|(_, user, _)| user.starts_with("brief-"))
            .collect();
        let all = brief.len();
        assert!(all > 20, "only {all} were archived");
        brief.dedup();
        assert_eq!(brief.len(), all);
        assert!(!place.mentions("erased-1").await);
        assert_eq!(place.traces_of_moves().await, 0);
    });
}

#[test]
fn calls_that_span_lanes_ask_them_all_at_once() {
    crate::world::run(Kind::Lanes, async |world: World| {
        let place = world.place();
        let ledger = opened(&place, &with_lanes(4)).await;
        let pairs: Vec<_> = (0..4).map(|n| pair(&format!("s{n}"), "u")).collect();
        ledger.record(&pairs).await.unwrap();
        let mut ids = Vec::new();
        for pair in &pairs {
            ids.push(ledger.resolve(std::slice::from_ref(&pair.segment)).await.unwrap()[0].unwrap());
        }
        let mut other = PgConnection::connect(&place.url).await.unwrap();
        for call in ["count", "record", "erase"] {
            // Whoever comes to a lane waits there: who asks one lane after another is seen waiting in one.
            let tables: Vec<String> = (0..4)
                .flat_map(|lane| {
                    ["membership", "segment_expiry"].map(|table| format!("{}_lane_{lane}.{table}", place.schema))
                })
                .collect();
            let held = format!("BEGIN; LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", tables.join(", "));
            sqlx::raw_sql(sqlx::AssertSqlSafe(held))
                .execute(&mut other)
                .await
                .unwrap();
            let (ledger, pairs, ids) = (Arc::clone(&ledger), pairs.clone(), ids.clone());
            let asked = tokio::spawn(async move {
                match call {
                    "count" => ledger.count(&ids).await.map(drop),
                    "record" => ledger.record(&pairs).await.map(drop),
                    _ => ledger.erase(&UserId::new("u").unwrap()).await.map(drop),
                }
            });
            let (mut waiting, since) = (0_i64, Instant::now());
            while waiting < 4 && since.elapsed() < Duration::from_secs(2) {
                tokio::time::sleep(Duration::from_millis(10)).await;
                let looked = "SELECT count(DISTINCT l.pid) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
                               WHERE NOT l.granted AND c.relnamespace::regnamespace::text LIKE $1";
                waiting = sqlx::query_scalar(looked)
                    .bind(format!("{}%", place.schema))
                    .fetch_one(&mut other)
                    .await
                    .unwrap();
            }
            sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
            asked.await.unwrap().unwrap();
            assert_eq!(waiting, 4, "statements of {call} under way");
        }
    });
}
