//! Three replicas on a database of their own, and clients that choose one of them by chance.

use rand::{RngExt, rngs::StdRng};
use serde_json::{Value, json};

use crate::support::postgres;
use crate::support::redis::Node;
use crate::support::server::{Server, migrated};

pub const REPLICAS: usize = 3;

pub struct World {
    pub replicas: Vec<Server>,
    pub client: reqwest::Client,
    _redis: Node,
}

impl World {
    pub async fn start() -> Self {
        let database = migrated(postgres::server()).await;
        let redis = Node::start(&[]);
        let replicas = (0..REPLICAS)
            .map(|_| Server::start(&database, &["--redis-url", &redis.url()]))
            .collect();
        Self {
            replicas,
            client: reqwest::Client::new(),
            _redis: redis,
        }
    }

    /// One of the replicas.
    pub fn any(&self, dice: &mut StdRng) -> &str {
        &self.replicas[dice.random_range(0..REPLICAS)].url
    }

    /// Sends a pair and returns when it is acknowledged.
    pub async fn record(&self, replica: &str, segment: &str, user: &str) {
        let pair = json!({"user_id": user, "segment": segment});
        let sent = self.client.post(format!("{replica}/v1/pairs")).json(&pair).send().await;
        let answer = sent.unwrap();
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    }

    /// The answer of a replica for a segment, no older than `bound` milliseconds.
    pub async fn count(&self, replica: &str, segment: &str, bound: u64) -> Value {
        let url = format!("{replica}/v1/segments/{segment}/count?max_staleness_ms={bound}");
        let answer = self.client.get(url).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.json().await.unwrap()
    }

    /// The sum of a metric over the replicas.
    pub async fn metric(&self, name: &str) -> u64 {
        let mut sum = 0;
        for replica in &self.replicas {
            let answer = self.client.get(format!("{}/metrics", replica.health)).send().await;
            let text = answer.unwrap().text().await.unwrap();
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            sum += value
                .unwrap_or_else(|| panic!("no {name} in {text}"))
                .parse::<u64>()
                .unwrap();
        }
        sum
    }
}
