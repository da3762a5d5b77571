//! Clients that write and read at any replica, and believe nothing: every answer must be one that is documented, and hold what it must.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use reqwest::Response;
use serde_json::{Value, json};

use crate::support::acknowledged::Acknowledged;
use crate::world::{REPLICAS, SEGMENTS, World, segment};

/// How long a client waits for an answer, whatever is broken. The documented statuses come sooner.
const PATIENCE: Duration = Duration::from_secs(15);

/// What the clients know of one segment.
#[derive(Default)]
pub struct Known {
    /// Users whose pair was answered with 200.
    pub acknowledged: Mutex<BTreeSet<String>>,
    /// Users whose pair was answered with anything else, or not at all: recorded or not.
    pub unanswered: Mutex<BTreeSet<String>>,
    pub instants: Acknowledged,
}

pub struct Load {
    pub world: Arc<World>,
    pub known: [Known; SEGMENTS],
    pub client: reqwest::Client,
    pub stop: AtomicBool,
    pub answers: AtomicU64,
    pub refusals: AtomicU64,
    pub broken: AtomicU64,
    pub stale: AtomicU64,
    /// The longest that any answer took.
    pub slowest: Mutex<Duration>,
}

impl Load {
    pub fn new(world: Arc<World>) -> Arc<Self> {
        Arc::new(Self {
            world,
            known: std::array::from_fn(|_| Known::default()),
            client: reqwest::Client::builder().timeout(PATIENCE).build().unwrap(),
            stop: AtomicBool::new(false),
            answers: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
            broken: AtomicU64::new(0),
            stale: AtomicU64::new(0),
            slowest: Mutex::default(),
        })
    }

    /// Sends a request to a replica. `None`: 503 as documented, or a broken connection where that replica's process was killed meanwhile.
    pub async fn ask(&self, replica: usize, request: impl Fn(&str) -> reqwest::RequestBuilder) -> Option<Response> {
        let (url, life) = self.world.address(replica);
        let sent = Instant::now();
        let answer = request(&url).send().await;
        {
            let mut slowest = self.slowest.lock().unwrap();
            *slowest = slowest.max(sent.elapsed());
        }
        match answer {
            Ok(answer) if answer.status() == 200 => {
                self.answers.fetch_add(1, Ordering::Relaxed);
                Some(answer)
            }
            Ok(answer) => {
                let (status, headers) = (answer.status(), answer.headers().clone());
                let text = answer.text().await.unwrap_or_default();
                assert_eq!(status, 503, "{text}");
                assert_eq!(headers["content-type"], "application/problem+json", "{text}");
                let again: u64 = headers["retry-after"].to_str().unwrap().parse().unwrap();
                assert!((1..=10).contains(&again), "Retry-After: {again}");
                let problem: Value = serde_json::from_str(&text).unwrap();
                assert_eq!(problem["status"], 503);
                self.refusals.fetch_add(1, Ordering::Relaxed);
                None
            }
            Err(error) => {
                let (_, now) = self.world.address(replica);
                assert!(
                    now != life || life % 2 == 1,
                    "a living replica broke off, or left a client waiting for {:?}: {error:?}\n{}",
                    sent.elapsed(),
                    self.world.logs()
                );
                self.broken.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }

    /// Sends a user's pair once. Whether it was acknowledged.
    pub async fn record(&self, replica: usize, index: usize, user: &str) -> bool {
        let known = &self.known[index];
        // Before it is sent: from then on it may be there.
        known.unanswered.lock().unwrap().insert(user.to_owned());
        let pair = json!({"user_id": user, "segment": segment(index)});
        let send = |url: &str| self.client.post(format!("{url}/v1/pairs")).json(&pair);
        let Some(answer) = self.ask(replica, send).await else {
            return false;
        };
        let answer: Value = answer.json().await.unwrap();
        assert!(["created", "unchanged", "renewed"].contains(&answer["status"].as_str().unwrap()));
        self.acknowledge(index, user);
        true
    }

    fn acknowledge(&self, index: usize, user: &str) {
        let known = &self.known[index];
        known.unanswered.lock().unwrap().remove(user);
        if known.acknowledged.lock().unwrap().insert(user.to_owned()) {
            known.instants.add(1);
        }
    }

    /// Sends a stream of users. A stream that breaks off may have committed any part.
    pub async fn stream(&self, replica: usize, index: usize, users: &[String]) -> bool {
        self.known[index]
            .unanswered
            .lock()
            .unwrap()
            .extend(users.iter().cloned());
        let lines = users
            .iter()
            .map(|user| json!({"user_id": user, "segment": segment(index)}).to_string() + "\n");
        let lines: String = lines.collect();
        let send = |url: &str| {
            let request = self.client.post(format!("{url}/v1/pairs:batch"));
            request
                .header("content-type", "application/x-ndjson")
                .body(lines.clone())
        };
        let Some(answer) = self.ask(replica, send).await else {
            return false;
        };
        let totals: Value = answer.json().await.unwrap();
        assert_eq!(totals["received"], users.len());
        assert_eq!(
            (&totals["refused"], &totals["invalid"]),
            (&json!(0), &json!(0)),
            "{totals}"
        );
        for user in users {
            self.acknowledge(index, user);
        }
        true
    }

    /// Counts a segment; the answer must hold every pair that was acknowledged before its age. `None` as in [`Load::ask`].
    pub async fn count(&self, replica: usize, index: usize, bound: u64) -> Option<Value> {
        let known = &self.known[index].instants;
        let sent = Instant::now();
        let name = segment(index);
        let get = |url: &str| {
            self.client
                .get(format!("{url}/v1/segments/{name}/count?max_staleness_ms={bound}"))
        };
        let answer: Value = self.ask(replica, get).await?.json().await.unwrap();
        let (count, age) = (
            answer["count"].as_i64().unwrap(),
            answer["staleness_ms"].as_u64().unwrap(),
        );
        let exact = answer["exact"].as_bool().unwrap();
        assert!(exact || bound > 0, "a strict answer is never a stale one: {answer}");
        let mut limits = vec![age];
        if exact {
            limits.push(bound);
        } else {
            self.stale.fetch_add(1, Ordering::Relaxed);
        }
        for limit in limits {
            let least = sent
                .checked_sub(Duration::from_millis(limit))
                .map_or(0, |since| known.until(since));
            assert!(
                count >= least,
                "{answer} lacks some of {least} that were acknowledged {limit} ms before it was asked for"
            );
        }
        Some(answer)
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

/// Starts the clients of one round; they end when [`Load::stop`] is set.
pub fn start(load: &Arc<Load>, round: usize, seed: u64) -> Vec<tokio::task::JoinHandle<()>> {
    load.stop.store(false, Ordering::Relaxed);
    let dice = |client: u64| StdRng::seed_from_u64(seed ^ (round as u64) << 16 ^ client << 8);
    let mut clients = Vec::new();
    for client in 0..6 {
        clients.push(tokio::spawn(write(
            Arc::clone(load),
            format!("r{round}c{client}"),
            dice(client),
        )));
    }
    clients.push(tokio::spawn(pour(Arc::clone(load), format!("r{round}s"), dice(20))));
    for client in 30..34 {
        clients.push(tokio::spawn(read(Arc::clone(load), dice(client))));
    }
    clients
}

/// Single pairs; one whose answer did not come stays unanswered until the end of the round.
async fn write(load: Arc<Load>, name: String, mut dice: StdRng) {
    for number in 0.. {
        if !load.goes_on() {
            return;
        }
        let (replica, index) = (dice.random_range(0..REPLICAS), dice.random_range(0..SEGMENTS));
        if !load.record(replica, index, &format!("{name}-{number}")).await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tokio::time::sleep(Duration::from_millis(dice.random_range(0..6))).await;
    }
}

/// Streams of pairs.
async fn pour(load: Arc<Load>, name: String, mut dice: StdRng) {
    for number in 0.. {
        if !load.goes_on() {
            return;
        }
        let (replica, index) = (dice.random_range(0..REPLICAS), dice.random_range(0..SEGMENTS));
        let users: Vec<String> = (0..dice.random_range(1..400))
            .map(|user| format!("{name}-{number}-{user}"))
            .collect();
        if !load.stream(replica, index, &users).await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tokio::time::sleep(Duration::from_millis(dice.random_range(0..40))).await;
    }
}

async fn read(load: Arc<Load>, mut dice: StdRng) {
    const BOUNDS_MS: [u64; 4] = [0, 50, 300, 1_000];
    while load.goes_on() {
        let (replica, index) = (dice.random_range(0..REPLICAS), dice.random_range(0..SEGMENTS));
        let bound = BOUNDS_MS[dice.random_range(0..BOUNDS_MS.len())];
        if load.count(replica, index, bound).await.is_none() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tokio::time::sleep(Duration::from_millis(dice.random_range(0..6))).await;
    }
}
