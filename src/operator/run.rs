//! The operator's process: health, the lease, then one controller for each namespace, and the prober.

use std::{net::SocketAddr, sync::Arc, sync::Mutex, sync::PoisonError, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt, future::BoxFuture, stream, stream::FuturesUnordered};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{Deployment, StatefulSet},
        batch::v1::{CronJob, Job},
        core::v1::{ConfigMap, Secret, Service, ServiceAccount},
        policy::v1::PodDisruptionBudget,
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::ListParams,
    core::PartialObjectMeta,
    runtime::{
        Controller, WatchStreamExt, controller,
        events::{Recorder, Reporter},
        reflector::{ObjectRef, Store},
        watcher,
    },
};
use prometheus_client::registry::Registry;
use tokio::{sync::mpsc, time::sleep};

use super::{
    apply::MANAGER,
    controller::{Guarded, Wake, error_policy, reconcile},
    leader::Leader,
    memory::Memories,
    metrics::Metrics,
    observe::Context,
    prober,
};
use crate::runtime::{
    health::{self, Dependency, Probe},
    shutdown::Shutdown,
};

/// What the process is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where health and metrics are served.
    pub health_listen: SocketAddr,
    /// The namespaces that are looked after; `None`: all.
    pub namespaces: Option<Vec<String>>,
    /// The image of the API where an object names none.
    pub image: String,
    /// Whether to act only as the holder of the lease.
    pub leader_elect: bool,
    /// Name of this process: its pod.
    pub identity: String,
    /// Namespace of the lease.
    pub own_namespace: String,
}

/// Why the process ends other than by a signal.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No cluster could be found to work with.
    #[error("the cluster's client: {0}")]
    Client(#[from] kube::Error),
    /// The health server or the signals.
    #[error("cannot start: {0}")]
    Io(#[from] std::io::Error),
    /// Another process leads: two must never act.
    #[error("the lease was lost")]
    LeaseLost,
    /// What is watched is no longer seen.
    #[error("a watch ended")]
    WatchEnded,
}

/// What `/readyz` says: what is waited for, if anything.
#[derive(Default)]
struct Waiting(Mutex<Option<String>>);

impl Waiting {
    fn set(&self, what: Option<&str>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = what.map(str::to_owned);
    }
}

#[async_trait]
impl Probe for Waiting {
    async fn dependencies(&self) -> Vec<Dependency> {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        vec![match waiting {
            Some(what) => Dependency::failed("kubernetes", what),
            None => Dependency::ok("kubernetes"),
        }]
    }
}

/// Runs until a signal.
///
/// # Errors
/// [`RunError`]
pub async fn run(options: Options) -> Result<(), RunError> {
    let shutdown = Shutdown::on_signals()?;
    let stop = Shutdown::new();
    let mut registry = Registry::default();
    let metrics = Metrics::registered(&mut registry);
    let waiting = Arc::new(Waiting::default());
    waiting.set(Some("starting"));
    health::spawn(
        options.health_listen,
        Arc::new(registry),
        waiting.clone(),
        shutdown.clone(),
        stop,
    )
    .await?;
    let client = Client::try_default().await?;
    let leader = Leader::new(client.clone(), &options.own_namespace, options.identity.clone());
    tokio::select! {
        result = act(&options, &client, &leader, &metrics, &waiting) => result,
        () = shutdown.requested() => {
            if options.leader_elect {
                leader.release().await;
            }
            Ok(())
        }
    }
}

async fn act(
    options: &Options,
    client: &Client,
    leader: &Leader,
    metrics: &Metrics,
    waiting: &Waiting,
) -> Result<(), RunError> {
    wait_for_definition(options, client, waiting).await;
    // One that stands by is ready: it is there to take over.
    waiting.set(None);
    if options.leader_elect {
        leader.acquire().await;
    }
    metrics.leading.set(1);
    tracing::info!(identity = options.identity, "leading");
    let context = || {
        let reporter = Reporter {
            controller: MANAGER.to_owned(),
            instance: Some(options.identity.clone()),
        };
        Arc::new(Context {
            client: client.clone(),
            recorder: Recorder::new(client.clone(), reporter),
            metrics: metrics.clone(),
            default_image: options.image.clone(),
            memories: Memories::default(),
        })
    };
    let mut parts: FuturesUnordered<BoxFuture<'_, RunError>> = FuturesUnordered::new();
    match &options.namespaces {
        None => parts.push(Box::pin(control(context(), None))),
        Some(all) => {
            for namespace in all {
                parts.push(Box::pin(control(context(), Some(namespace))));
            }
        }
    }
    if options.leader_elect {
        parts.push(Box::pin(async {
            leader.hold().await;
            RunError::LeaseLost
        }));
    }
    Err(parts.next().await.unwrap_or(RunError::WatchEnded))
}

/// The definition may be installed after the operator.
async fn wait_for_definition(options: &Options, client: &Client, waiting: &Waiting) {
    let first = options.namespaces.as_ref().and_then(|all| all.first());
    let api: Api<Guarded> = scoped(client, first.map(String::as_str));
    while let Err(error) = api.list(&ListParams::default().limit(1)).await {
        tracing::warn!(%error, "waiting for the kind SegmentCounter");
        waiting.set(Some("waiting for the kind SegmentCounter to be served"));
        sleep(Duration::from_secs(5)).await;
    }
}

fn scoped<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(
    client: &Client,
    namespace: Option<&str>,
) -> Api<K> {
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// One controller, with its prober; returns when a watch ended.
async fn control(context: Arc<Context>, namespace: Option<&str>) -> RunError {
    let c = &context.client;
    let children = || watcher::Config::default().labels(&format!("app.kubernetes.io/managed-by={MANAGER}"));
    let (wake, woken) = mpsc::unbounded_channel();
    let woken = stream::unfold(woken, |mut woken| async move {
        woken.recv().await.map(|object| (object, woken))
    });
    let controller = Controller::new(scoped::<Guarded>(c, namespace), watcher::Config::default());
    let store = controller.store();
    let stream = controller
        .with_config(
            controller::Config::default()
                .debounce(Duration::from_millis(300))
                .concurrency(8),
        )
        .owns(scoped::<Deployment>(c, namespace), children())
        .owns(scoped::<StatefulSet>(c, namespace), children())
        .owns(scoped::<Job>(c, namespace), children())
        .owns(scoped::<CronJob>(c, namespace), children())
        .owns(scoped::<Service>(c, namespace), children())
        .owns(scoped::<ConfigMap>(c, namespace), children())
        .owns(scoped::<ServiceAccount>(c, namespace), children())
        .owns(scoped::<PodDisruptionBudget>(c, namespace), children())
        .reconcile_on(woken)
        .run(reconcile, error_policy, context.clone())
        .for_each(|result| async move {
            // What a reconcile says of itself is logged where it is tried again.
            if let Err(controller::Error::QueueError(error)) = result {
                tracing::warn!(%error, "a watch was interrupted");
            }
        });
    let look = || {
        let all = store.state();
        context.metrics.objects(namespace.unwrap_or_default(), all.len());
        all
    };
    tokio::select! {
        () = stream => RunError::WatchEnded,
        () = prober::run(context.clone(), look, wake.clone()) => RunError::WatchEnded,
        () = secrets(&context, scoped(c, namespace), &store, &wake) => RunError::WatchEnded,
    }
}

/// Wakes the objects that name a Secret which came, changed or went, and has their logins tried at once. By their metadata alone: what
/// other Secrets hold is nobody's business, and must not fill the memory.
async fn secrets(context: &Context, secrets: Api<PartialObjectMeta<Secret>>, objects: &Store<Guarded>, wake: &Wake) {
    let changes = watcher(secrets, watcher::Config::default())
        .default_backoff()
        .touched_objects();
    let mut changes = std::pin::pin!(changes);
    while let Some(change) = changes.next().await {
        let secret = match change {
            Ok(secret) => secret,
            Err(error) => {
                tracing::warn!(%error, "the watch of Secrets was interrupted");
                continue;
            }
        };
        for object in objects.state() {
            if object.namespace() == secret.namespace() && names(&object, &secret.name_any()) {
                let uid = object.uid().unwrap_or_default();
                context.memories.with(&uid, |memory| memory.due.now());
                let _ = wake.send(ObjectRef::from_obj(&*object));
            }
        }
    }
}

/// Whether an object names this Secret, or made it.
fn names(object: &Guarded, secret: &str) -> bool {
    let Ok(object) = &object.0 else { return false };
    let spec = &object.spec;
    spec.postgres
        .external
        .as_ref()
        .is_some_and(|external| external.secret_ref.name == secret)
        || spec
            .api
            .tokens_secret_ref
            .as_ref()
            .is_some_and(|tokens| tokens.name == secret)
        || (spec.redis.managed.is_some() && secret == format!("{}-redis", object.name_any()))
}
