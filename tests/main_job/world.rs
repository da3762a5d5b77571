//! What every scenario stands on: the charts installed as a platform team does, namespaces under Pod Security `restricted`, a PostgreSQL in
//! each. Made anew at the start, and taken away at the end.

use std::{env, fs, time::Duration};

use super::kubectl::{Namespace, helm, kubectl, kubectl_succeeds, kubectl_with};

/// Where the operator runs.
pub const SYSTEM: Namespace = Namespace("segc-test-system");
/// One for each scenario.
pub const STREAM: Namespace = Namespace("segc-test-stream");
/// One for each scenario.
pub const IDLE: Namespace = Namespace("segc-test-idle");
/// One for each scenario.
pub const FAULTS: Namespace = Namespace("segc-test-faults");
/// One for each scenario.
pub const CHANGES: Namespace = Namespace("segc-test-changes");

const WATCHED: [Namespace; 4] = [STREAM, IDLE, FAULTS, CHANGES];
const CHARTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts");
const OPERATOR: &str = "segment-counter-operator";

/// An image of the tests, or the one that a variable names.
fn image(variable: &str, default: &str) -> String {
    env::var(variable).unwrap_or_else(|_| format!("localhost/{default}:test"))
}

/// The image of our programs: its name and its tag.
pub fn our_image() -> (String, String) {
    let image = image("TEST_IMAGE", "segment-counter");
    let (name, tag) = image.rsplit_once(':').expect("TEST_IMAGE has a tag");
    (name.to_owned(), tag.to_owned())
}

/// Installs everything.
pub fn set_up() {
    tear_down();
    for namespace in WATCHED.iter().chain([&SYSTEM]) {
        let manifest = format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {}, labels: {{pod-security.kubernetes.io/enforce: restricted}}}}}}",
            namespace.0
        );
        kubectl_with(&["apply", "--server-side", "-f", "-"], &manifest);
    }
    let crds = format!("{CHARTS}/segment-counter-crds");
    // The definition may stand already, made by another test.
    helm(&[
        "upgrade",
        "--install",
        "segment-counter-crds",
        &crds,
        "-n",
        SYSTEM.0,
        "--take-ownership",
        "--force-conflicts",
    ]);
    let (repository, tag) = our_image();
    let watched: Vec<_> = WATCHED.iter().map(|namespace| namespace.0).collect();
    helm(&[
        "upgrade",
        "--install",
        OPERATOR,
        &format!("{CHARTS}/segment-counter-operator"),
        "-n",
        SYSTEM.0,
        "--set",
        &format!("image.repository={repository},image.tag={tag}"),
        "--set",
        &format!("watch.namespaces={{{}}}", watched.join(",")),
        // The node shares its cores with what builds and tests outside of it.
        "--set",
        "resources.requests.cpu=250m",
        "--wait",
        "--timeout=120s",
    ]);
}

/// Takes everything away but the definition, which its chart keeps too.
pub fn tear_down() {
    for release in [OPERATOR, "segment-counter-crds"] {
        helm(&["uninstall", release, "-n", SYSTEM.0, "--ignore-not-found", "--wait"]);
    }
    let mut arguments = vec!["delete", "namespace", "--ignore-not-found", "--wait", "--timeout=120s"];
    arguments.extend(WATCHED.iter().chain([&SYSTEM]).map(|namespace| namespace.0));
    kubectl(&arguments);
}

/// What an operator would look at after a failure.
pub fn print_logs() {
    if kubectl_succeeds(&["get", "namespace", SYSTEM.0]) {
        eprintln!(
            "--- the operator's log\n{}",
            SYSTEM.kubectl(&["logs", "deployment/segment-counter-operator", "--tail=200"])
        );
    }
}

/// A PostgreSQL in this namespace, with its Secret `pg-app`. Returns when it answers.
pub fn postgres(namespace: Namespace) {
    namespace.apply(&postgres_manifest(namespace));
    namespace.kubectl(&["rollout", "status", "statefulset/pg", "--timeout=120s"]);
}

/// The Secret `pg-app` alone, as it was.
pub fn postgres_secret(namespace: Namespace) -> String {
    let manifest = postgres_manifest(namespace);
    manifest.split("---").next().unwrap().to_owned()
}

fn postgres_manifest(namespace: Namespace) -> String {
    let manifest = fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/cluster/config/postgres.yaml"
    ))
    .unwrap();
    manifest
        .replace("@IMAGE@", &image("TEST_POSTGRES_IMAGE", "postgres"))
        .replace("@PASSWORD@", PASSWORD)
        .replace("@NAMESPACE@", namespace.0)
}

/// The password of every Postgres here.
pub const PASSWORD: &str = "of-the-cluster-tests";

/// A `SegmentCounter` on the namespace's Postgres whose jobs are not due for months; `spec` holds the lines of what else it asks for.
pub fn object(name: &str, schema: &str, spec: &str) -> String {
    let redis = image("TEST_REDIS_IMAGE", "valkey");
    format!(
        r#"
apiVersion: segmentcounter.io/v1alpha1
kind: SegmentCounter
metadata: {{name: {name}}}
spec:
  postgres: {{external: {{secretRef: {{name: pg-app}}, schema: {schema}}}}}
  images: {{redis: {{image: {redis}}}}}
{spec}"#
    )
}

/// Schedules that are not due while a test runs.
pub const NOT_DUE: &str = r#"archive: {schedule: "0 0 29 2 *", settleSeconds: 20}, refresh: {schedule: "0 0 29 2 *"}"#;

/// How long a new object may take.
pub const READY: Duration = Duration::from_secs(180);
