//! The main job: a real stream goes in through the Service, twice, and every count is right; also when the cache is lost, when pods are
//! killed, when an own window passes and after the object was deleted and made again.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use flate2::{Compression, write::GzEncoder};
use futures_util::{StreamExt, stream as streams};
use serde_json::json;
use std::io::Write;

use super::{
    client::Client,
    figures,
    known_stream::{self, TEN_YEARS, TWO_WEEKS},
    kubectl::{Namespace, eventually},
    world::{NOT_DUE, READY, STREAM, object, our_image, postgres},
};

/// The scenario. Its steps share one object, as a platform team's day does.
pub async fn a_real_stream_is_counted_exactly_whatever_is_lost_on_the_way() {
    postgres(STREAM);
    let ads = object(
        "ads",
        "ads",
        &format!(
            "  counting: {{windowSeconds: {TEN_YEARS}}}\n  redis: {{managed: {{nodes: 2}}}}\n  maintenance: {{{NOT_DUE}}}"
        ),
    );
    let brief = object(
        "brief",
        "brief",
        &format!("  redis: {{managed: {{}}}}\n  maintenance: {{{NOT_DUE}}}"),
    );
    let begun = Instant::now();
    STREAM.apply(&ads);
    STREAM.wait("condition=Ready", "segmentcounter/ads", READY);
    figures::note(
        "apply to Ready (a migration, 2 API and 2 cache pods)",
        begun.elapsed().as_secs_f64(),
        "s",
    );
    STREAM.apply(&brief);
    STREAM.wait("condition=Ready", "segmentcounter/brief", READY);
    for job in ["ArchiveCurrent", "CountsCurrent"] {
        STREAM
            .told("ads", job, "Unknown", "NotYetRun", Duration::from_secs(20))
            .await;
    }

    let client = Client::new(STREAM, "ads");
    let passing = Passing::begin(&client).await;

    let expected = known_stream::expected(TEN_YEARS);
    sent_twice_it_gives_the_known_counts(&client, &expected, 8_820, 215).await;
    sent_twice_it_gives_the_known_counts(
        &Client::new(STREAM, "brief"),
        &known_stream::expected(TWO_WEEKS),
        165,
        69,
    )
    .await;
    figures::memory_of_pods(
        STREAM,
        "app.kubernetes.io/instance=ads,app.kubernetes.io/component=api",
        "API pod after the stream",
    );

    the_cache_may_be_lost(&client, &expected).await;
    api_pods_may_be_killed(&client, &expected).await;
    passing.they_leave_on_time(&client).await;
    the_jobs_do_their_work(&expected, &client).await;
    an_object_comes_and_goes_and_the_counts_stay(&ads, &expected).await;
    let (image, tag) = our_image();
    figures::size_of_image(&format!("{image}:{tag}"));
}

async fn sent_twice_it_gives_the_known_counts(
    client: &Client,
    expected: &BTreeMap<String, i64>,
    memberships: i64,
    populated: usize,
) {
    let body = known_stream::gzip();
    let first = client.stream(body.clone()).await;
    assert_eq!(first["received"], 84_981, "{first}");
    assert_eq!(first["invalid"], 0, "{first}");
    let second = client.stream(body).await;
    assert_eq!(second["created"], 0, "a pair sent again is no second one: {second}");
    for max_staleness_ms in [0, 1_000] {
        let counts = client.counts(expected.keys(), max_staleness_ms).await;
        assert_eq!(&counts, expected);
        assert_eq!(counts.values().sum::<i64>(), memberships);
        assert_eq!(counts.values().filter(|count| **count > 0).count(), populated);
    }
    eprintln!(
        "the stream, sent twice: {} counts, {memberships} memberships, as reckoned apart",
        expected.len()
    );
}

async fn the_cache_may_be_lost(client: &Client, expected: &BTreeMap<String, i64>) {
    let cache = "app.kubernetes.io/instance=ads,app.kubernetes.io/component=redis";
    STREAM.kubectl(&[
        "delete",
        "pod",
        "-l",
        cache,
        "--wait=false",
        "--grace-period=0",
        "--force",
    ]);
    // While it is away, while it comes back, and after.
    for _ in 0..5 {
        assert_eq!(&client.counts(expected.keys(), 1_000).await, expected);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    STREAM.kubectl(&["rollout", "status", "statefulset/ads-redis", "--timeout=120s"]);
    STREAM
        .told("ads", "CacheReady", "True", "LoggedIn", Duration::from_secs(60))
        .await;
    assert_eq!(&client.counts(expected.keys(), 1_000).await, expected);
    eprintln!("every node of the cache was lost, and no count changed");
}

async fn api_pods_may_be_killed(client: &Client, expected: &BTreeMap<String, i64>) {
    const BATCHES: usize = 60;
    const USERS: usize = 500;
    let done = Arc::new(AtomicBool::new(false));
    let load = {
        let (client, done) = (client.clone(), Arc::clone(&done));
        async move {
            streams::iter(0..BATCHES)
                .map(|batch| {
                    let client = &client;
                    async move {
                        client.stream(batch_of(batch, USERS)).await;
                        tokio::time::sleep(Duration::from_millis(400)).await;
                    }
                })
                .buffer_unordered(3)
                .collect::<Vec<_>>()
                .await;
            done.store(true, Ordering::Relaxed);
        }
    };
    let killer = async {
        let mut killed = 0;
        while !done.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let pods = STREAM.get("pods");
            let victim = pods["items"].as_array().unwrap().iter().find(|pod| {
                pod["metadata"]["labels"]["app.kubernetes.io/component"] == "api"
                    && pod["metadata"]["labels"]["app.kubernetes.io/instance"] == "ads"
                    && pod["metadata"]["deletionTimestamp"].is_null()
                    && pod["status"]["containerStatuses"][0]["ready"] == true
            });
            if let Some(victim) = victim {
                let name = victim["metadata"]["name"].as_str().unwrap();
                STREAM.kubectl(&["delete", "pod", name, "--grace-period=0", "--force", "--wait=false"]);
                killed += 1;
            }
        }
        killed
    };
    let ((), killed) = tokio::join!(load, killer);
    assert!(killed >= 2, "only {killed} pods were killed during the load");
    STREAM.wait("condition=Ready", "segmentcounter/ads", READY);
    let load = ["load-0", "load-1"].map(str::to_owned);
    let half = i64::try_from(BATCHES * USERS / 2).unwrap();
    assert_eq!(
        client.counts(load.iter(), 0).await,
        load.map(|name| (name, half)).into()
    );
    assert_eq!(&client.counts(expected.keys(), 0).await, expected);
    eprintln!(
        "{killed} API pods were killed during a load of {} pairs, and none is missing or counted twice",
        BATCHES * USERS
    );
}

/// Users of their own for each batch; even batches in one segment, odd ones in another.
fn batch_of(batch: usize, users: usize) -> Vec<u8> {
    let mut body = GzEncoder::new(Vec::new(), Compression::fast());
    for user in 0..users {
        let pair = json!({"user_id": format!("b{batch}-u{user}"), "segment": format!("load-{}", batch % 2)});
        writeln!(body, "{pair}").unwrap();
    }
    body.finish().unwrap()
}

const PASSING: usize = 1_000;

/// A segment with a window of 120 s and 1,000 pairs: when each of them leaves, by the API's own answers.
struct Passing {
    ends: Vec<jiff::Timestamp>,
}

impl Passing {
    async fn begin(client: &Client) -> Self {
        client.put_window("passing", 120).await;
        let ends = streams::iter(0..PASSING)
            .map(|user| async move {
                let before = jiff::Timestamp::now();
                let answer = client.pair(&format!("u{user}"), "passing").await;
                assert_eq!(answer["status"], "created", "{answer}");
                let ends: jiff::Timestamp = answer["expires_at"].as_str().unwrap().parse().unwrap();
                // One machine's clock here: 120 s, and at most a resolution more.
                let stays = ends.duration_since(before).as_secs_f64();
                assert!((119.0..=200.0).contains(&stays), "{stays} s");
                ends
            })
            .buffer_unordered(16)
            .collect()
            .await;
        Self { ends }
    }

    /// Every answer on the way is judged by the instant at which it says that it was exact.
    async fn they_leave_on_time(&self, client: &Client) {
        let mut looks = 0;
        loop {
            let answer = client.count("passing").await;
            let as_of: jiff::Timestamp = answer["as_of"].as_str().unwrap().parse().unwrap();
            let left = self.ends.iter().filter(|ends| **ends > as_of).count();
            assert_eq!(answer["count"], left, "{answer}");
            looks += 1;
            if left == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        eprintln!("{PASSING} users left on time, without any job; {looks} answers on the way were exact");
    }
}

async fn the_jobs_do_their_work(expected: &BTreeMap<String, i64>, client: &Client) {
    // What has ended is moved once it has settled: 20 s.
    tokio::time::sleep(Duration::from_secs(22)).await;
    assert_eq!(STREAM.condition("ads", "ArchiveCurrent").1, "NotYetRun");
    for job in ["archive", "refresh"] {
        let from = format!("--from=cronjob/ads-{job}");
        STREAM.kubectl(&["create", "job", &from, &format!("{job}-by-hand")]);
        STREAM.wait(
            "condition=Complete",
            &format!("job/{job}-by-hand"),
            Duration::from_secs(120),
        );
    }
    let archived = "SELECT s.name, count(*) FROM ads_lane_0.membership_history h JOIN ads.segment s ON s.id = h.segment_id GROUP BY 1";
    assert_eq!(STREAM.psql(archived), format!("passing|{PASSING}"));
    assert_eq!(
        STREAM.psql("SELECT count(*) FROM ads_lane_0.membership WHERE expires_at < clock_timestamp()"),
        "0"
    );

    STREAM
        .told("ads", "ArchiveCurrent", "True", "Fresh", Duration::from_secs(30))
        .await;
    STREAM
        .told("ads", "CountsCurrent", "True", "Fresh", Duration::from_secs(30))
        .await;
    let wide = STREAM.kubectl(&["get", "segmentcounter", "ads", "-o", "wide"]);
    for column in ["ARCHIVED", "COUNTED"] {
        let age = cell(&wide, column);
        assert!(
            age.ends_with('s') || age.ends_with('m'),
            "{column} is {age:?} in\n{wide}"
        );
    }
    assert_eq!(&client.counts(expected.keys(), 0).await, expected);
    eprintln!("the jobs moved exactly those {PASSING} rows, and the columns show their age\n{wide}");
}

/// The first row's cell under a heading of kubectl's table, whose columns are as wide as their widest cell.
fn cell<'a>(table: &'a str, heading: &str) -> &'a str {
    let mut lines = table.lines();
    let (head, row) = (lines.next().unwrap(), lines.next().unwrap());
    let at = head.find(heading).unwrap_or_else(|| panic!("no {heading} in {head}"));
    row[at..].split_whitespace().next().unwrap_or_default()
}

async fn an_object_comes_and_goes_and_the_counts_stay(manifest: &str, expected: &BTreeMap<String, i64>) {
    STREAM.kubectl(&["delete", "segmentcounter", "ads", "--wait"]);
    children_are_gone(STREAM, "ads").await;
    STREAM.apply(manifest);
    STREAM.wait("condition=Ready", "segmentcounter/ads", READY);
    let client = Client::new(STREAM, "ads");
    assert_eq!(&client.counts(expected.keys(), 0).await, expected);
    eprintln!("deleted, its children went with it; applied again, it finds the same counts");
}

async fn children_are_gone(namespace: Namespace, name: &str) {
    let kinds =
        "deployments,statefulsets,jobs,cronjobs,services,configmaps,serviceaccounts,poddisruptionbudgets,secrets,pods";
    let label = format!("app.kubernetes.io/instance={name}");
    eventually("the children go", Duration::from_secs(90), || {
        let left = namespace.kubectl(&["get", kinds, "-l", &label, "-o", "name"]);
        if left.trim().is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
}
