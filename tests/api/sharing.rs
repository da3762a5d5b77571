//! Counters that share a Redis: segments' numbers begin at 1 in each of them, and their counts must not meet.

use serde_json::json;

use crate::support::postgres;
use crate::support::redis::Node;
use crate::support::server::{Server, migrated};
use crate::table::count;
use crate::wire::post;

#[test]
fn counters_that_share_a_redis_answer_their_own_counts() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let redis = Node::start(&[]);
    for members in [3, 1, 2] {
        let url = runtime.block_on(migrated(postgres::server()));
        // Two replicas: what the second answers, it has from the nodes or from the ledger.
        let [first, second] = [(); 2].map(|()| Server::start(&url, &["--redis-url", &redis.url()]));
        let pairs: Vec<_> = (0..members)
            .map(|user| json!({"user_id": user.to_string(), "segment": "s"}))
            .collect();
        let sent = post("/v1/pairs:batch", json!(pairs).to_string());
        assert_eq!(sent.send(first.address()).unwrap().status, 200);
        assert_eq!([count(&first, "s"), count(&second, "s")], [members, members]);
    }
}
