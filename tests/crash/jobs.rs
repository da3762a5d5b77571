//! The archive and the refresh, asked for and called again and again. Whatever breaks may end a run; what it leaves must be right.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::{RngExt, rngs::StdRng};
use reqwest::Method;
use serde_json::Value;

use crate::load::Load;
use crate::world::{Line, REPLICAS};

const JOBS: [&str; 2] = ["archive", "refresh"];
/// A request waits 30 seconds for its run.
const PATIENCE: Duration = Duration::from_secs(40);
/// The exit code of a command that did not do its work.
const FAILED: i32 = 1;

/// How runs ended, by the job and how it was asked for.
#[derive(Default)]
pub struct Jobs(Mutex<BTreeMap<(&'static str, &'static str), u64>>);

impl Jobs {
    fn ended(&self, job: &'static str, how: &'static str) {
        *self.0.lock().unwrap().entry((job, how)).or_default() += 1;
    }

    /// How many ended so.
    pub fn count(&self, how: &str) -> u64 {
        let ended = self.0.lock().unwrap();
        ended
            .iter()
            .filter(|((_, ends), _)| *ends == how)
            .map(|(_, runs)| runs)
            .sum()
    }

    pub fn told(&self) -> String {
        let ended = self.0.lock().unwrap();
        let each = ended.iter().map(|((job, how), runs)| format!("{job} {how}: {runs}"));
        each.collect::<Vec<_>>().join(", ")
    }
}

/// What is under way when the load stops is not waited for much longer.
async fn until_stopped<T>(load: &Load, longer: Duration, work: impl Future<Output = T>) -> Option<T> {
    let stopped = async {
        while load.goes_on() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(longer).await;
    };
    tokio::select! {
        done = work => Some(done),
        () = stopped => None,
    }
}

/// Before anything breaks, each job does its work at each replica: later, runs that broke off are in the way of others for a minute and more.
pub async fn answer_at_rest(load: &Load) {
    for (replica, job) in (0..REPLICAS).flat_map(|replica| JOBS.map(|job| (replica, job))) {
        let path = format!("/v1/admin/{job}");
        let run = load.ask(replica, |line: &Line| line.request(Method::POST, &path));
        let run = run.await.expect("an answer");
        assert!(run["job"] == job && run["finished"] == true, "{run}");
    }
}

/// Asks the replicas for runs. One whose answer is not waited for goes on.
pub async fn by_route(load: Arc<Load>, mut dice: StdRng) {
    while load.goes_on() {
        let (replica, job) = (dice.random_range(0..REPLICAS), JOBS[dice.random_range(0..JOBS.len())]);
        let path = format!("/v1/admin/{job}");
        let asking = load.send(replica, |line: &Line| {
            line.request(Method::POST, &path).timeout(PATIENCE)
        });
        let how = match until_stopped(&load, Duration::ZERO, asking).await {
            None => "left under way",
            Some(None) => "refused",
            Some(Some((200, run))) => {
                assert_eq!(run["totals"]["drift"], 0, "{run}");
                assert!(run["job"] == job && run["finished"] == true, "{run}");
                "done"
            }
            Some(Some((202, _))) => "going on",
            Some(Some((409, problem))) => {
                assert!(problem["type"].as_str().unwrap().ends_with("/job-running"), "{problem}");
                "running elsewhere"
            }
            Some(Some((status, answer))) => panic!("{path}: {status} {answer}"),
        };
        load.jobs.ended(job, how);
        tokio::time::sleep(Duration::from_millis(dice.random_range(100..300))).await;
    }
}

/// Runs the commands beside them. One that is under way for long after the load stops is killed: to the others it runs for another minute.
pub async fn by_command(load: Arc<Load>, mut dice: StdRng) {
    while load.goes_on() {
        let job = JOBS[dice.random_range(0..JOBS.len())];
        let longer = Duration::from_millis(dice.random_range(0..800));
        let how = match until_stopped(&load, longer, run(&load, job)).await {
            None => "killed",
            Some(true) => "done by command",
            Some(false) => "failed by command",
        };
        load.jobs.ended(job, how);
        tokio::time::sleep(Duration::from_millis(dice.random_range(200..600))).await;
    }
}

/// Runs a command to its end. Whether it did its work; it may fail, but as documented, and may find no drift.
pub async fn run(load: &Load, job: &str) -> bool {
    let output = load.world.command(job).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => true,
        Some(FAILED) => {
            assert!(
                !said.contains("panicked") && !said.contains("were off by"),
                "{job}: {said}"
            );
            false
        }
        code => panic!("{job} ended with {code:?}: {said}"),
    }
}

/// What the runs that ended wrote down of drifts.
pub async fn drift(session: &mut sqlx::PgConnection) -> i64 {
    let reports: Vec<String> =
        sqlx::query_scalar("SELECT report::text FROM segment_counter.job_run WHERE report::text <> '{}'")
            .fetch_all(session)
            .await
            .unwrap();
    let drifts = reports.iter().map(|report| {
        let report: Value = serde_json::from_str(report).unwrap();
        report["drift"].as_i64().expect("a drift")
    });
    drifts.sum()
}
