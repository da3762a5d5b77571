//! The service on a real Redis that is cut off, or that swallows what it is sent: a short circuit-break, and one probe at a time.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use segment_counter::cache::{RedisCache, RedisConfig};
use segment_counter::service::{Service, ServiceConfig};
use tokio::time::{Instant, sleep, timeout};

use crate::model::{ModelLedger, name, pair, start};
use crate::support::proxy::Proxy;
use crate::support::redis::Node;

const STRICT: Option<Duration> = Some(Duration::ZERO);
/// How long a node is away; the circuit's pauses grow to a second.
const AWAY: Duration = Duration::from_secs(3);

struct Scene {
    _node: Node,
    proxy: Proxy,
    ledger: Arc<ModelLedger>,
    service: Arc<Service>,
    other: Arc<Service>,
}

impl Scene {
    async fn start() -> Self {
        let node = Node::start(&[]);
        let proxy = Proxy::in_front_of(&node.url());
        let ledger = ModelLedger::new();
        let replica = || {
            let urls = vec![proxy.url(&node.url())];
            let config = RedisConfig {
                urls,
                ..RedisConfig::default()
            };
            start(
                &ledger,
                Arc::new(RedisCache::new(&config).unwrap()),
                ServiceConfig::default(),
            )
        };
        let (service, other) = (replica(), replica());
        for user in 0..5 {
            service.record(pair(user, "s")).await.unwrap();
        }
        assert_eq!(service.count(&name("s"), None).await.unwrap().unwrap().count, 5);
        Self {
            _node: node,
            proxy,
            ledger,
            service,
            other,
        }
    }

    /// Crowds of readers while the node is away: how long the slowest of each crowd waited.
    async fn crowds(&self) -> Vec<Duration> {
        let mut slowest = Vec::new();
        let until = Instant::now() + AWAY;
        let mut user = 100;
        while Instant::now() < until {
            user += 1;
            self.service.record(pair(user, "s")).await.unwrap();
            let members = i64::try_from(self.ledger.members("s")).unwrap();
            let asked = Instant::now();
            // Nothing of this process may answer: each crowd is older than what is remembered.
            sleep(Duration::from_millis(40)).await;
            let (segment, bound) = (name("s"), Some(Duration::from_millis(30)));
            let answers = join_all((0..50).map(|_| self.service.count(&segment, bound))).await;
            slowest.push(asked.elapsed() - Duration::from_millis(40));
            for answer in answers {
                let answer = answer.unwrap().unwrap();
                assert!(answer.exact);
                assert_eq!(answer.count, members);
            }
        }
        slowest
    }

    /// Until a value that one replica stored is read by the other without the ledger.
    async fn shared_again(&self) -> Duration {
        let healed = Instant::now();
        let shared = async {
            loop {
                sleep(Duration::from_millis(120)).await;
                let before = self.ledger.statements();
                self.service
                    .count(&name("s"), Some(Duration::from_millis(100)))
                    .await
                    .unwrap();
                sleep(Duration::from_millis(5)).await;
                self.other
                    .count(&name("s"), Some(Duration::from_secs(1)))
                    .await
                    .unwrap();
                self.other
                    .count(&name("s"), Some(Duration::from_millis(100)))
                    .await
                    .unwrap();
                if self.ledger.statements() <= before + 1 {
                    return;
                }
            }
        };
        timeout(Duration::from_secs(5), shared)
            .await
            .expect("the cache is not used again");
        healed.elapsed()
    }
}

/// Probes that a node that is away for [`AWAY`] may cost one process: pauses of 0, 50, 100, 200, 400, 800, 1,000 ms.
const PROBES: u64 = 9;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_cut_off_costs_few_probes_and_no_reader_a_wait() {
    let scene = Scene::start().await;
    let before = scene.proxy.accepted();
    scene.proxy.cut();
    let mut slowest = scene.crowds().await;
    let probes = scene.proxy.accepted() - before;
    assert!((3..=PROBES).contains(&probes), "{probes} probes of one process");
    slowest.sort();
    // The very first may meet the cut itself.
    assert!(slowest[slowest.len() - 2] < Duration::from_millis(200), "{slowest:?}");
    scene.proxy.heal();
    let back = scene.shared_again().await;
    println!(
        "cut: {probes} probes in {AWAY:?}, {} crowds, used again {back:?} after it was healed",
        slowest.len()
    );
    assert_eq!(
        scene.service.count(&name("s"), STRICT).await.unwrap().unwrap().count,
        i64::try_from(scene.ledger.members("s")).unwrap()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_swallows_everything_costs_one_time_out_and_few_probes() {
    let scene = Scene::start().await;
    let before = scene.proxy.accepted();
    scene.proxy.black_hole();
    let mut slowest = scene.crowds().await;
    let probes = scene.proxy.accepted() - before;
    assert!((1..=PROBES).contains(&probes), "{probes} probes of one process");
    slowest.sort();
    // One crowd waits for the time-out of an answer (250 ms); those after it find the circuit open.
    assert!(slowest[slowest.len() - 1] < Duration::from_millis(600), "{slowest:?}");
    assert!(slowest[slowest.len() - 2] < Duration::from_millis(200), "{slowest:?}");
    scene.proxy.heal();
    let back = scene.shared_again().await;
    println!(
        "black hole: {probes} probes in {AWAY:?}, {} crowds, used again {back:?} after it was healed",
        slowest.len()
    );
}
