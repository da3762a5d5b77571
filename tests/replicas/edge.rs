//! The edge of a bucket on a real PostgreSQL: a reader's statement is sent before it, held across it, and answered after it.

use std::time::Duration;

use segment_counter::counting::{Pair, Resolution, Rules, SegmentName, UserId, Window};
use segment_counter::ledger::{Location, Settings, SharedLedger, open};
use sqlx::{Connection, PgConnection};

use crate::support::postgres;

/// Members leave on whole seconds, two to three after they were seen.
fn settings() -> Settings {
    let (window, resolution) = (Window::from_seconds(2), Resolution::from_seconds(1));
    Settings {
        rules: Rules::new(window.unwrap(), resolution.unwrap()).unwrap(),
        ..Settings::default()
    }
}

fn pair(user: &str, ttl: Option<i64>) -> Pair {
    Pair {
        user: UserId::new(user).unwrap(),
        segment: SegmentName::new("s").unwrap(),
        observed_at: None,
        ttl: ttl.map(|seconds| Window::from_seconds(seconds).unwrap()),
    }
}

async fn micros_now(session: &mut PgConnection) -> i64 {
    let now = sqlx::query_scalar("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint");
    now.fetch_one(session).await.unwrap()
}

/// The user comes back once the old end has passed, as the worst of writers may do it: it leaves the counter that has ended alone.
const COMES_BACK: &str = "
WITH moved AS (
  UPDATE edge_lane_0.membership SET prev_expires_at = expires_at, expires_at = expires_at + interval '1 hour'
   WHERE segment_id = $1 AND user_id = $2 RETURNING expires_at
), buckets AS (
  INSERT INTO edge_lane_0.segment_expiry AS b (segment_id, expires_at, members) SELECT $1, expires_at, 1 FROM moved
  ON CONFLICT (segment_id, expires_at) DO UPDATE SET members = b.members + 1
)
INSERT INTO edge_lane_0.segment_total AS t (segment_id, members) SELECT $1, 1 FROM moved
ON CONFLICT (segment_id) DO UPDATE SET members = t.members + 1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_whose_statement_waits_across_the_edge_never_sees_a_member_twice() {
    let url = postgres::server().database().await;
    let ledger: SharedLedger = open(&Location::parse(&url, None, "edge", 1).unwrap(), settings()).unwrap();
    ledger.migrate().await.unwrap();
    ledger.record(&[pair("stays", Some(86_400))]).await.unwrap();
    let segment = ledger.resolve(&[SegmentName::new("s").unwrap()]).await.unwrap()[0].unwrap();

    // One session, in which the statement is prepared: else it would wait while it is parsed, which is not yet the transaction it runs in.
    assert_eq!(ledger.count(&[segment]).await.unwrap()[0].members, 1);

    for round in 1..=3 {
        let user = format!("moves-{round}");
        let recorded = ledger.record(&[pair(&user, None)]).await.unwrap();
        let edge = recorded.pairs[0].expires_at.unwrap().as_microsecond();
        // Whoever can hold a reader of the counters holds every writer too: so the holder is the one who writes.
        let mut holder = PgConnection::connect(&url).await.unwrap();
        let mut held = holder.begin().await.unwrap();
        sqlx::raw_sql("LOCK TABLE edge_lane_0.segment_expiry, edge_lane_0.segment_total IN ACCESS EXCLUSIVE MODE")
            .execute(&mut *held)
            .await
            .unwrap();
        let reader = tokio::spawn({
            let ledger = SharedLedger::clone(&ledger);
            async move { ledger.count(&[segment]).await.unwrap()[0] }
        });
        wait_until_something_waits(&url).await;
        assert!(micros_now(&mut held).await < edge, "the statement was not sent in time");
        while micros_now(&mut held).await <= edge {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let moved = sqlx::query(COMES_BACK)
            .bind(segment.0)
            .bind(&user)
            .execute(&mut *held)
            .await;
        assert_eq!(moved.unwrap().rows_affected(), 1);
        assert!(!reader.is_finished(), "nothing held the reader");
        held.commit().await.unwrap();
        let counted = reader.await.unwrap();
        assert!(
            counted.as_of.as_microsecond() > edge,
            "an instant before the snapshot: {counted:?}"
        );
        assert_eq!(counted.members, 1 + round, "{counted:?}");
        assert_eq!(ledger.recount(&[segment]).await.unwrap()[0].drift, 0);
    }
}

/// Until a session of the database waits for a lock on a table.
async fn wait_until_something_waits(url: &str) {
    let mut session = PgConnection::connect(url).await.unwrap();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let waiting: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'relation'
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        )
        .fetch_one(&mut session)
        .await
        .unwrap();
        if waiting > 0 {
            return;
        }
        assert!(std::time::Instant::now() < until, "nothing waits for a lock");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
