//! `{name}-api`: the Deployment that answers, and the budget that keeps a drain from taking all of it at once.

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        core::v1::{ContainerPort, HTTPGetAction, PodTemplateSpec, Probe, ResourceRequirements},
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    },
    apimachinery::pkg::{api::resource::Quantity, util::intstr::IntOrString},
};

use super::{
    MIGRATION,
    common::{fingerprint, label_selector, map, meta, pod, pod_meta, program, spread},
    config,
};
use crate::operator::validate::Validated;

pub(super) fn deployment(v: &Validated) -> Deployment {
    let (mut container, volumes) = program(v, "serve");
    container.name = "api".to_owned();
    container.ports = Some(vec![named_port("http", 8080), named_port("health", 9090)]);
    container.liveness_probe = Some(probe("/livez", 10));
    container.readiness_probe = Some(probe("/readyz", 5));
    // A first start waits for its database rather than being killed for it.
    container.startup_probe = Some(Probe {
        failure_threshold: Some(60),
        ..probe("/livez", 1)
    });
    container.resources = Some(resources(v));

    let mut spec = pod(v, vec![container], volumes);
    // Longer than the service takes to finish what it took (25 s).
    spec.termination_grace_period_seconds = Some(40);
    spec.topology_spread_constraints = Some(spread(v, "api"));

    let mut metadata = pod_meta(v, "api");
    // Settings come as environment, which only a restart reads.
    metadata.annotations = Some(map([(
        "segmentcounter.io/settings",
        &fingerprint(&config::settings(v)),
    )]));

    let mut own = meta(v, format!("{}-api", v.name), "api");
    own.annotations = Some(map([(MIGRATION, &super::jobs::migration_name(v))]));
    Deployment {
        metadata: own,
        spec: DeploymentSpec {
            replicas: Some(v.spec.api.replicas),
            revision_history_limit: Some(3),
            selector: label_selector(v, "api"),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(1)),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            template: PodTemplateSpec {
                metadata: Some(metadata),
                spec: Some(spec),
            },
            ..DeploymentSpec::default()
        },
        status: None,
    }
}

pub(super) fn named_port(name: &str, port: i32) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: port,
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

fn probe(path: &str, period_seconds: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("health".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(5),
        ..Probe::default()
    }
}

/// The operator's defaults under what the object asks for; as everywhere in Kubernetes, a limit stands for the request that is not named.
fn resources(v: &Validated) -> ResourceRequirements {
    let asked = &v.spec.api.resources;
    let mut requests = asked.requests.clone().unwrap_or_default();
    for (resource, default) in [("cpu", "100m"), ("memory", "128Mi")] {
        let limit = asked.limits.as_ref().and_then(|limits| limits.get(resource));
        let value = limit.cloned().unwrap_or_else(|| Quantity(default.to_owned()));
        requests.entry(resource.to_owned()).or_insert(value);
    }
    ResourceRequirements {
        requests: Some(requests),
        limits: asked.limits.clone(),
        claims: None,
    }
}

pub(super) fn budget(v: &Validated) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: meta(v, format!("{}-api", v.name), "api"),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(label_selector(v, "api")),
            // A pod that is not ready holds up no node's drain.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}
