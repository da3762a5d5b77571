//! A move whose change hangs: its commit waits for a standby, and whoever ordered it has gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use segment_counter::counting::SegmentName;
use segment_counter::ledger::{Ledger, Location, MoveProgress, PostgresLedger, Settings};
use sqlx::{Connection, PgConnection};

use super::pair;
use super::support::postgres::Server;
use super::sweeps::{standby, until_sessions_wait};

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_is_called_again_while_its_change_hangs_finds_the_segment_where_it_went() {
    let server = Server::start(&[]);
    let url = server.database().await;
    let settings = Settings {
        lanes: 2,
        ..Settings::default()
    };
    let Location::Postgres(options) = Location::parse(&url, None, "segment_counter", 4).unwrap() else {
        panic!("a URL of PostgreSQL")
    };
    let opened = || Arc::new(PostgresLedger::open(&options, settings.clone()).unwrap());
    let (ledger, first) = (opened(), opened());
    ledger.migrate().await.unwrap();
    let segment = SegmentName::new("s").unwrap();
    let pairs: Vec<_> = (0..100).map(|n| pair(&format!("u{n}"))).collect();
    ledger.record(&pairs).await.unwrap();
    assert_eq!(ledger.lane_of(&segment), 0);

    // The change waits for a writer, the standby goes, the writer ends: the change has been made, and its commit waits.
    let mut writer = PgConnection::connect(&url).await.unwrap();
    let (told, telling) = tokio::sync::oneshot::channel();
    let (going, goes) = std::sync::mpsc::channel();
    let moving = tokio::spawn({
        let segment = segment.clone();
        async move {
            let (told, goes) = (std::sync::Mutex::new(Some(told)), std::sync::Mutex::new(goes));
            let pause = |state: &MoveProgress| {
                if state.copied > 0
                    && let Some(told) = told.lock().unwrap().take()
                {
                    told.send(()).unwrap();
                    tokio::task::block_in_place(|| goes.lock().unwrap().recv().unwrap());
                }
            };
            first.move_segment(&segment, 1, &pause).await
        }
    });
    telling.await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE segment_counter_lane_0.membership IN ROW EXCLUSIVE MODE")
        .execute(&mut writer)
        .await
        .unwrap();
    going.send(()).unwrap();
    until_sessions_wait(&url, "wait_event_type = 'Lock'").await;
    standby(&server, "SET synchronous_standby_names = 'gone'").await;
    sqlx::raw_sql("ROLLBACK").execute(&mut writer).await.unwrap();
    until_sessions_wait(&url, "wait_event = 'SyncRep'").await;
    moving.abort();
    let _ = moving.await;

    let cleared = Arc::new(AtomicI64::new(0));
    let again = tokio::spawn({
        let (ledger, segment, cleared) = (Arc::clone(&ledger), segment.clone(), Arc::clone(&cleared));
        async move {
            let note = |state: &MoveProgress| cleared.store(state.cleared, Ordering::SeqCst);
            ledger.move_segment(&segment, 1, &note).await
        }
    });
    until_sessions_wait(&url, "wait_event_type = 'Lock'").await;
    standby(&server, "RESET synchronous_standby_names").await;
    assert_eq!(again.await.unwrap(), Ok(false), "it lives there already");
    assert_eq!(cleared.load(Ordering::SeqCst), 0);
    let all = ledger.least_recently_recounted(1).await.unwrap();
    let recounted = ledger.recount(&all).await.unwrap()[0];
    assert_eq!((recounted.members, recounted.drift), (100, 0));
    assert_eq!(ledger.count(&all).await.unwrap()[0].members, 100);
    // Called once more it has nothing to do; moved back, nobody is lost.
    let seen = AtomicBool::new(false);
    let note = |state: &MoveProgress| seen.store(state.moved, Ordering::SeqCst);
    assert_eq!(ledger.move_segment(&segment, 0, &note).await, Ok(true));
    assert!(seen.load(Ordering::SeqCst));
    assert_eq!(ledger.count(&all).await.unwrap()[0].members, 100);
}
