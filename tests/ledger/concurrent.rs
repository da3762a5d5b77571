//! Many writers and readers at once, by the database's own clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use segment_counter::counting::{Outcome, Refusal};
use segment_counter::ledger::{NewSegment, Settings};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::world::{World, archive, count, drift, id, name, pair, settings};

pub async fn rule_2_many_writers_create_each_membership_once_and_leave_no_drift(world: World) {
    let place = world.place();
    let settings = settings(1_209_600, 1, None);
    let mut tasks = JoinSet::new();
    for writer in 0..6_u64 {
        let ledger = place.ledger(&settings).await;
        tasks.spawn(async move {
            let mut created = Vec::new();
            for round in 0..12_u64 {
                // The same pairs in another order for every writer.
                let mut pairs: Vec<_> = (0..120_u64)
                    .map(|n| (n * 7 + writer * 31 + round * 13) % 200)
                    .map(|n| pair(&format!("s{}", n % 5), &format!("u{}", n / 5)))
                    .collect();
                if writer % 2 == 0 {
                    pairs.reverse();
                }
                let recorded = ledger.record(&pairs).await.unwrap();
                for (pair, one) in pairs.iter().zip(&recorded.pairs) {
                    if one.outcome == Outcome::Created {
                        created.push((pair.segment.as_str().to_owned(), pair.user.as_str().to_owned()));
                    }
                }
            }
            created
        });
    }
    let mut created: BTreeMap<(String, String), u32> = BTreeMap::new();
    while let Some(task) = tasks.join_next().await {
        for key in task.unwrap() {
            *created.entry(key).or_default() += 1;
        }
    }
    assert!(created.values().all(|times| *times == 1), "{created:?}");
    let ledger = place.ledger(&settings).await;
    for segment in 0..5 {
        let segment = format!("s{segment}");
        let members = created.keys().filter(|(of, _)| *of == segment).count();
        assert_eq!(count(&ledger, &segment).await, i64::try_from(members).unwrap());
    }
    assert_eq!(drift(&ledger).await, 0);
}

pub async fn rule_4_a_count_holds_every_pair_acknowledged_before_it(world: World) {
    let place = world.place();
    let settings = settings(3_600, 60, None);
    let first = place.ledger(&settings).await;
    first
        .put_segment(&NewSegment {
            name: name("s"),
            window: None,
            description: None,
        })
        .await
        .unwrap();
    let segment = id(&first, "s").await;
    let mut tasks = JoinSet::new();
    for writer in 0..4 {
        let (writes, reads) = (place.ledger(&settings).await, place.ledger(&settings).await);
        tasks.spawn(async move {
            for n in 1..=25_i64 {
                let recorded = writes.record(&[pair("s", &format!("w{writer}-{n}"))]).await.unwrap();
                let counted = reads.count(&[segment]).await.unwrap()[0];
                assert!(counted.members >= n, "{} of its own {n}", counted.members);
                assert!(counted.as_of >= recorded.at);
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    assert_eq!(count(&first, "s").await, 100);
}

pub async fn rule_6_counters_move_with_their_memberships_at_every_instant(world: World) {
    let place = world.place();
    // Ends move at every second, so that every batch moves counters.
    let settings = settings(3_600, 1, None);
    let reader = place.ledger(&settings).await;
    reader.record(&[pair("s", "u0")]).await.unwrap();
    let segment = id(&reader, "s").await;
    let over = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for _ in 0..3 {
        let (ledger, over) = (place.ledger(&settings).await, Arc::clone(&over));
        tasks.spawn(async move {
            let pairs: Vec<_> = (0..100).map(|user| pair("s", &format!("u{user}"))).collect();
            while !over.load(Ordering::Relaxed) {
                ledger.record(&pairs).await.unwrap();
            }
        });
    }
    let deadline = Instant::now() + Duration::from_secs(3);
    let mut recounts = 0;
    while Instant::now() < deadline {
        let found = reader.recount(&[segment]).await.unwrap()[0];
        assert_eq!(found.drift, 0, "after {recounts} recounts");
        recounts += 1;
    }
    over.store(true, Ordering::Relaxed);
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    assert!(recounts > 3, "only {recounts} recounts");
    assert_eq!(reader.recount(&[segment]).await.unwrap()[0].members, 100);
}

pub async fn a_reader_at_the_edge_of_a_bucket_never_sees_a_member_twice(world: World) {
    let place = world.place();
    // Everybody's end moves from one second's bucket into the next, over and over; each is in all the time.
    let settings = settings(3, 1, None);
    let writer = place.ledger(&settings).await;
    let pairs: Vec<_> = (0..50).map(|user| pair("s", &format!("u{user}"))).collect();
    writer.record(&pairs).await.unwrap();
    let segment = id(&writer, "s").await;
    let over = Arc::new(AtomicBool::new(false));
    let mut readers = JoinSet::new();
    for _ in 0..3 {
        let (ledger, over) = (place.ledger(&settings).await, Arc::clone(&over));
        readers.spawn(async move {
            let mut reads = 0;
            while !over.load(Ordering::Relaxed) {
                let counted = ledger.count(&[segment]).await.unwrap()[0];
                assert_eq!(counted.members, 50, "at {}", counted.as_of);
                reads += 1;
            }
            reads
        });
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        writer.record(&pairs).await.unwrap();
    }
    over.store(true, Ordering::Relaxed);
    let mut reads = 0;
    while let Some(task) = readers.join_next().await {
        reads += task.unwrap();
    }
    assert!(reads > 100, "only {reads} reads");
    assert_eq!(drift(&writer).await, 0);
}

pub async fn rule_12_the_limit_on_segments_holds_among_many_writers(world: World) {
    let place = world.place();
    let settings = Settings {
        max_segments_from_pairs: 20,
        ..settings(3_600, 60, None)
    };
    let mut tasks = JoinSet::new();
    for writer in 0..5 {
        let ledger = place.ledger(&settings).await;
        tasks.spawn(async move {
            for n in 0..10 {
                // Half of the names are everybody's.
                let pairs = [
                    pair(&format!("own-{writer}-{n}"), "u"),
                    pair(&format!("shared-{n}"), "u"),
                ];
                for one in ledger.record(&pairs).await.unwrap().pairs {
                    assert!(
                        matches!(
                            one.outcome,
                            Outcome::Created
                                | Outcome::Unchanged
                                | Outcome::Renewed
                                | Outcome::Refused(Refusal::SegmentLimit)
                        ),
                        "{one:?}"
                    );
                }
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    let ledger = place.ledger(&settings).await;
    assert_eq!(ledger.segments(None, 1_000).await.unwrap().segments.len(), 20);
}

pub async fn archive_and_sweep_disturb_no_writer(world: World) {
    let place = world.place();
    // Memberships end within seconds, and are archived seconds later, while they are renewed and made anew.
    let settings = Settings {
        settle: Duration::from_secs(10),
        ..settings(1, 1, None)
    };
    let over = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for writer in 0..3 {
        let (ledger, over) = (place.ledger(&settings).await, Arc::clone(&over));
        tasks.spawn(async move {
            let mut round = writer;
            while !over.load(Ordering::Relaxed) {
                round += 1;
                let pairs: Vec<_> = (0..60)
                    .map(|n| pair("s", &format!("u{}", (n * 7 + round * 11) % 600)))
                    .collect();
                ledger.record(&pairs).await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    let ledger = place.ledger(&settings).await;
    let deadline = Instant::now() + Duration::from_secs(16);
    let mut moved = 0;
    while Instant::now() < deadline {
        moved += archive(&ledger, 50).await;
        ledger.sweep(365).await.unwrap();
        assert_eq!(drift(&ledger).await, 0);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    over.store(true, Ordering::Relaxed);
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    assert_eq!(drift(&ledger).await, 0);
    assert_eq!(i64::try_from(place.history().await.len()).unwrap(), moved);
}
