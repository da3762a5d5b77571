//! One Event for each change of a condition, with the condition's own reason.

use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::Condition};
use kube::runtime::events::{Event, EventType, Recorder};

/// The conditions of `after` whose status or reason `before` does not have.
fn changed<'a>(before: &[Condition], after: &'a [Condition]) -> Vec<&'a Condition> {
    let same = |new: &Condition| {
        before
            .iter()
            .any(|old| old.type_ == new.type_ && old.status == new.status && old.reason == new.reason)
    };
    after.iter().filter(|new| !same(new)).collect()
}

/// Tells what changed. An Event that cannot be written is logged: it must not stop a reconcile.
pub(crate) async fn tell(recorder: &Recorder, object: &ObjectReference, before: &[Condition], after: &[Condition]) {
    for condition in changed(before, after) {
        let bad = condition.status == "False" || condition.type_ == "Stalled";
        let event = Event {
            type_: if bad { EventType::Warning } else { EventType::Normal },
            reason: condition.reason.clone(),
            note: Some(
                format!("{} is {}: {}", condition.type_, condition.status, condition.message)
                    .chars()
                    .take(1_000)
                    .collect(),
            ),
            action: condition.type_.clone(),
            secondary: None,
        };
        if let Err(error) = recorder.publish(&event, object).await {
            tracing::warn!(%error, "an event could not be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

    fn condition(type_: &str, status: &str, reason: &str) -> Condition {
        Condition {
            type_: type_.into(),
            status: status.into(),
            reason: reason.into(),
            message: String::new(),
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
            observed_generation: None,
        }
    }

    #[test]
    fn only_a_condition_whose_status_or_reason_changed_is_told() {
        let before = [condition("Ready", "False", "A"), condition("CacheReady", "True", "B")];
        let after = [
            condition("Ready", "False", "C"),
            condition("CacheReady", "True", "B"),
            condition("Stalled", "True", "D"),
        ];
        let told: Vec<_> = changed(&before, &after).iter().map(|c| c.type_.as_str()).collect();
        assert_eq!(told, ["Ready", "Stalled"]);
    }
}
