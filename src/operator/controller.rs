//! The reconcile of one object, as a list of steps, and what is remembered of it between two of them.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
    core::DeserializeGuard,
    runtime::{controller::Action, events::Recorder},
};
use rand::RngExt;
use tokio::sync::mpsc::UnboundedSender;

use super::{
    apply::{MANAGER, Marks, apply},
    build::{Children, children},
    events,
    metrics::Metrics,
    observed::{Observed, Probe, SecretData},
    prune::prune,
    status::{Applied, ApplyError, Outcome, status},
    validate::{Validated, validate},
};
use crate::crd::{SegmentCounter, SegmentCounterStatus};

const FULL_PASS: Duration = Duration::from_secs(600);

/// An object that may not be readable: one that is not must never stop the others.
pub(crate) type Guarded = DeserializeGuard<SegmentCounter>;
/// Starts a reconcile of every object; one with nothing to do only reads.
pub(crate) type Wake = UnboundedSender<()>;

/// What every reconcile shares.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) recorder: Recorder,
    pub(crate) metrics: Metrics,
    pub(crate) default_image: String,
    pub(crate) memories: Mutex<HashMap<String, Memory>>,
}

/// What is remembered of one object, by its uid.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) probe: Probe,
    pub(crate) invalid: String,
    marks: Marks,
    pruned: Option<u64>,
    failures: u32,
}

/// Why a reconcile is tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    /// Something could not be read, or the status could not be written.
    #[error("the API server refused: {0}")]
    Api(#[from] kube::Error),
    /// A child was refused; the status says so.
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

impl Context {
    /// Reads or changes what is remembered of an object.
    pub(crate) fn with<T>(&self, uid: &str, change: impl FnOnce(&mut Memory) -> T) -> T {
        let mut memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        change(memories.entry(uid.to_owned()).or_default())
    }

    /// What the object names, and what the prober last learnt.
    pub(crate) async fn observe(&self, object: &SegmentCounter) -> Result<Observed, kube::Error> {
        let namespace = object.namespace().unwrap_or_default();
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &namespace);
        let postgres_secret = match &object.spec.postgres.external {
            Some(external) => data(&secrets, &external.secret_ref.name).await?,
            None => None,
        };
        let tokens_secret_exists = match &object.spec.api.tokens_secret_ref {
            Some(tokens) => Some(data(&secrets, &tokens.name).await?.is_some()),
            None => None,
        };
        let redis_secret = match &object.spec.redis.managed {
            Some(_) => data(&secrets, &format!("{}-redis", object.name_any())).await?,
            None => None,
        };
        Ok(Observed {
            postgres_secret,
            tokens_secret_exists,
            redis_secret,
            default_image: self.default_image.clone(),
            operator_version: env!("CARGO_PKG_VERSION").to_owned(),
            probe: self.with(&object.uid().unwrap_or_default(), |memory| memory.probe.clone()),
        })
    }
}

async fn data(secrets: &Api<Secret>, name: &str) -> Result<Option<SecretData>, kube::Error> {
    let secret = secrets.get_opt(name).await?;
    Ok(secret.map(|secret| {
        let data = secret.data.unwrap_or_default();
        data.into_iter().map(|(key, value)| (key, value.0)).collect()
    }))
}

/// observe → validate → build → apply → prune → status.
pub(crate) async fn reconcile(object: Arc<Guarded>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let object = match &object.0 {
        Ok(object) => object,
        Err(invalid) => {
            tracing::warn!(error = %invalid.error, name = invalid.metadata.name, "an object cannot be read");
            return Ok(Action::await_change());
        }
    };
    if object.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let observed = context.observe(object).await?;
    let validated = validate(object, &observed);
    let applied = match &validated {
        Ok(v) => Some(bring_about(&context, v, &observed).await),
        Err(_) => None,
    };
    let failed = applied.as_ref().and_then(|result| result.as_ref().err().cloned());
    let outcome = Outcome {
        validated: validated.as_ref(),
        applied,
        observed: &observed,
        now: now(),
    };
    tell(&context, object, status(object, &outcome)).await?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    context.metrics.reconciled(true);
    context.with(&object.uid().unwrap_or_default(), |memory| memory.failures = 0);
    Ok(Action::requeue(FULL_PASS))
}

/// build → apply → prune.
async fn bring_about(context: &Context, v: &Validated, observed: &Observed) -> Result<Applied, ApplyError> {
    let children = children(v, &new_password());
    let mut marks = context.with(&v.uid, |memory| memory.marks.clone());
    let applied = apply(&context.client, v, &children, observed, &mut marks).await;
    context.with(&v.uid, |memory| memory.marks = marks);
    let applied = applied?;
    let wanted = hash(&children);
    if applied.deployment.is_some() && context.with(&v.uid, |memory| memory.pruned != Some(wanted)) {
        prune(&context.client, v, &children).await?;
        context.with(&v.uid, |memory| memory.pruned = Some(wanted));
    }
    Ok(applied)
}

/// What the names and kinds of the children are: what a prune depends on.
fn hash(children: &Children) -> u64 {
    let mut hasher = DefaultHasher::new();
    children.redis.is_some().hash(&mut hasher);
    children.migrate.metadata.name.hash(&mut hasher);
    hasher.finish()
}

fn new_password() -> String {
    rand::rng()
        .sample_iter(rand::distr::Alphanumeric)
        .take(32)
        .map(char::from)
        .collect()
}

/// Writes the status if it differs, and one Event for each change.
async fn tell(context: &Context, object: &SegmentCounter, status: SegmentCounterStatus) -> Result<(), kube::Error> {
    if object.status.as_ref() == Some(&status) {
        return Ok(());
    }
    let api: Api<SegmentCounter> = Api::namespaced(context.client.clone(), &object.namespace().unwrap_or_default());
    let patch = serde_json::json!({
        "apiVersion": SegmentCounter::api_version(&()),
        "kind": SegmentCounter::kind(&()),
        "metadata": { "name": object.name_any() },
        "status": status,
    });
    let params = PatchParams::apply(MANAGER).force();
    match api
        .patch_status(&object.name_any(), &params, &Patch::Apply(patch))
        .await
    {
        Err(kube::Error::Api(gone)) if gone.is_not_found() => return Ok(()),
        Err(error) => return Err(error),
        Ok(_) => {}
    }
    let before = object
        .status
        .as_ref()
        .map(|old| old.conditions.as_slice())
        .unwrap_or_default();
    events::tell(&context.recorder, &object.object_ref(&()), before, &status.conditions).await;
    Ok(())
}

/// From 5 s to 5 min, doubled at each failure in a row, with jitter.
#[allow(clippy::needless_pass_by_value)] // as the controller calls it
pub(crate) fn error_policy(object: Arc<Guarded>, error: &ReconcileError, context: Arc<Context>) -> Action {
    context.metrics.reconciled(false);
    let failures = context.with(&object.uid().unwrap_or_default(), |memory| {
        memory.failures = memory.failures.saturating_add(1);
        memory.failures
    });
    let wait = back_off(failures);
    tracing::warn!(name = object.name_any(), %error, wait_seconds = wait.as_secs(), "reconcile failed");
    Action::requeue(wait.mul_f64(rand::rng().random_range(0.8..1.2)))
}

fn back_off(failures: u32) -> Duration {
    Duration::from_secs((5_u64 << failures.saturating_sub(1).min(6)).min(300))
}

/// The one clock of the operator: it stamps conditions, and decides nothing.
#[allow(clippy::disallowed_methods)]
pub(crate) fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_in_a_row_waits_twice_as_long_up_to_five_minutes() {
        let waits: Vec<_> = (1..=8).map(|n| back_off(n).as_secs()).collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn a_password_is_32_letters_and_digits_and_never_the_same() {
        let one = new_password();
        assert!(one.len() == 32 && one.bytes().all(|b| b.is_ascii_alphanumeric()));
        assert_ne!(one, new_password());
    }
}
