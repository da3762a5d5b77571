//! What must be true when a round is over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use segment_counter::counting::{Resolution, Rules};
use segment_counter::ledger::{Location, Settings, open};
use sqlx::{Connection, PgConnection};

use crate::jobs;
use crate::leaving::{erase_one, take_out};
use crate::load::{Known, Load};
use crate::world::{PASSING, REPLICAS, SEGMENTS, SETTLE, segment};

/// Within this time what broke off is done when it is asked for again, as the documentation says.
const AGAIN: Duration = Duration::from_secs(10);

/// What the tables hold.
struct Tables(PgConnection);

impl Tables {
    async fn of(load: &Load) -> Self {
        Self(PgConnection::connect(&load.world.database).await.unwrap())
    }

    /// The members of a segment.
    async fn members(&mut self, name: &str) -> BTreeSet<String> {
        let users: Vec<String> = sqlx::query_scalar(
            "SELECT m.user_id FROM segment_counter_lane_0.membership m JOIN segment_counter.segment s ON s.id = m.segment_id
              WHERE s.name = $1 AND m.expires_at > clock_timestamp()",
        )
        .bind(name)
        .fetch_all(&mut self.0)
        .await
        .unwrap();
        users.into_iter().collect()
    }

    /// How many rows there are of each user who was ever in the segment that is left after a second, ended or not, moved or not.
    async fn passed(&mut self) -> BTreeMap<String, i64> {
        let rows: Vec<(String, i64)> = sqlx::query_as(
            "SELECT r.user_id, count(*)
               FROM (SELECT segment_id, user_id FROM segment_counter_lane_0.membership UNION ALL
                     SELECT segment_id, user_id FROM segment_counter_lane_0.membership_history) r
               JOIN segment_counter.segment s ON s.id = r.segment_id WHERE s.name = $1 GROUP BY 1",
        )
        .bind(PASSING)
        .fetch_all(&mut self.0)
        .await
        .unwrap();
        rows.into_iter().collect()
    }

    /// How many rows of the history are of memberships that had not ended for long enough when the archive took them.
    async fn moved_too_soon(&mut self) -> i64 {
        sqlx::query_scalar(
            "SELECT count(*) FROM segment_counter_lane_0.membership_history h JOIN segment_counter.segment s ON s.id = h.segment_id
              WHERE s.name = $1 AND h.expires_at > h.archived_at - $2 * interval '1 second'",
        )
        .bind(PASSING)
        .bind(SETTLE.as_secs_f64())
        .fetch_one(&mut self.0)
        .await
        .unwrap()
    }

    /// Who left a segment, by its history; each time.
    async fn left(&mut self, name: &str) -> Vec<String> {
        sqlx::query_scalar(
            "SELECT h.user_id FROM segment_counter_lane_0.membership_history h JOIN segment_counter.segment s ON s.id = h.segment_id
              WHERE s.name = $1",
        )
        .bind(name)
        .fetch_all(&mut self.0)
        .await
        .unwrap()
    }

    /// What is left of users.
    async fn of_users(&mut self, users: &BTreeSet<String>) -> Vec<String> {
        let users: Vec<&str> = users.iter().map(String::as_str).collect();
        sqlx::query_scalar(
            "SELECT user_id FROM segment_counter_lane_0.membership WHERE user_id = ANY($1) UNION ALL
             SELECT user_id FROM segment_counter_lane_0.membership_history WHERE user_id = ANY($1)",
        )
        .bind(users)
        .fetch_all(&mut self.0)
        .await
        .unwrap()
    }
}

/// Nothing acknowledged is lost, nothing is there that was never sent or was taken out, every replica counts exactly what is there, and no counter
/// drifts. Then what was not answered is asked for again, as the documentation says, and all of it is done.
pub async fn holds(load: &Load) {
    let mut tables = Tables::of(load).await;
    // The archive runs beside the looks at the segments: it may change nothing that they see.
    let (archived, ()) = tokio::join!(jobs::run(load, "archive"), as_far_as_is_known(load, &mut tables));
    assert!(archived, "the archive fails at rest");
    passed(load, &mut tables).await;
    tokio::join!(pairs_and_removals_again(load), erasures_again(load));
    for (index, known) in load.known.iter().enumerate() {
        let name = segment(index);
        let there = tables.members(&name).await;
        is_as_known(&name, known, &there);
        let answer = load.count(1, index, 0).await.expect("an answer");
        assert_eq!(answer["count"], there.len(), "{name}: {answer}");
    }
    let erased = load.erasures.erased.lock().unwrap().clone();
    let left = tables.of_users(&erased).await;
    assert!(left.is_empty(), "erased and there: {left:?}");
    no_drift(load, &mut tables).await;
}

/// The segments before anything is asked for again: some users may be there or not.
async fn as_far_as_is_known(load: &Load, tables: &mut Tables) {
    for (index, known) in load.known.iter().enumerate() {
        let name = segment(index);
        let there = tables.members(&name).await;
        let all = |users: &Mutex<BTreeSet<String>>| users.lock().unwrap().clone();
        let (acknowledged, leaving) = (all(&known.acknowledged), all(&known.leaving));
        let lost: Vec<_> = acknowledged.difference(&there).collect();
        assert!(lost.is_empty(), "{name}: acknowledged and lost: {lost:?}");
        let (unanswered, victims) = (all(&known.unanswered), load.erasures.to_come());
        let may_be = [&acknowledged, &leaving, &unanswered, &victims];
        let strange: Vec<_> = there.iter().filter(|user| nowhere(may_be, user)).collect();
        assert!(
            strange.is_empty(),
            "{name}: never sent, or gone, and there: {strange:?}"
        );
        let left = tables.left(&name).await;
        let once = BTreeSet::from_iter(&left);
        assert_eq!(once.len(), left.len(), "{name}: left more than once");
        let removed = all(&known.removed);
        let strange: Vec<_> = once.iter().filter(|user| nowhere([&removed, &leaving], user)).collect();
        assert!(strange.is_empty(), "{name}: left and were not taken out: {strange:?}");
        for replica in 0..REPLICAS {
            let answer = load.count(replica, index, 0).await.expect("an answer");
            assert_eq!(answer["count"], there.len(), "{name} at replica {replica}: {answer}");
        }
    }
}

/// Whether a user is in none of these.
fn nowhere<const N: usize>(sets: [&BTreeSet<String>; N], user: &String) -> bool {
    !sets.iter().any(|users| users.contains(user))
}

/// The users who leave by themselves: an archive that broke off has lost nobody and put nobody into the history twice, nor anybody too soon.
async fn passed(load: &Load, tables: &mut Tables) {
    assert_eq!(tables.moved_too_soon().await, 0, "archived before it had ended");
    let rows = tables.passed().await;
    let doubled: Vec<_> = rows.iter().filter(|(_, rows)| **rows != 1).collect();
    assert!(doubled.is_empty(), "{PASSING}: there more than once: {doubled:?}");
    let acknowledged = load.passing.acknowledged.lock().unwrap();
    let victims = load.erasures.recorded();
    let all = acknowledged.iter().chain(&victims);
    let lost: Vec<_> = all.filter(|user| !rows.contains_key(*user)).collect();
    assert!(lost.is_empty(), "{PASSING}: acknowledged and lost: {lost:?}");
}

/// Pairs are sent again, and users taken out again.
async fn pairs_and_removals_again(load: &Load) {
    for (index, known) in load.known.iter().enumerate() {
        let again: Vec<String> = known.unanswered.lock().unwrap().iter().cloned().collect();
        assert!(load.stream(0, index, &again).await, "refused at rest");
        let leaving: Vec<String> = known.leaving.lock().unwrap().iter().cloned().collect();
        if !leaving.is_empty() {
            assert!(take_out(load, 0, index, &leaving).await.is_some(), "refused at rest");
        }
    }
}

/// Erasures that broke off are asked for again, one after another at each replica.
async fn erasures_again(load: &Load) {
    let since = Instant::now();
    let mut again = std::mem::take(&mut *load.erasures.doubtful.lock().unwrap());
    let half = again.split_off(again.len() / 2);
    let at_each = [again, half].into_iter().enumerate().map(async |(replica, victims)| {
        for victim in victims {
            while !erase_one(load, replica, victim.clone()).await {
                assert!(
                    since.elapsed() < AGAIN,
                    "{} is not erased {AGAIN:?} after the fault: {}",
                    victim.user,
                    load.world.logs()
                );
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    });
    join_all(at_each).await;
}

/// When all was asked for again until it was answered well, nothing is left open but who still waits for an erasure.
fn is_as_known(name: &str, known: &Known, there: &BTreeSet<String>) {
    assert!(known.unanswered.lock().unwrap().is_empty() && known.leaving.lock().unwrap().is_empty());
    let acknowledged = known.acknowledged.lock().unwrap();
    let lost: Vec<_> = acknowledged.difference(there).collect();
    assert!(lost.is_empty(), "{name}: acknowledged and lost: {lost:?}");
    let removed = known.removed.lock().unwrap();
    let back: Vec<_> = removed.intersection(there).collect();
    assert!(back.is_empty(), "{name}: taken out and there: {back:?}");
}

/// No counter differs from the memberships, and none was mended by a refresh before anybody looked.
async fn no_drift(load: &Load, tables: &mut Tables) {
    load.world.nothing_was_mended();
    assert_eq!(jobs::drift(&mut tables.0).await, 0, "a refresh found a drift");
    let at = Location::parse(&load.world.database, None, "segment_counter", 2).unwrap();
    let rules = Rules::default();
    let settings = Settings {
        rules: Rules::new(rules.window(), Resolution::from_seconds(1).unwrap()).unwrap(),
        settle: SETTLE,
        ..Settings::default()
    };
    let ledger = open(&at, settings).unwrap();
    let segments = ledger.least_recently_recounted(100).await.unwrap();
    assert_eq!(segments.len(), SEGMENTS + 1);
    for recount in ledger.recount(&segments).await.unwrap() {
        assert_eq!(recount.drift, 0, "{recount:?}");
    }
    ledger.close().await;
}
