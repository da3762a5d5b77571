//! What the children share: names, labels, the pods' security, and how a container of the API's image is configured.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Capabilities, ConfigMapEnvSource, Container, EnvFromSource, EnvVar, LocalObjectReference, PodSecurityContext,
        PodSpec, SeccompProfile, SecretVolumeSource, SecurityContext, TopologySpreadConstraint, Volume, VolumeMount,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};

use crate::{
    crd::PullPolicy,
    operator::validate::{TOKENS_KEY, Validated},
};

const POSTGRES_DIR: &str = "/etc/segment-counter/postgres";
const REDIS_DIR: &str = "/etc/segment-counter/redis";
const TOKENS_DIR: &str = "/etc/segment-counter/tokens";

pub(super) fn map<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

/// What selects a component's pods: it can never change, so there is no version in it.
pub(super) fn selector(v: &Validated, component: &str) -> BTreeMap<String, String> {
    map([
        ("app.kubernetes.io/name", "segment-counter"),
        ("app.kubernetes.io/instance", &v.name),
        ("app.kubernetes.io/component", component),
    ])
}

pub(super) fn label_selector(v: &Validated, component: &str) -> LabelSelector {
    LabelSelector {
        match_labels: Some(selector(v, component)),
        ..LabelSelector::default()
    }
}

/// No version here either: a child must not change because the operator did.
pub(super) fn labels(v: &Validated, component: &str) -> BTreeMap<String, String> {
    let mut labels = selector(v, component);
    labels.extend(map([
        ("app.kubernetes.io/part-of", "segment-counter"),
        ("app.kubernetes.io/managed-by", "segment-counter-operator"),
    ]));
    labels
}

pub(super) fn meta(v: &Validated, name: String, component: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(v.namespace.clone()),
        labels: Some(labels(v, component)),
        owner_references: Some(vec![v.owner.clone()]),
        ..ObjectMeta::default()
    }
}

pub(super) fn pod_meta(v: &Validated, component: &str) -> ObjectMeta {
    ObjectMeta {
        labels: Some(labels(v, component)),
        ..ObjectMeta::default()
    }
}

pub(super) fn pull_policy(v: &Validated) -> String {
    match v.pull_policy {
        PullPolicy::Always => "Always",
        PullPolicy::IfNotPresent => "IfNotPresent",
        PullPolicy::Never => "Never",
    }
    .to_owned()
}

/// Pod Security `restricted`. Our own image has a user, a number other than 0, and some clusters give each namespace a range.
pub(super) fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            localhost_profile: None,
        }),
        ..PodSecurityContext::default()
    }
}

pub(super) fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".to_owned()]),
            add: None,
        }),
        ..SecurityContext::default()
    }
}

pub(super) fn pod(v: &Validated, containers: Vec<Container>, volumes: Vec<Volume>) -> PodSpec {
    let secrets = v.spec.images.pull_secret_refs.iter();
    let pull_secrets: Vec<_> = secrets.map(|s| LocalObjectReference { name: s.name.clone() }).collect();
    PodSpec {
        containers,
        volumes: Some(volumes).filter(|volumes| !volumes.is_empty()),
        image_pull_secrets: Some(pull_secrets).filter(|secrets| !secrets.is_empty()),
        service_account_name: Some(format!("{}-api", v.name)),
        automount_service_account_token: Some(false),
        // Variables for every Service of the namespace would only be in the way.
        enable_service_links: Some(false),
        security_context: Some(pod_security()),
        ..PodSpec::default()
    }
}

/// Spreads over nodes where that is possible.
pub(super) fn spread(v: &Validated, component: &str) -> Vec<TopologySpreadConstraint> {
    vec![TopologySpreadConstraint {
        label_selector: Some(label_selector(v, component)),
        max_skew: 1,
        topology_key: "kubernetes.io/hostname".to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        ..TopologySpreadConstraint::default()
    }]
}

pub(super) fn env(name: &str, value: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        value_from: None,
    }
}

pub(super) fn secret_volume(name: &str, secret: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret.to_owned()),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }
}

pub(super) fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    }
}

/// A container that runs a command of the API's image, with every setting but no probe, and what it mounts.
pub(super) fn program(v: &Validated, command: &str) -> (Container, Vec<Volume>) {
    let mut variables = vec![env("SEGMENT_COUNTER_DATABASE_SECRET_DIR", POSTGRES_DIR)];
    let mut mounts = vec![mount("postgres", POSTGRES_DIR)];
    let mut volumes = vec![secret_volume("postgres", &v.postgres.secret)];
    // Only what serves uses the cache and the tokens: a job must not wait for their Secrets.
    if command == "serve" {
        if let Some(redis) = &v.redis {
            let file = format!("{REDIS_DIR}/password");
            variables.push(env("SEGMENT_COUNTER_REDIS_PASSWORD_FILE", &file));
            let urls: Vec<_> = redis.hosts.iter().map(|host| format!("redis://{host}:6379")).collect();
            variables.push(env("SEGMENT_COUNTER_REDIS_URL", &urls.join(",")));
            mounts.push(mount("redis", REDIS_DIR));
            volumes.push(secret_volume("redis", &redis.secret));
        }
        if let Some(secret) = &v.tokens_secret {
            let file = format!("{TOKENS_DIR}/{TOKENS_KEY}");
            variables.push(env("SEGMENT_COUNTER_TOKENS_FILE", &file));
            mounts.push(mount("tokens", TOKENS_DIR));
            volumes.push(secret_volume("tokens", secret));
        }
    }
    let container = Container {
        name: command.to_owned(),
        image: Some(v.image.clone()),
        image_pull_policy: Some(pull_policy(v)),
        command: Some(vec!["segment-counter".to_owned(), command.to_owned()]),
        env: Some(variables),
        env_from: Some(vec![EnvFromSource {
            config_map_ref: Some(ConfigMapEnvSource {
                name: format!("{}-api", v.name),
                optional: None,
            }),
            ..EnvFromSource::default()
        }]),
        volume_mounts: Some(mounts),
        security_context: Some(container_security()),
        ..Container::default()
    };
    (container, volumes)
}

/// A short stable fingerprint of what a pod must restart for, or a Job must be made anew for.
pub(super) fn fingerprint<T: serde::Serialize>(value: &T) -> String {
    use sha2::{Digest, Sha256};
    // What Kubernetes' types hold always serializes.
    let text = serde_json::to_vec(value).unwrap_or_default();
    hex::encode(&Sha256::digest(&text)[..5])
}
