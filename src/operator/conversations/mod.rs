//! The operator's conversations with a scripted API server: what it asks, in which order, and what it does with each answer.

mod creation;
mod merge;
mod migration;
mod pruning;
mod refusals;
mod server;
mod steady;
mod telling;

use std::sync::Arc;

use kube::runtime::{
    controller::Action,
    events::{Recorder, Reporter},
};
use serde_json::{Value, json};

use self::server::{Request, Server};
use super::{
    apply::MANAGER,
    controller::{Guarded, ReconcileError, reconcile},
    fixtures::{self, facts},
    memory::Memories,
    metrics::Metrics,
    observe::Context,
    observed::{Observed, Place, PostgresFacts},
    validate::validate,
};
use crate::{
    crd::{SegmentCounter, SegmentCounterStatus},
    ledger::LedgerError,
};

/// The object, on the server.
const OBJECT: &str = "segmentcounters/ads";
/// Of the object in the fixtures.
const UID: &str = "6f1e";

/// A server with an object and the Secrets that it names, and an operator.
struct World {
    server: Server,
    context: Arc<Context>,
    observed: Observed,
}

impl World {
    fn new((object, observed): (SegmentCounter, Observed)) -> Self {
        let server = Server::default();
        server.put(OBJECT, serde_json::to_value(&object).unwrap());
        let secrets = [
            ("secrets/ads-pg-app", &observed.postgres_secret),
            ("secrets/ads-tokens", &observed.tokens_secret),
        ];
        for (name, data) in secrets {
            if let Some(data) = data {
                let text = |value: &Vec<u8>| String::from_utf8(value.clone()).unwrap();
                let data = data
                    .iter()
                    .map(|(key, value)| (key.clone(), json!(encoded(&text(value)))));
                server.put(name, json!({"data": data.collect::<serde_json::Map<_, _>>()}));
            }
        }
        let context = operator(&server, &observed);
        Self {
            server,
            context,
            observed,
        }
    }

    /// The least object, ready; what was asked on the way is forgotten, and no pass writes anything more.
    async fn settled() -> Self {
        let world = Self::new(fixtures::minimal());
        world.settle().await;
        assert_eq!(world.word("Ready"), "True AllReady");
        world
    }

    /// Passes until the migration is done and all pods are there.
    async fn settle(&self) {
        self.pass().await.unwrap();
        self.job_ends("Complete");
        self.ledger(Ok(facts()));
        self.pass().await.unwrap();
        self.rolls_out();
        self.pass().await.unwrap();
        self.server.asked();
    }

    /// Another process takes over: it remembers nothing but what its first probe tells it.
    fn restarted(&mut self) {
        self.context = operator(&self.server, &self.observed);
        self.ledger(Ok(facts()));
    }

    /// One reconcile of the object as the server has it.
    async fn pass(&self) -> Result<Action, ReconcileError> {
        self.pass_with(self.object()).await
    }

    /// One reconcile of the object as a watch shows it. A task of its own, as the controller's are: unoptimised it takes a megabyte of
    /// stack, and so much again for each test that holds it.
    async fn pass_with(&self, shown: Arc<Guarded>) -> Result<Action, ReconcileError> {
        tokio::spawn(reconcile(shown, self.context.clone())).await.unwrap()
    }

    fn object(&self) -> Arc<Guarded> {
        Arc::new(serde_json::from_value(self.server.get(OBJECT).unwrap()).unwrap())
    }

    fn decoded(&self) -> SegmentCounter {
        serde_json::from_value(self.server.get(OBJECT).unwrap()).unwrap()
    }

    fn status(&self) -> SegmentCounterStatus {
        self.decoded().status.unwrap_or_default()
    }

    /// A condition as `True AllReady`, or as `absent`.
    fn word(&self, type_: &str) -> String {
        let status = self.status();
        let condition = status.conditions.iter().find(|condition| condition.type_ == type_);
        condition.map_or("absent".to_owned(), |c| format!("{} {}", c.status, c.reason))
    }

    fn message(&self, type_: &str) -> String {
        let status = self.status();
        let condition = status.conditions.iter().find(|condition| condition.type_ == type_);
        condition.unwrap().message.clone()
    }

    /// The user changes the spec.
    fn spec(&self, patch: &Value) {
        self.server.change(OBJECT, &json!({"spec": patch}));
    }

    /// The prober learns this of the ledger.
    fn ledger(&self, told: Result<PostgresFacts, LedgerError>) {
        let place = Place::of(&validate(&self.decoded(), &self.observed).unwrap());
        self.context.memories.with(UID, |memory| {
            memory.probe.place = place;
            memory.probe.postgres = Some(told);
        });
    }

    /// The migration, as `jobs/ads-migrate-…`.
    fn job(&self) -> String {
        let jobs = self.server.names("jobs");
        assert_eq!(jobs.len(), 1, "{jobs:?}");
        jobs[0].clone()
    }

    /// The migration ends so: `Complete` or `Failed`.
    fn job_ends(&self, how: &str) {
        self.server.set_status(&self.job(), &ended(how));
    }

    /// The pods of the API and of the cache come up.
    fn rolls_out(&self) {
        let deployment = self.server.get("deployments/ads-api").unwrap();
        let replicas = &deployment["spec"]["replicas"];
        self.server.set_status(
            "deployments/ads-api",
            &json!({
                "observedGeneration": deployment["metadata"]["generation"],
                "replicas": replicas, "updatedReplicas": replicas, "readyReplicas": replicas, "availableReplicas": replicas,
            }),
        );
        if let Some(redis) = self.server.get("statefulsets/ads-redis") {
            let replicas = &redis["spec"]["replicas"];
            let status = json!({"replicas": replicas, "readyReplicas": replicas});
            self.server.set_status("statefulsets/ads-redis", &status);
        }
    }

    /// What was written to children since the last look, in order: neither the status nor Events.
    fn children_written(&self) -> Vec<String> {
        let mut written = self.server.written();
        written.retain(|short| !short.contains(" segmentcounters/") && !short.contains(" events"));
        written
    }
}

fn operator(server: &Server, observed: &Observed) -> Arc<Context> {
    let client = server.client();
    let reporter = Reporter {
        controller: MANAGER.to_owned(),
        instance: Some("test".to_owned()),
    };
    Arc::new(Context {
        recorder: Recorder::new(client.clone(), reporter),
        client,
        metrics: Metrics::default(),
        default_image: observed.default_image.clone(),
        memories: Memories::default(),
    })
}

/// A ledger that can be logged in to, and has no tables.
fn empty_ledger() -> PostgresFacts {
    let mut facts = facts();
    facts.schema.installed = None;
    facts
}

/// The status of a Job that ended so.
fn ended(how: &str) -> Value {
    json!({"conditions": [{"type": how, "status": "True", "message": "said by the Job"}]})
}

/// As Secrets hold it.
fn encoded(text: &str) -> String {
    let bytes = k8s_openapi::ByteString(text.as_bytes().to_vec());
    serde_json::to_value(bytes).unwrap().as_str().unwrap().to_owned()
}

/// An object with the labels of ours, that belongs to another SegmentCounter.
fn foreign(owner: &str) -> Value {
    json!({"metadata": {
        "labels": {
            "app.kubernetes.io/managed-by": MANAGER,
            "app.kubernetes.io/instance": "ads",
        },
        "ownerReferences": [{
            "apiVersion": "segmentcounter.io/v1alpha1", "kind": "SegmentCounter", "name": "ads", "uid": owner, "controller": true,
        }],
    }})
}
