//! Why pods do not come up, in words that stay the same while nothing changes: a kubelet alternates between two reasons for one cause.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use crate::crd::Reason;

/// How often a container must have ended before it is told: once may be a dependency that came later.
const RESTARTS: i32 = 2;

/// What is wrong with the pods of each component (`api`, `migrate`, `redis` …) in which something is.
pub(crate) type Troubles = BTreeMap<String, Trouble>;

/// What is wrong with a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// `ImagePullFailed`, `CrashLooping` or `Unschedulable`.
    pub(crate) reason: Reason,
    /// Without the pod's name, which is another one at every attempt.
    pub(crate) message: String,
}

/// What is wrong with these pods; of several troubles of a component, the first by reason and message.
pub(crate) fn troubles(pods: &[Pod]) -> Troubles {
    let mut all = Troubles::new();
    for pod in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        let labels = pod.metadata.labels.as_ref();
        let Some(component) = labels.and_then(|labels| labels.get("app.kubernetes.io/component")) else {
            continue;
        };
        for found in trouble(pod) {
            let known = all.entry(component.clone()).or_insert_with(|| found.clone());
            if (found.reason, &found.message) < (known.reason, &known.message) {
                *known = found;
            }
        }
    }
    all
}

fn trouble(pod: &Pod) -> Vec<Trouble> {
    let Some(status) = &pod.status else { return Vec::new() };
    let unschedulable = status.conditions.iter().flatten().find(|condition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.reason.as_deref() == Some("Unschedulable")
    });
    let mut all: Vec<_> = unschedulable
        .map(|condition| Trouble {
            reason: Reason::Unschedulable,
            message: format!(
                "no node takes the pod: {}",
                condition.message.clone().unwrap_or_default()
            ),
        })
        .into_iter()
        .collect();
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses);
    all.extend(containers.flatten().filter_map(container));
    all
}

fn container(status: &ContainerStatus) -> Option<Trouble> {
    let waiting = status.state.as_ref().and_then(|state| state.waiting.as_ref());
    match waiting.and_then(|waiting| waiting.reason.as_deref()) {
        Some(
            "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" | "RegistryUnavailable",
        ) => {
            return Some(Trouble {
                reason: Reason::ImagePullFailed,
                message: format!("the image {} cannot be pulled", status.image),
            });
        }
        Some("CreateContainerConfigError" | "CreateContainerError" | "RunContainerError") => {
            return Some(Trouble {
                reason: Reason::CrashLooping,
                message: format!("the container {} cannot be started", status.name),
            });
        }
        _ => {}
    }
    if status.ready || status.restart_count < RESTARTS {
        return None;
    }
    let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let code = last.map_or("unknown".to_owned(), |last| last.exit_code.to_string());
    Some(Trouble {
        reason: Reason::CrashLooping,
        message: format!(
            "the container {} ends again and again, with exit code {code}",
            status.name
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(component: &str, status: &serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "labels": {"app.kubernetes.io/component": component}},
            "status": status,
        }))
        .unwrap()
    }

    fn waiting(reason: &str) -> serde_json::Value {
        serde_json::json!({"containerStatuses": [{
            "name": "api", "image": "example.org/none:1", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": reason, "message": "whatever the kubelet says this time"}},
        }]})
    }

    #[test]
    fn an_image_that_cannot_be_pulled_is_one_trouble_whatever_the_kubelet_calls_it_now() {
        let told = |reason| troubles(&[pod("api", &waiting(reason))]);
        assert_eq!(told("ErrImagePull"), told("ImagePullBackOff"));
        assert_eq!(told("ErrImagePull")["api"].reason, Reason::ImagePullFailed);
        assert!(told("ErrImagePull")["api"].message.contains("example.org/none:1"));
        assert_eq!(told("ContainerCreating"), Troubles::new());
    }

    #[test]
    fn a_container_that_ends_again_and_again_is_told_also_while_it_runs_for_a_moment() {
        let at = |restarts: i32, ready: bool| {
            let status = serde_json::json!({"containerStatuses": [{
                "name": "api", "image": "i", "imageID": "", "ready": ready, "restartCount": restarts,
                "state": {"running": {}}, "lastState": {"terminated": {"exitCode": 3}},
            }]});
            troubles(&[pod("api", &status)])
        };
        assert_eq!(at(1, false), Troubles::new());
        assert_eq!(at(9, true), Troubles::new());
        assert_eq!(at(2, false), at(7, false));
        assert!(at(2, false)["api"].message.ends_with("exit code 3"));
    }

    #[test]
    fn a_pod_that_no_node_takes_is_told_with_the_schedulers_words() {
        let status = serde_json::json!({"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes: Insufficient cpu.",
        }]});
        let all = troubles(&[pod("redis", &status)]);
        assert_eq!(all["redis"].reason, Reason::Unschedulable);
        assert!(all["redis"].message.contains("Insufficient cpu"));
    }
}
