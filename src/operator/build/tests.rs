//! What the children must be, whatever the object.

use k8s_openapi::api::core::v1::PodSpec;

use super::*;
use crate::operator::{fixtures, observed::Observed, validate::validate};

fn built((object, observed): &(crate::crd::SegmentCounter, Observed)) -> Children {
    children(&validate(object, observed).unwrap(), "fixed")
}

/// The children in the order of their apply, as they are sent.
fn sent(c: &Children) -> serde_json::Value {
    serde_json::json!([
        c.service_account,
        c.redis_secret,
        c.config_map,
        c.api_service,
        c.redis_service,
        c.redis,
        c.migrate,
        c.api,
        c.pdb,
        c.archive,
        c.refresh,
    ])
}

fn pods(c: &Children) -> Vec<PodSpec> {
    let job = |job: &Option<k8s_openapi::api::batch::v1::JobSpec>| job.clone().unwrap().template.spec.unwrap();
    let mut pods = vec![
        c.api.spec.template.spec.clone().unwrap(),
        job(&c.migrate.spec),
        job(&c.archive.spec.job_template.spec),
        job(&c.refresh.spec.job_template.spec),
    ];
    pods.extend(c.redis.iter().map(|redis| redis.spec.template.spec.clone().unwrap()));
    pods
}

#[test]
fn the_children_of_the_least_object_are_these() {
    insta::assert_json_snapshot!(sent(&built(&fixtures::minimal())));
}

#[test]
fn the_children_of_a_full_object_are_these() {
    insta::assert_json_snapshot!(sent(&built(&fixtures::full())));
}

#[test]
fn built_twice_they_are_equal_byte_for_byte() {
    for input in [fixtures::minimal(), fixtures::full()] {
        let bytes = || serde_json::to_string(&sent(&built(&input))).unwrap();
        assert_eq!(bytes(), bytes());
    }
}

#[test]
fn without_a_cache_nothing_of_it_is_built() {
    let mut input = fixtures::minimal();
    input.0.spec.redis = serde_json::from_value(serde_json::json!({"disabled": {}})).unwrap();
    let children = built(&input);
    assert!(children.redis.is_none() && children.redis_service.is_none() && children.redis_secret.is_none());
    assert!(!sent(&children).to_string().contains("REDIS"));
}

#[test]
fn every_pod_is_restricted_and_has_no_token_and_no_password_outside_files() {
    for input in [fixtures::minimal(), fixtures::full()] {
        for pod in pods(&built(&input)) {
            let security = pod.security_context.clone().unwrap();
            assert_eq!(security.run_as_non_root, Some(true));
            assert_eq!(security.seccomp_profile.unwrap().type_, "RuntimeDefault");
            assert_eq!(pod.automount_service_account_token, Some(false));
            for container in &pod.containers {
                let security = container.security_context.clone().unwrap();
                assert_eq!(security.allow_privilege_escalation, Some(false));
                assert_eq!(security.read_only_root_filesystem, Some(true));
                assert_eq!(security.capabilities.unwrap().drop, Some(vec!["ALL".to_owned()]));
                assert!(container.command.is_some());
                let requests = container.resources.clone().unwrap().requests.unwrap();
                assert!(requests.contains_key("cpu") && requests.contains_key("memory"));
            }
            let text = serde_json::to_string(&pod).unwrap();
            assert!(!text.contains("hunter2") && !text.contains("fixed"), "{text}");
        }
    }
}

#[test]
fn a_rotated_password_changes_no_child() {
    let mut input = fixtures::minimal();
    let before = sent(&built(&input));
    input.0.metadata.generation = Some(4);
    input
        .1
        .postgres_secret
        .as_mut()
        .unwrap()
        .insert("password".to_owned(), b"next".to_vec());
    assert_eq!(sent(&built(&input)), before);
}

#[test]
fn every_variable_is_a_key_of_the_service() {
    let children = built(&fixtures::full());
    let mut names: Vec<_> = children.config_map.data.clone().unwrap().into_keys().collect();
    for pod in pods(&children) {
        let variables = pod
            .containers
            .into_iter()
            .flat_map(|container| container.env.unwrap_or_default());
        names.extend(variables.map(|variable| variable.name));
    }
    for name in names {
        assert!(
            crate::runtime::config::KEYS.iter().any(|key| key.variable() == name),
            "{name}"
        );
    }
}

#[test]
fn a_new_image_is_a_new_migration_and_a_scaled_api_is_not() {
    let mut input = fixtures::minimal();
    let name = |input: &_| built(input).migrate.metadata.name;
    let before = name(&input);
    input.0.spec.api.replicas = 7;
    assert_eq!(name(&input), before);
    input.0.spec.version = Some("0.3.0".to_owned());
    assert_ne!(name(&input), before);
}
