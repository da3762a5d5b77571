//! An open loop: so many requests a second arrive whether or not the ones before were answered, as those of strangers do. `wrk` cannot: its
//! connections wait for their answers, so that an overloaded server is offered less.
//!
//! A request takes a connection that is idle or opens one, up to a bound, and never sends the same pair twice. Its time counts from the instant at
//! which it was due (to a millisecond, in which several may be due), not from when there was a connection for it.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(20);
const TICK: Duration = Duration::from_millis(1);

/// What is asked.
#[derive(Debug, Clone)]
pub struct Request {
    path: &'static str,
    /// POST one pair, never the same one: the run's own prefix.
    pairs: Option<u32>,
}

impl Request {
    pub fn get(path: &'static str) -> Self {
        Self { path, pairs: None }
    }

    pub fn pairs(path: &'static str) -> Self {
        Self {
            path,
            pairs: Some(rand::random()),
        }
    }

    fn write(&self, number: usize) -> String {
        let path = self.path;
        let Some(prefix) = self.pairs else {
            return format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n");
        };
        let body = format!(
            r#"{{"user_id": "{prefix:08x}-{number}", "segment": "segment-{}"}}"#,
            number % 100
        );
        let mut text = format!("POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n");
        write!(text, "Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        text
    }
}

/// How much is offered.
#[derive(Debug, Clone, Copy)]
pub struct Offer {
    pub per_second: f64,
    pub seconds: f64,
    /// The most connections.
    pub connections: usize,
}

/// Times in microseconds, sorted.
#[derive(Debug, Default)]
pub struct Times(Vec<f64>);

impl Times {
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The time that this share of them did not exceed; 0 of none.
    pub fn at(&self, share: f64) -> f64 {
        let last = self.0.len().saturating_sub(1) as f64;
        self.0.get((last * share).round() as usize).copied().unwrap_or(0.0)
    }
}

/// What became of it.
#[derive(Debug, Default)]
pub struct Answers {
    pub accepted: Times,
    /// Answered with 503, and when to come again.
    pub refused: Times,
    /// For which there was no connection.
    pub unsent: usize,
    /// Any other answer, or none.
    pub failed: usize,
    /// How long it was offered.
    pub seconds: f64,
}

impl Answers {
    pub fn all_accepted(&self) -> bool {
        self.refused.count() + self.unsent + self.failed == 0
    }
}

#[derive(Clone, Copy)]
enum Outcome {
    Accepted,
    Refused,
    Failed,
}

struct Shared {
    address: String,
    request: Request,
    idle: Mutex<Vec<TcpStream>>,
    done: Mutex<Vec<(Outcome, f64)>>,
}

impl Offer {
    /// Makes it by one thread, where so little is offered that several would mostly wake each other.
    pub async fn make_by_one_thread(self, url: &str, request: &Request) -> Answers {
        let (url, request) = (url.to_owned(), request.clone());
        tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(self.make(&url, &request))
        })
        .await
        .expect("no panic")
    }

    /// Makes it, and waits for every answer.
    pub async fn make(self, url: &str, request: &Request) -> Answers {
        let all = (self.per_second * self.seconds) as usize;
        let shared = Arc::new(Shared {
            address: url.trim_start_matches("http://").to_owned(),
            request: request.clone(),
            idle: Mutex::default(),
            done: Mutex::new(Vec::with_capacity(all)),
        });
        let mut under_way = JoinSet::new();
        let mut answers = Answers::default();
        let begun = Instant::now();
        let mut sent = 0;
        while sent < all {
            let now = Instant::now();
            while under_way.try_join_next().is_some() {}
            let due = ((now - begun).as_secs_f64() * self.per_second) as usize;
            for number in sent..due.min(all) {
                let connection = shared.idle.lock().unwrap().pop();
                if connection.is_none() && under_way.len() >= self.connections {
                    answers.unsent += 1;
                    continue;
                }
                under_way.spawn(ask(Arc::clone(&shared), connection, number, now));
            }
            sent = due.min(all);
            tokio::time::sleep(TICK).await;
        }
        answers.seconds = begun.elapsed().as_secs_f64();
        while under_way.join_next().await.is_some() {}
        for (outcome, micros) in shared.done.lock().unwrap().drain(..) {
            match outcome {
                Outcome::Accepted => answers.accepted.0.push(micros),
                Outcome::Refused => answers.refused.0.push(micros),
                Outcome::Failed => answers.failed += 1,
            }
        }
        answers.accepted.0.sort_by(f64::total_cmp);
        answers.refused.0.sort_by(f64::total_cmp);
        answers
    }
}

async fn ask(shared: Arc<Shared>, connection: Option<TcpStream>, number: usize, due: Instant) {
    let answered = tokio::time::timeout(PATIENCE, async {
        let mut connection = match connection {
            Some(connection) => connection,
            None => {
                let connection = TcpStream::connect(&shared.address).await.ok()?;
                connection.set_nodelay(true).ok()?;
                connection
            }
        };
        let text = shared.request.write(number);
        connection.write_all(text.as_bytes()).await.ok()?;
        let outcome = read(&mut connection).await?;
        Some((connection, outcome))
    })
    .await;
    let micros = due.elapsed().as_secs_f64() * 1e6;
    let outcome = match answered {
        Ok(Some((connection, outcome))) => {
            shared.idle.lock().unwrap().push(connection);
            outcome
        }
        _ => Outcome::Failed,
    };
    shared.done.lock().unwrap().push((outcome, micros));
}

/// One answer, its body included; `None` where it is none.
async fn read(connection: &mut TcpStream) -> Option<Outcome> {
    let mut buffer = [0; 4096];
    let mut filled = 0;
    let (head, end) = loop {
        match connection.read(&mut buffer[filled..]).await.ok()? {
            0 => return None,
            more => filled += more,
        }
        if let Some(end) = buffer[..filled].windows(4).position(|window| window == b"\r\n\r\n") {
            break (std::str::from_utf8(&buffer[..end]).ok()?, end + 4);
        }
    };
    let header = |name: &str| {
        head.lines()
            .find_map(|line| line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name)))
            .map(|(_, value)| value)
    };
    let length: usize = header("content-length")?.parse().ok()?;
    let outcome = match head.get(9..12)? {
        "200" => Outcome::Accepted,
        "503" if header("retry-after").is_some() => Outcome::Refused,
        _ => Outcome::Failed,
    };
    let mut rest = (end + length).checked_sub(filled)?;
    while rest > 0 {
        let room = rest.min(buffer.len());
        match connection.read(&mut buffer[..room]).await.ok()? {
            0 => return None,
            more => rest -= more,
        }
    }
    Some(outcome)
}
