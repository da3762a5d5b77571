//! Moves of a segment to another lane that are broken off, or whose lock is lost, and what others find then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use segment_counter::counting::UserId;
use segment_counter::ledger::{Ledger, MoveProgress, PostgresLedger, Settings};
use sqlx::{Connection, PgConnection};

use crate::lanes_of_postgres::{opened, quiet, with_lanes};
use crate::model::SECOND;
use crate::world::{Kind, World, after, archive, count, drift, name, pair, pair_at, removal};

/// Moves `s` and is dropped in the middle, when something was copied, as by a crash of the process.
async fn break_off(ledger: Arc<PostgresLedger>, to: i32) {
    let copied = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&copied);
    let broken = tokio::spawn(async move {
        let wait = |state: &MoveProgress| {
            if state.copied > 0 {
                seen.store(true, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(300));
            }
        };
        ledger.move_segment(&name("s"), to, &wait).await
    });
    while !copied.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    broken.abort();
    let _ = broken.await;
}

#[test]
fn a_move_that_broke_off_is_cleared_away_by_the_sweep_and_begins_anew() {
    crate::world::run(Kind::Lanes, async |world: World| {
        let place = world.place();
        let settings = Settings {
            settle: Duration::from_secs(3),
            ..with_lanes(4)
        };
        let ledger = opened(&place, &settings).await;
        let shared: Arc<dyn Ledger> = ledger.clone();
        let pairs: Vec<_> = (0..500).map(|n| pair("s", &format!("u{n}"))).collect();
        shared.record(&pairs).await.unwrap();
        // Dropped in the middle, as by a crash of the process that moves it.
        break_off(opened(&place, &settings).await, 1).await;
        let early = pair_at("s", "late", after(shared.now().await.unwrap(), -SECOND));
        shared.record(&[early]).await.unwrap();
        assert_eq!((count(&shared, "s").await, drift(&shared).await), (501, 0));
        tokio::time::sleep(settings.settle + Duration::from_millis(500)).await;
        // What was copied is not the segment's, and goes once nobody can be reading it.
        assert!(place.rows().await > 501, "{}", place.rows().await);
        shared.sweep(30).await.unwrap();
        assert_eq!((place.traces_of_moves().await, place.rows().await), (0, 501));
        assert_eq!((count(&shared, "s").await, drift(&shared).await), (501, 0));
        assert_eq!(ledger.move_segment(&name("s"), 1, &quiet).await, Ok(true));
        assert_eq!((count(&shared, "s").await, drift(&shared).await), (501, 0));
        assert_eq!(place.rows().await, 501);
    });
}

#[test]
fn an_erasure_leaves_nothing_in_the_notes_and_the_copy_of_a_move_that_broke_off() {
    crate::world::run(Kind::Lanes, async |world: World| {
        let place = world.place();
        let settings = with_lanes(4);
        let ledger: Arc<dyn Ledger> = opened(&place, &settings).await;
        let pairs: Vec<_> = (0..500).map(|n| pair("s", &format!("u{n}"))).collect();
        ledger.record(&pairs).await.unwrap();
        break_off(opened(&place, &settings).await, 1).await;
        assert!(place.traces_of_moves().await > 0, "its triggers stand");
        let noted = "SELECT count(*) FROM {base}.move_log WHERE user_id = 'u7'";
        let written = crate::world::put("s", Some(7_200));
        ledger.put_segment(&written).await.unwrap();
        ledger.record(&[pair("s", "u7")]).await.unwrap();
        assert!(place.number(noted).await > 0, "a change of theirs is noted");
        ledger.erase(&UserId::new("u7").unwrap()).await.unwrap();
        assert_eq!(place.number(noted).await, 0);
        assert!(!place.mentions("u7").await);
        assert_eq!((count(&ledger, "s").await, drift(&ledger).await), (499, 0));
    });
}

#[test]
fn a_move_whose_lock_is_lost_changes_nothing_and_takes_nothing_from_the_next() {
    crate::world::run(Kind::Lanes, async |world: World| {
        let place = world.place();
        let settings = Settings {
            settle: Duration::from_secs(3),
            ..with_lanes(4)
        };
        let (mover, other) = (opened(&place, &settings).await, opened(&place, &settings).await);
        let shared: Arc<dyn Ledger> = other.clone();
        let pairs: Vec<_> = (0..500).map(|n| pair("s", &format!("u{n}"))).collect();
        shared.record(&pairs).await.unwrap();
        // Once it has copied, whoever ends sessions that idle in a transaction ends the one that holds the lock; an archive comes by, and users come and go.
        let (told, telling) = std::sync::mpsc::channel::<()>();
        let (going, goes) = std::sync::mpsc::channel::<()>();
        let moving = tokio::spawn(async move {
            let stop = AtomicBool::new(true);
            let (told, goes) = (std::sync::Mutex::new(told), std::sync::Mutex::new(goes));
            let wait = |state: &MoveProgress| {
                if state.copied > 0 && stop.swap(false, Ordering::SeqCst) {
                    told.lock().unwrap().send(()).unwrap();
                    // Whoever blocks a worker must say so, or what drives the sockets may stand still with it.
                    tokio::task::block_in_place(|| goes.lock().unwrap().recv().unwrap());
                }
            };
            mover.move_segment(&name("s"), 1, &wait).await
        });
        tokio::task::spawn_blocking(move || telling.recv().unwrap())
            .await
            .unwrap();
        let mut session = PgConnection::connect(&place.url).await.unwrap();
        let ended: Vec<bool> = sqlx::query_scalar(
            "SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
              WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.objid = 1583857670",
        )
        .fetch_all(&mut session)
        .await
        .unwrap();
        assert_eq!(ended, [true]);
        tokio::time::sleep(Duration::from_millis(200)).await;
        archive(&shared, 1_000).await;
        shared.sweep(30).await.unwrap();
        assert_eq!(place.traces_of_moves().await, 0, "the sweep took the triggers away");
        shared.remove(&[removal("s", "u1")]).await.unwrap();
        shared.record(&[pair("s", "new-1"), pair("s", "new-2")]).await.unwrap();
        going.send(()).unwrap();
        assert!(moving.await.unwrap().is_err(), "it cannot know what changed meanwhile");
        assert_eq!(other.lane_of(&name("s")), 0);
        assert_eq!((count(&shared, "s").await, drift(&shared).await), (501, 0));
        assert_eq!(other.move_segment(&name("s"), 1, &quiet).await, Ok(true));
        assert_eq!((count(&shared, "s").await, drift(&shared).await), (501, 0));
    });
}

#[test]
fn a_segment_that_was_deleted_while_it_moved_back_leaves_no_history() {
    crate::world::run(Kind::Lanes, async |world: World| {
        let place = world.place();
        let settings = Settings {
            settle: Duration::from_secs(2),
            ..with_lanes(4)
        };
        let ledger = opened(&place, &settings).await;
        let shared: Arc<dyn Ledger> = ledger.clone();
        shared.record(&[pair("s", "u"), pair("s", "stays")]).await.unwrap();
        // It goes into the history of its first lane.
        shared.remove(&[removal("s", "u")]).await.unwrap();
        assert_eq!(place.history().await.len(), 1);
        assert_eq!(ledger.move_segment(&name("s"), 1, &quiet).await, Ok(true));
        let (deleting, deleted) = (Arc::clone(&shared), AtomicBool::new(false));
        let runtime = tokio::runtime::Handle::current();
        let delete = |state: &MoveProgress| {
            if state.copied > 0 && !deleted.swap(true, Ordering::SeqCst) {
                let deleting = Arc::clone(&deleting);
                let done = runtime.spawn(async move { deleting.delete_segment(&name("s")).await.unwrap() });
                tokio::task::block_in_place(|| {
                    while !done.is_finished() {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                });
            }
        };
        assert!(ledger.move_segment(&name("s"), 0, &delete).await.is_err());
        tokio::time::sleep(settings.settle + Duration::from_millis(200)).await;
        shared.sweep(30).await.unwrap();
        assert_eq!((place.history().await.len(), place.rows().await), (0, 0));
    });
}
