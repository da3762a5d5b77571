//! The charts as helm renders them and as a real API server takes them: where the operator has rights, what its pods may do, and which
//! values are refused.
//!
//! Needs helm, on the PATH or named by `HELM`, and for the last test a cluster as tests/cluster_schema.rs does; where one is missing,
//! the tests fail.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{collections::BTreeSet, env, fs, process::Command};

use kube::{
    Api, Client, Discovery,
    api::{DynamicObject, Patch, PatchParams},
    core::TypeMeta,
    discovery::Scope,
};
use serde_json::Value;

/// Everything that is optional, turned on.
const ALL: &[&str] = &[
    "replicas=2",
    "image.registry=registry.example.org:5000/team/",
    "image.tag=v1",
    "image.pullSecrets={credentials}",
    "watch.namespaces={growth,ads}",
    "networkPolicy.enabled=true",
    "metrics.service.annotations.scrape=me",
    "priorityClassName=system-cluster-critical",
    "podLabels.team=growth",
    "podAnnotations.note=x",
    "nodeSelector.disk=ssd",
    "extraEnv[0].name=RUST_LOG",
    "extraEnv[0].value=debug",
    "extraArgs={--verbose}",
    "serviceAccount.annotations.role=arn",
];

#[test]
fn the_install_manifest_is_what_the_charts_render() {
    let check = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/charts/render.sh"))
        .arg("--check")
        .output()
        .unwrap();
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
}

#[test]
fn by_default_the_operator_has_rights_in_its_own_namespace_alone() {
    let objects = render("segment-counter-operator", &[]);
    assert_eq!(
        of_kind(&objects, "ClusterRole").len() + of_kind(&objects, "ClusterRoleBinding").len(),
        0
    );
    for kind in ["Role", "RoleBinding"] {
        let namespaces: BTreeSet<_> = of_kind(&objects, kind)
            .iter()
            .map(|o| text(o, "/metadata/namespace"))
            .collect();
        assert_eq!(namespaces, BTreeSet::from(["test-system"]), "{kind}");
    }
    assert!(arguments(&objects).contains(&"--watch-namespaces=test-system"));
}

#[test]
fn each_watched_namespace_has_one_role_and_binding_and_no_other_namespace_has_any() {
    let objects = render("segment-counter-operator", &["watch.namespaces={growth,ads,growth-eu}"]);
    assert_eq!(of_kind(&objects, "ClusterRole").len(), 0);
    for kind in ["Role", "RoleBinding"] {
        let mut namespaces: Vec<_> = of_kind(&objects, kind)
            .iter()
            .map(|o| text(o, "/metadata/namespace"))
            .collect();
        namespaces.sort_unstable();
        assert_eq!(
            namespaces,
            ["ads", "growth", "growth-eu", "test-system"],
            "{kind}: the last is the leader's"
        );
    }
    for binding in of_kind(&objects, "RoleBinding") {
        assert_eq!(text(binding, "/subjects/0/namespace"), "test-system");
    }
    let own: Vec<_> = of_kind(&objects, "Role")
        .into_iter()
        .filter(|o| text(o, "/metadata/namespace") == "test-system")
        .collect();
    assert!(
        rules(own[0]).iter().all(|(group, ..)| group == "coordination.k8s.io"),
        "{own:?}"
    );
    assert!(arguments(&objects).contains(&"--watch-namespaces=ads,growth,growth-eu"));
}

#[test]
fn watching_the_cluster_is_an_opt_in_to_the_very_same_rights() {
    let namespaced = render("segment-counter-operator", &[]);
    let everywhere = render("segment-counter-operator", &["watch.cluster=true"]);
    let cluster = of_kind(&everywhere, "ClusterRole");
    assert_eq!(cluster.len(), 1);
    let role = of_kind(&namespaced, "Role")
        .into_iter()
        .find(|o| text(o, "/metadata/name") == "test-segment-counter-operator")
        .unwrap();
    assert_eq!(rules(cluster[0]), rules(role));
    assert!(arguments(&everywhere).contains(&"--watch-cluster"));
    assert!(
        !arguments(&everywhere)
            .iter()
            .any(|a| a.starts_with("--watch-namespaces"))
    );
}

#[test]
fn no_right_is_a_wildcard_and_none_reaches_beyond_what_is_owned() {
    for role in of_kind(
        &render("segment-counter-operator", &["watch.cluster=true"]),
        "ClusterRole",
    ) {
        for (group, resource, verb) in rules(role) {
            assert!(
                ![&group, &resource, &verb].iter().any(|word| *word == "*"),
                "{group} {resource} {verb}"
            );
            assert!(
                !["escalate", "bind", "impersonate", "deletecollection"].contains(&verb.as_str()),
                "{resource} {verb}"
            );
            assert!(group != "rbac.authorization.k8s.io", "{resource} {verb}");
            assert!(!resource.starts_with("pods/"), "{resource} {verb}");
        }
    }
}

#[test]
fn every_container_is_restricted_whatever_the_values() {
    for values in [&[][..], ALL] {
        let objects = render("segment-counter-operator", values);
        let pods: Vec<_> = objects
            .iter()
            .filter_map(|o| o.pointer("/spec/template/spec"))
            .collect();
        assert_eq!(pods.len(), 1);
        for pod in pods {
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
            assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
            for container in pod["containers"].as_array().unwrap() {
                let context = &container["securityContext"];
                assert_eq!(context["allowPrivilegeEscalation"], false);
                assert_eq!(context["readOnlyRootFilesystem"], true);
                assert_eq!(context["capabilities"]["drop"][0], "ALL");
                assert!(context.get("runAsUser").is_none());
                assert!(container["livenessProbe"].is_object() && container["readinessProbe"].is_object());
                assert!(container["resources"]["requests"]["cpu"].is_string());
            }
        }
    }
}

#[test]
fn the_selector_is_the_same_whatever_the_version_and_the_labels() {
    let selector = |values: &[&str]| {
        let objects = render("segment-counter-operator", values);
        let deployment = of_kind(&objects, "Deployment")[0].clone();
        let labels = deployment.pointer("/spec/template/metadata/labels").unwrap().clone();
        let selector = deployment.pointer("/spec/selector/matchLabels").unwrap().clone();
        for (key, value) in selector.as_object().unwrap() {
            assert_eq!(&labels[key], value, "{key}");
            assert!(!key.contains("version") && !key.contains("chart"), "{key}");
        }
        selector
    };
    assert_eq!(selector(&[]), selector(ALL));
}

#[test]
fn one_value_names_the_image_of_the_operator_and_of_the_pods_that_it_makes() {
    let objects = render("segment-counter-operator", ALL);
    let image = "registry.example.org:5000/team/segment-counter:v1";
    assert_eq!(
        text(
            of_kind(&objects, "Deployment")[0],
            "/spec/template/spec/containers/0/image"
        ),
        image
    );
    assert!(arguments(&objects).contains(&format!("--image={image}").as_str()));
    let apart = render("segment-counter-operator", &["apiImage=other:2"]);
    assert!(arguments(&apart).contains(&"--image=other:2"));
}

#[test]
fn the_definition_outlives_its_chart_unless_told_otherwise() {
    let policy = "/metadata/annotations/helm.sh~1resource-policy";
    let kept = render("segment-counter-crds", &["annotations.team=growth"]);
    assert_eq!(text(&kept[0], policy), "keep");
    assert_eq!(text(&kept[0], "/metadata/annotations/team"), "growth");
    assert!(
        render("segment-counter-crds", &["keep=false"])[0]
            .pointer(policy)
            .is_none()
    );
}

#[test]
fn extra_manifests_are_rendered_with_the_release() {
    let objects = render(
        "segment-counter-operator",
        &[
            "extraManifests[0].apiVersion=v1",
            "extraManifests[0].kind=ConfigMap",
            "extraManifests[0].metadata.name=extra-{{ .Release.Name }}",
        ],
    );
    assert_eq!(text(of_kind(&objects, "ConfigMap")[0], "/metadata/name"), "extra-test");
}

#[test]
fn values_that_make_no_sense_are_refused() {
    for (values, words) in [
        (&["replica=2"][..], "replica"),
        (&["image.repository="], "repository"),
        (&["image.pullPolicy=Sometimes"], "pullPolicy"),
        (&["watch.namespaces={Growth}"], "watch"),
        (&["watch.cluster=true", "watch.namespaces={growth}"], "watch"),
        (&["replicas=2", "leaderElection.enabled=false"], "replicas"),
        (&["replicas=two"], "replicas"),
        (
            &["metrics.serviceMonitor.enabled=true", "metrics.service.enabled=false"],
            "metrics.service.enabled",
        ),
    ] {
        let refusal = helm_template("segment-counter-operator", values).expect_err(&format!("{values:?} were taken"));
        assert!(refusal.contains(words), "{values:?}: {words} is not in: {refusal}");
    }
}

#[test]
fn every_value_of_a_chart_is_explained_in_its_readme() {
    for chart in ["segment-counter-crds", "segment-counter-operator"] {
        let read =
            |file: &str| fs::read_to_string(format!("{}/charts/{chart}/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let readme = read("README.md");
        let values: Value = serde_saphyr::from_str(&read("values.yaml")).unwrap();
        let mut leaves = Vec::new();
        collect_leaves(&values, "", &mut leaves);
        for leaf in leaves {
            assert!(
                readme.contains(&format!("`{leaf}`")),
                "{chart}: `{leaf}` is not in the README"
            );
        }
    }
}

#[tokio::test]
async fn every_rendered_object_is_admitted_by_the_real_api_server() {
    let client = Client::try_default()
        .await
        .expect("a kubeconfig: KUBECONFIG, or `make cluster-up`");
    let discovery = Discovery::new(client.clone())
        .run()
        .await
        .expect("an API server that answers");
    for values in [&[][..], ALL, &["watch.cluster=true"]] {
        for object in render("segment-counter-operator", values) {
            apply_dry(&client, &discovery, object).await;
        }
    }
    for object in render("segment-counter-crds", &[]) {
        apply_dry(&client, &discovery, object).await;
    }
}

/// Server-side apply without storing. The namespaces that the charts name need not exist for it: `default` stands in for them.
async fn apply_dry(client: &Client, discovery: &Discovery, rendered: Value) {
    let mut object: DynamicObject = serde_json::from_value(rendered).unwrap();
    let TypeMeta { api_version, kind } = object.types.clone().unwrap();
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let gvk = kube::core::GroupVersionKind::gvk(group, version, &kind);
    let (resource, capabilities) = discovery
        .resolve_gvk(&gvk)
        .unwrap_or_else(|| panic!("{gvk:?} is not served"));
    let api: Api<DynamicObject> = if capabilities.scope == Scope::Cluster {
        Api::all_with(client.clone(), &resource)
    } else {
        object.metadata.namespace = Some("default".to_owned());
        Api::namespaced_with(client.clone(), "default", &resource)
    };
    let name = object.metadata.name.clone().unwrap();
    let dry = PatchParams {
        dry_run: true,
        ..PatchParams::apply("segment-counter-tests").force()
    };
    api.patch(&name, &dry, &Patch::Apply(&object))
        .await
        .unwrap_or_else(|e| panic!("{kind} {name}: {e}"));
}

fn render(chart: &str, values: &[&str]) -> Vec<Value> {
    let rendered = helm_template(chart, values).unwrap_or_else(|refusal| panic!("{values:?}: {refusal}"));
    let objects: Vec<Value> = serde_saphyr::from_multiple(&rendered).unwrap();
    objects.into_iter().filter(|o| !o.is_null()).collect()
}

fn helm_template(chart: &str, values: &[&str]) -> Result<String, String> {
    let helm = env::var("HELM").unwrap_or_else(|_| "helm".to_owned());
    let mut command = Command::new(&helm);
    command.args([
        "template",
        "test",
        &format!("{}/charts/{chart}", env!("CARGO_MANIFEST_DIR")),
        "-n",
        "test-system",
    ]);
    values.iter().for_each(|value| {
        command.args(["--set", value]);
    });
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{helm}: {e}; install helm or name it with HELM"));
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Paths of all values; one of Kubernetes' own objects (`resources`) is one value.
fn collect_leaves(value: &Value, path: &str, leaves: &mut Vec<String>) {
    match value {
        Value::Object(fields) if !fields.is_empty() && path != "resources" => {
            for (key, value) in fields {
                collect_leaves(
                    value,
                    &if path.is_empty() {
                        key.clone()
                    } else {
                        format!("{path}.{key}")
                    },
                    leaves,
                );
            }
        }
        _ => leaves.push(path.to_owned()),
    }
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|o| o["kind"] == kind).collect()
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_else(|| panic!("no {pointer} in {object}"))
}

fn arguments(objects: &[Value]) -> Vec<&str> {
    let container = of_kind(objects, "Deployment")[0]
        .pointer("/spec/template/spec/containers/0")
        .unwrap();
    container["args"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| a.as_str().unwrap())
        .collect()
}

/// Each right by itself: group, resource, verb.
fn rules(role: &Value) -> BTreeSet<(String, String, String)> {
    let words = |rule: &Value, key: &str| -> Vec<String> {
        rule[key]
            .as_array()
            .unwrap()
            .iter()
            .map(|word| word.as_str().unwrap().to_owned())
            .collect()
    };
    let mut rights = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        for group in words(rule, "apiGroups") {
            for resource in words(rule, "resources") {
                for verb in words(rule, "verbs") {
                    rights.insert((group.clone(), resource.clone(), verb));
                }
            }
        }
    }
    rights
}
