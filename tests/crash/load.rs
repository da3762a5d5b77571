//! Clients that write and read at any replica, and believe nothing: every answer must be one that is documented, and hold what it must.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::jobs::{self, Jobs};
use crate::leaving::{self, Erasures};
use crate::support::acknowledged::Acknowledged;
use crate::world::{Line, PASSING, REPLICAS, SEGMENTS, World, segment};

/// What the clients know of one segment.
#[derive(Default)]
pub struct Known {
    /// Users whose pair was answered with 200.
    pub acknowledged: Mutex<BTreeSet<String>>,
    /// Users whose pair was answered with anything else, or not at all: recorded or not.
    pub unanswered: Mutex<BTreeSet<String>>,
    pub instants: Acknowledged,
    /// Users who are to be taken out, and may be there or not.
    pub leaving: Mutex<BTreeSet<String>>,
    /// Users whose removal was answered with 200, and of whom no pair was sent afterwards.
    pub removed: Mutex<BTreeSet<String>>,
}

pub struct Load {
    pub world: Arc<World>,
    pub known: [Known; SEGMENTS],
    /// Of the segment whose members leave by themselves.
    pub passing: Known,
    pub erasures: Erasures,
    pub jobs: Jobs,
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
            passing: Known::default(),
            erasures: Erasures::default(),
            jobs: Jobs::default(),
            stop: AtomicBool::new(false),
            answers: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
            broken: AtomicU64::new(0),
            stale: AtomicU64::new(0),
            slowest: Mutex::default(),
        })
    }

    /// Sends a request to a replica and hears its answer to the end. `None`: 503 as documented; or a broken connection, or no answer at all, where
    /// that replica's process or the way to it was away meanwhile.
    pub async fn send(
        &self,
        replica: usize,
        request: impl FnOnce(&Line) -> RequestBuilder + Send,
    ) -> Option<(u16, Value)> {
        let mut line = self.world.line(replica);
        let life = *line.life.borrow_and_update();
        let sent = Instant::now();
        let request = request(&line);
        let answer = async {
            let answer = request.send().await?;
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            Ok::<_, reqwest::Error>((status, headers, answer.text().await?))
        };
        let mended = async {
            let _ = line.life.wait_for(|now| *now > life && now % 2 == 0).await;
        };
        let answer = tokio::select! {
            answer = answer => Some(answer),
            // Who was caught by what is mended now waits in vain.
            () = mended => None,
        };
        let (status, headers, text) = match answer {
            Some(Ok(answer)) => answer,
            Some(Err(error)) => {
                let now = *self.world.line(replica).life.borrow();
                assert!(
                    now != life || life % 2 == 1,
                    "a living replica broke off, or left a client waiting for {:?}: {error:?}\n{}",
                    sent.elapsed(),
                    self.world.logs()
                );
                self.broken.fetch_add(1, Ordering::Relaxed);
                return None;
            }
            None => {
                self.broken.fetch_add(1, Ordering::Relaxed);
                return None;
            }
        };
        {
            let mut slowest = self.slowest.lock().unwrap();
            *slowest = slowest.max(sent.elapsed());
        }
        let answer: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{status} {error}: {text}"));
        if status < 300 {
            self.answers.fetch_add(1, Ordering::Relaxed);
            return Some((status, answer));
        }
        assert_eq!(headers["content-type"], "application/problem+json", "{text}");
        assert_eq!(answer["status"], status);
        if status != 503 {
            return Some((status, answer));
        }
        let again: u64 = headers["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1..=10).contains(&again), "Retry-After: {again}");
        self.refusals.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// The same where there is no other good answer than 200.
    pub async fn ask(&self, replica: usize, request: impl FnOnce(&Line) -> RequestBuilder + Send) -> Option<Value> {
        let (status, answer) = self.send(replica, request).await?;
        assert_eq!(status, 200, "{answer}");
        Some(answer)
    }

    /// Sends a pair once. Whether it was acknowledged.
    pub async fn pair(&self, replica: usize, pair: &Value) -> bool {
        let post = |line: &Line| line.request(Method::POST, "/v1/pairs").json(pair);
        let Some(answer) = self.ask(replica, post).await else {
            return false;
        };
        assert!(["created", "unchanged", "renewed"].contains(&answer["status"].as_str().unwrap()));
        true
    }

    /// Sends pairs once, as a stream. Whether all were acknowledged; one that breaks off may have committed any part.
    pub async fn pairs(&self, replica: usize, pairs: impl Iterator<Item = Value>) -> bool {
        let lines: Vec<String> = pairs.map(|pair| pair.to_string() + "\n").collect();
        let post = |line: &Line| {
            let post = line.request(Method::POST, "/v1/pairs:batch");
            post.header("content-type", "application/x-ndjson").body(lines.concat())
        };
        let Some(totals) = self.ask(replica, post).await else {
            return false;
        };
        assert_eq!(totals["received"], lines.len());
        let bad = ["ignored", "refused", "invalid"].map(|bad| totals[bad].as_u64());
        assert_eq!(bad, [Some(0); 3], "{totals}");
        true
    }

    /// Sends a user's pair once. Whether it was acknowledged.
    pub async fn record(&self, replica: usize, index: usize, user: &str) -> bool {
        let known = &self.known[index];
        // Before it is sent: from then on it may be there.
        known.unanswered.lock().unwrap().insert(user.to_owned());
        let acknowledged = self
            .pair(replica, &json!({"user_id": user, "segment": segment(index)}))
            .await;
        if acknowledged {
            known.acknowledge(user);
        }
        acknowledged
    }

    /// Sends a stream of users.
    pub async fn stream(&self, replica: usize, index: usize, users: &[String]) -> bool {
        let known = &self.known[index];
        known.unanswered.lock().unwrap().extend(users.iter().cloned());
        let name = segment(index);
        let pairs = users.iter().map(|user| json!({"user_id": user, "segment": name}));
        let acknowledged = self.pairs(replica, pairs).await;
        if acknowledged {
            users.iter().for_each(|user| known.acknowledge(user));
        }
        acknowledged
    }

    /// Sends a stream of users who leave a second later.
    async fn pass(&self, replica: usize, users: &[String]) -> bool {
        self.passing.unanswered.lock().unwrap().extend(users.iter().cloned());
        let pairs = users
            .iter()
            .map(|user| json!({"user_id": user, "segment": PASSING, "ttl_seconds": 1}));
        let acknowledged = self.pairs(replica, pairs).await;
        if acknowledged {
            users.iter().for_each(|user| self.passing.acknowledge(user));
        }
        acknowledged
    }

    /// Counts a segment; the answer must hold every pair that was acknowledged before its age. `None` as in [`Load::ask`].
    pub async fn count(&self, replica: usize, index: usize, bound: u64) -> Option<Value> {
        let known = &self.known[index].instants;
        let sent = Instant::now();
        let name = segment(index);
        let path = format!("/v1/segments/{name}/count?max_staleness_ms={bound}");
        let answer = self.ask(replica, |line| line.request(Method::GET, &path)).await?;
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

    pub fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

impl Known {
    fn acknowledge(&self, user: &str) {
        self.unanswered.lock().unwrap().remove(user);
        if self.acknowledged.lock().unwrap().insert(user.to_owned()) {
            self.instants.add(1);
        }
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
    clients.push(tokio::spawn(pass(Arc::clone(load), format!("r{round}p"), dice(21))));
    for client in 22..24 {
        let name = format!("r{round}l{client}");
        clients.push(tokio::spawn(leaving::remove(Arc::clone(load), name, dice(client))));
    }
    clients.push(tokio::spawn(leaving::erase(
        Arc::clone(load),
        format!("r{round}e"),
        dice(24),
    )));
    clients.push(tokio::spawn(jobs::by_route(Arc::clone(load), dice(25))));
    clients.push(tokio::spawn(jobs::by_command(Arc::clone(load), dice(26))));
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

/// Streams of pairs whose users leave a second later.
async fn pass(load: Arc<Load>, name: String, mut dice: StdRng) {
    for number in 0.. {
        if !load.goes_on() {
            return;
        }
        let replica = dice.random_range(0..REPLICAS);
        let users: Vec<String> = (0..dice.random_range(1..40))
            .map(|user| format!("{name}-{number}-{user}"))
            .collect();
        if !load.pass(replica, &users).await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tokio::time::sleep(Duration::from_millis(dice.random_range(0..80))).await;
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
