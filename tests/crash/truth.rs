//! What must be true when a round is over.

use std::collections::BTreeSet;

use segment_counter::ledger::{Location, Settings, open};
use sqlx::{Connection, PgConnection};

use crate::load::Load;
use crate::world::{REPLICAS, SEGMENTS, segment};

/// The members of a segment as the table has them.
async fn members(database: &str, name: &str) -> BTreeSet<String> {
    let mut session = PgConnection::connect(database).await.unwrap();
    let users: Vec<String> = sqlx::query_scalar(
        "SELECT m.user_id FROM segment_counter_lane_0.membership m JOIN segment_counter.segment s ON s.id = m.segment_id
          WHERE s.name = $1 AND m.expires_at > clock_timestamp()",
    )
    .bind(name)
    .fetch_all(&mut session)
    .await
    .unwrap();
    users.into_iter().collect()
}

/// Nothing acknowledged is lost, nothing is there that was never sent, every replica counts exactly what is there, and no counter drifts. Then
/// what was not answered is sent again, as the documentation says, and all of it is counted.
pub async fn holds(load: &Load) {
    for (index, known) in load.known.iter().enumerate() {
        let name = segment(index);
        let there = members(&load.world.database, &name).await;
        let acknowledged = known.acknowledged.lock().unwrap().clone();
        let unanswered = known.unanswered.lock().unwrap().clone();
        let lost: Vec<_> = acknowledged.difference(&there).collect();
        assert!(lost.is_empty(), "{name}: acknowledged and lost: {lost:?}");
        let sent: BTreeSet<String> = acknowledged.union(&unanswered).cloned().collect();
        let strange: Vec<_> = there.difference(&sent).collect();
        assert!(strange.is_empty(), "{name}: never sent and there: {strange:?}");
        for replica in 0..REPLICAS {
            let answer = load.count(replica, index, 0).await.expect("an answer");
            assert_eq!(answer["count"], there.len(), "{name} at replica {replica}: {answer}");
        }
        let again: Vec<String> = unanswered.into_iter().collect();
        assert!(load.stream(0, index, &again).await, "refused at rest");
        let answer = load.count(1, index, 0).await.expect("an answer");
        assert_eq!(answer["count"], sent.len(), "{name}: {answer}");
    }
    let at = Location::parse(&load.world.database, None, "segment_counter", 2).unwrap();
    let ledger = open(&at, Settings::default()).unwrap();
    let segments = ledger.least_recently_recounted(100).await.unwrap();
    assert_eq!(segments.len(), SEGMENTS);
    for segment in segments {
        assert_eq!(ledger.recount(&[segment]).await.unwrap()[0].drift, 0, "{segment:?}");
    }
    ledger.close().await;
}
