//! The reconcile of one object, as a list of steps, and what is remembered of it between two of them.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
    core::DeserializeGuard,
    runtime::{controller::Action, reflector::ObjectRef},
};
use rand::RngExt;
use tokio::sync::mpsc::UnboundedSender;

use super::{
    apply::{MANAGER, apply},
    build::{Children, children},
    events,
    memory::Written,
    observe::Context,
    observed::{Observed, Place, Probe},
    prune::prune,
    status::{Applied, ApplyError, Outcome, status},
    trouble::Troubles,
    validate::{Invalid, Validated, validate},
};
use crate::crd::{ConditionType, Reason, SegmentCounter, SegmentCounterStatus};

/// Between two passes of an object with which nothing happens.
const FULL_PASS: Duration = Duration::from_secs(600);
/// The same while its pods do not come up: why they do not is told by no watch.
const ROLLOUT_PASS: Duration = Duration::from_secs(10);

/// An object that may not be readable: one that is not must never stop the others.
pub(crate) type Guarded = DeserializeGuard<SegmentCounter>;
/// Starts a reconcile of one object; where there is nothing to do it only reads.
pub(crate) type Wake = UnboundedSender<ObjectRef<Guarded>>;

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
    let uid = object.uid().unwrap_or_default();
    let mut failed: Option<ReconcileError> = None;
    let (mut observed, validated) = match context.observe(object).await {
        Ok(observed) => {
            let validated = validate(object, &observed);
            (observed, validated)
        }
        // Told, and tried again: no watch says that a right was granted.
        Err(kube::Error::Api(refusal)) if refusal.is_forbidden() => {
            let invalid = Invalid {
                condition: ConditionType::Stalled,
                reason: Reason::Forbidden,
                message: refusal.message.clone(),
            };
            failed = Some(kube::Error::Api(refusal).into());
            (Observed::default(), Err(invalid))
        }
        Err(error) => return Err(error.into()),
    };
    if let Ok(v) = &validated
        && observed.probe.place != Place::of(v)
    {
        observed.probe = Probe::default();
        context.memories.with(&uid, |memory| memory.due.now());
    }
    let applied = match &validated {
        Ok(v) => Some(bring_about(&context, v, &observed).await),
        Err(_) => None,
    };
    if let Some(Err(error)) = &applied {
        failed = Some(error.clone().into());
    }
    let rolls = matches!(&applied, Some(Ok(applied)) if !applied.is_rolled_out());
    let outcome = Outcome {
        validated: validated.as_ref(),
        applied,
        troubles: if rolls {
            context.troubles(object).await
        } else {
            Troubles::new()
        },
        observed: &observed,
        now: now(),
    };
    let written = context.memories.with(&uid, |memory| memory.written.clone());
    // Where the watch still shows what was written over, what was written is what stands.
    let stands = match &written {
        Some(written) if written.over == object.resource_version() => Some(&written.status),
        Some(_) | None => object.status.as_ref(),
    };
    let before = written.as_ref().map(|written| &written.status).or(stands);
    let before = before.cloned().unwrap_or_default();
    let status = status(object, &before, &outcome);
    if stands != Some(&status) {
        tell(&context, object, &before, status).await?;
    }
    if let Some(error) = failed {
        return Err(error);
    }
    context.metrics.reconciled(true);
    context.memories.with(&uid, |memory| memory.failures.clear());
    Ok(Action::requeue(if rolls { ROLLOUT_PASS } else { FULL_PASS }))
}

/// build → apply → prune.
async fn bring_about(context: &Context, v: &Validated, observed: &Observed) -> Result<Applied, ApplyError> {
    let password = observed.redis_password().unwrap_or_else(new_password);
    let children = children(v, &password);
    let mut marks = context.memories.with(&v.uid, |memory| memory.marks.clone());
    let wanted = hash(&children);
    // Forgotten before the apply: one that fails half-way leaves children that must go when the spec is taken back.
    context.memories.with(&v.uid, |memory| {
        memory.pruned = memory.pruned.filter(|pruned| *pruned == wanted);
    });
    let applied = apply(&context.client, v, &children, observed, &mut marks).await;
    context.memories.with(&v.uid, |memory| memory.marks = marks);
    let applied = applied?;
    if applied.complete && context.memories.with(&v.uid, |memory| memory.pruned.is_none()) {
        prune(&context.client, v, &children).await?;
        context.memories.with(&v.uid, |memory| memory.pruned = Some(wanted));
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

/// Writes the status, and one Event for each change since it was written last.
async fn tell(
    context: &Context,
    object: &SegmentCounter,
    before: &SegmentCounterStatus,
    status: SegmentCounterStatus,
) -> Result<(), kube::Error> {
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
    events::tell(
        &context.recorder,
        &object.object_ref(&()),
        &before.conditions,
        &status.conditions,
    )
    .await;
    context.memories.with(&object.uid().unwrap_or_default(), |memory| {
        memory.written = Some(Written {
            status,
            over: object.resource_version(),
        });
    });
    Ok(())
}

/// From 5 s to 5 min, doubled at each failure in a row, with jitter.
#[allow(clippy::needless_pass_by_value)] // as the controller calls it
pub(crate) fn error_policy(object: Arc<Guarded>, error: &ReconcileError, context: Arc<Context>) -> Action {
    context.metrics.reconciled(false);
    let wait = context.memories.with(&object.uid().unwrap_or_default(), |memory| {
        memory
            .failures
            .one_more(|count| back_off(count).mul_f64(rand::rng().random_range(0.8..1.2)))
    });
    tracing::warn!(name = object.name_any(), %error, wait_seconds = wait.as_secs(), "reconcile failed");
    Action::requeue(wait)
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
