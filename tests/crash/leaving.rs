//! Users who are taken out or erased. Each is of its own client, is sent once, leaves once, and is never sent again: so who is gone stays gone.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::{RngExt, rngs::StdRng};
use reqwest::Method;
use serde_json::json;

use crate::load::Load;
use crate::world::{Line, PASSING, REPLICAS, SEGMENTS, segment};

/// So many users wait for their erasure: those at the front for long enough that the archive has moved what they had in the passing segment.
const WAITING: usize = 40;

/// A user who is to be erased.
#[derive(Clone)]
pub struct Victim {
    pub user: String,
    /// How many pairs were sent, each to another segment.
    sent: u64,
    /// Whether all of them were acknowledged and no erasure was tried, so that there is a row for each.
    whole: bool,
}

#[derive(Default)]
pub struct Erasures {
    /// Those who may be asked for at any time.
    pub waiting: Mutex<VecDeque<Victim>>,
    /// Those of whom a pair was not answered, or an erasure broke off: erased when nothing is under way any more.
    pub doubtful: Mutex<Vec<Victim>>,
    pub erased: Mutex<BTreeSet<String>>,
    /// How many of those took something out of the history.
    pub of_history: AtomicU64,
    /// How many tries had no good answer.
    pub broke_off: AtomicU64,
}

impl Erasures {
    /// Those who are recorded and whose erasure was not asked for.
    pub fn recorded(&self) -> BTreeSet<String> {
        let waiting = self.waiting.lock().unwrap();
        waiting.iter().map(|victim| victim.user.clone()).collect()
    }

    /// Everybody of whom something may be there.
    pub fn to_come(&self) -> BTreeSet<String> {
        let (waiting, doubtful) = (self.waiting.lock().unwrap(), self.doubtful.lock().unwrap());
        waiting
            .iter()
            .chain(doubtful.iter())
            .map(|victim| victim.user.clone())
            .collect()
    }
}

/// Sends users and takes them out again, one by one or some at once.
pub async fn remove(load: Arc<Load>, name: String, mut dice: StdRng) {
    for number in 0.. {
        if !load.goes_on() {
            return;
        }
        let (replica, index) = (dice.random_range(0..REPLICAS), dice.random_range(0..SEGMENTS));
        let users: Vec<String> = match dice.random_range(0..2) {
            0 => vec![format!("{name}-{number}")],
            _ => (0..dice.random_range(1..30))
                .map(|user| format!("{name}-{number}-{user}"))
                .collect(),
        };
        load.known[index].leaving.lock().unwrap().extend(users.iter().cloned());
        let pairs = users
            .iter()
            .map(|user| json!({"user_id": user, "segment": segment(index)}));
        if !load.pairs(replica, pairs).await {
            // They stay undecided until the end of the round: a pair that is under way may come after a removal.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        }
        tokio::time::sleep(Duration::from_millis(dice.random_range(0..60))).await;
        // Each was acknowledged, and nobody else takes them out: nobody may be missing.
        if let Some(removed) = take_out(&load, dice.random_range(0..REPLICAS), index, &users).await {
            assert_eq!(
                removed,
                users.len() as u64,
                "acknowledged and not there: some of {users:?}"
            );
        }
    }
}

/// Takes users out of a segment; how many of them were in it, once that is acknowledged.
pub async fn take_out(load: &Load, replica: usize, index: usize, users: &[String]) -> Option<u64> {
    let name = segment(index);
    let removed = if let [user] = users {
        let path = format!("/v1/segments/{name}/users/{user}");
        let answer = load
            .ask(replica, |line: &Line| line.request(Method::DELETE, &path))
            .await?;
        match answer["status"].as_str() {
            Some("removed") => 1,
            Some("not_member") => 0,
            _ => panic!("{answer}"),
        }
    } else {
        let removals = users.iter().map(|user| json!({"user_id": user, "segment": name}));
        let removals: Vec<_> = removals.collect();
        let post = |line: &Line| line.request(Method::POST, "/v1/pairs:remove").json(&removals);
        let totals = load.ask(replica, post).await?;
        let [received, removed, others] =
            ["received", "removed", "not_member"].map(|total| totals[total].as_u64().unwrap());
        assert!(
            received == users.len() as u64 && removed + others == received,
            "{totals}"
        );
        removed
    };
    let known = &load.known[index];
    known.leaving.lock().unwrap().retain(|user| !users.contains(user));
    known.removed.lock().unwrap().extend(users.iter().cloned());
    Some(removed)
}

/// Sends users of several segments, one of which their membership leaves by itself and the archive puts into the history; and erases them,
/// some at once and some when that has happened.
pub async fn erase(load: Arc<Load>, name: String, mut dice: StdRng) {
    for number in 0.. {
        if !load.goes_on() {
            return;
        }
        let victim = victim(&load, format!("{name}-{number}"), &mut dice).await;
        let next = {
            let mut waiting = load.erasures.waiting.lock().unwrap();
            waiting.extend(victim);
            match dice.random_range(0..4) {
                0 => waiting.pop_back(),
                _ if waiting.len() > WAITING => waiting.pop_front(),
                _ => None,
            }
        };
        if let Some(victim) = next {
            erase_one(&load, dice.random_range(0..REPLICAS), victim).await;
        }
    }
}

/// A user of some segments. `None`: not all was acknowledged, and it is doubtful what is there.
async fn victim(load: &Load, user: String, dice: &mut StdRng) -> Option<Victim> {
    let mut pairs = vec![json!({"user_id": user, "segment": PASSING, "ttl_seconds": 1})];
    let segments = (0..SEGMENTS).filter(|_| dice.random_range(0..2) == 0).map(segment);
    pairs.extend(segments.map(|segment| json!({"user_id": user, "segment": segment})));
    let victim = Victim {
        user,
        sent: pairs.len() as u64,
        whole: true,
    };
    if load.pairs(dice.random_range(0..REPLICAS), pairs.into_iter()).await {
        return Some(victim);
    }
    load.erasures
        .doubtful
        .lock()
        .unwrap()
        .push(Victim { whole: false, ..victim });
    tokio::time::sleep(Duration::from_millis(200)).await;
    None
}

/// Asks for an erasure. Whether it was acknowledged; where it was not, it is asked for again when nothing is broken.
pub async fn erase_one(load: &Load, replica: usize, victim: Victim) -> bool {
    let (erasures, path) = (&load.erasures, format!("/v1/users/{}", victim.user));
    let Victim { user, sent, whole } = victim;
    // Something of the user may be there until the answer comes.
    let tried = Victim {
        user: user.clone(),
        sent,
        whole: false,
    };
    erasures.doubtful.lock().unwrap().push(tried);
    let erase = |line: &Line| line.request(Method::DELETE, &path);
    let Some(receipt) = load.ask(replica, erase).await else {
        erasures.broke_off.fetch_add(1, Ordering::Relaxed);
        return false;
    };
    let [memberships, history] = ["memberships", "history"].map(|kind| receipt[kind].as_u64().unwrap());
    let rows = memberships + history;
    // One for each pair; fewer where not every pair was recorded, or a first try had its part.
    assert!(
        rows <= sent && (rows == sent || !whole),
        "{rows} of {sent} of {user}: {receipt}"
    );
    erasures.doubtful.lock().unwrap().retain(|victim| victim.user != user);
    erasures.erased.lock().unwrap().insert(user);
    erasures.of_history.fetch_add(u64::from(history > 0), Ordering::Relaxed);
    true
}
