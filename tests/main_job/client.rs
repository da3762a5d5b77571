//! An application: it reaches the API through its Service, and sends again what was not taken.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

use super::kubectl::Namespace;

/// A client of one API.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    url: String,
}

impl Client {
    /// Of the Service `{name}-api`, by its address: this host must reach Services, as that of the test cluster does.
    pub fn new(namespace: Namespace, name: &str) -> Self {
        let service = namespace.get(&format!("service/{name}-api"));
        let address = service["spec"]["clusterIP"].as_str().unwrap();
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(2))
            .timeout(Duration::from_secs(60))
            // Each request may reach another pod.
            .pool_max_idle_per_host(0)
            .build()
            .unwrap();
        Self {
            http,
            url: format!("http://{address}"),
        }
    }

    /// Sends until it was taken: a broken connection and a 503 say that it may not have been.
    async fn send(&self, request: impl Fn(&reqwest::Client) -> reqwest::RequestBuilder) -> Value {
        let mut last = String::new();
        for _ in 0..60 {
            match request(&self.http).send().await {
                Ok(answer) if answer.status().is_success() => match answer.json().await {
                    Ok(answer) => return answer,
                    Err(error) => last = error.to_string(),
                },
                Ok(answer) => {
                    let status = answer.status();
                    let body = answer.text().await.unwrap_or_default();
                    assert_eq!(status, 503, "{body}");
                    last = body;
                }
                Err(error) => last = format!("{error:?}"),
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        panic!("{} took nothing in 30 s: {last}", self.url);
    }

    /// Sends a compressed stream; its totals.
    pub async fn stream(&self, gzip: Vec<u8>) -> Value {
        let url = format!("{}/v1/pairs:batch", self.url);
        self.send(|http| {
            http.post(&url)
                .header("content-type", "application/x-ndjson")
                .header("content-encoding", "gzip")
                .body(gzip.clone())
        })
        .await
    }

    /// Sends one pair.
    pub async fn pair(&self, user: &str, segment: &str) -> Value {
        let url = format!("{}/v1/pairs", self.url);
        self.send(|http| http.post(&url).json(&json!({"user_id": user, "segment": segment})))
            .await
    }

    /// Gives a segment a window of its own.
    pub async fn put_window(&self, segment: &str, seconds: i64) {
        let url = format!("{}/v1/segments/{segment}", self.url);
        self.send(|http| http.put(&url).json(&json!({"window_seconds": seconds})))
            .await;
    }

    /// One count, asked of the ledger.
    pub async fn count(&self, segment: &str) -> Value {
        let url = format!("{}/v1/segments/{segment}/count?max_staleness_ms=0", self.url);
        self.send(|http| http.get(&url)).await
    }

    /// The counts of all these segments, no older than `max_staleness_ms`.
    pub async fn counts(
        &self,
        segments: impl Iterator<Item = &String>,
        max_staleness_ms: u32,
    ) -> BTreeMap<String, i64> {
        let segments: Vec<_> = segments.collect();
        let url = format!("{}/v1/counts", self.url);
        let body = json!({"segments": segments, "max_staleness_ms": max_staleness_ms});
        let answer = self.send(|http| http.post(&url).json(&body)).await;
        let all = answer["counts"]
            .as_array()
            .unwrap_or_else(|| panic!("no counts in {answer}"));
        all.iter()
            .map(|one| {
                (
                    one["segment"].as_str().unwrap().to_owned(),
                    one["count"].as_i64().unwrap_or(-1),
                )
            })
            .collect()
    }
}
