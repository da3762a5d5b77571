//! What goes wrong is told by its reason, in time, and heals without anybody touching the object.

use std::time::{Duration, Instant};

use super::{
    kubectl::{eventually, kubectl_succeeds},
    world::{FAULTS, NOT_DUE, PASSWORD, READY, object, postgres, postgres_secret},
};

/// How long a fault may go untold, and a mended one unhealed.
const SOON: Duration = Duration::from_secs(30);

/// The scenario.
pub async fn what_goes_wrong_has_its_reason_and_heals_by_itself() {
    postgres(FAULTS);
    FAULTS.kubectl(&["delete", "secret", "pg-app"]);
    FAULTS.apply(&object(
        "hurt",
        "hurt",
        &format!("  api: {{replicas: 1}}\n  redis: {{managed: {{}}}}\n  maintenance: {{{NOT_DUE}}}"),
    ));
    a_missing_secret().await;
    a_password_that_only_the_database_knows().await;
    a_bad_image_is_never_ready().await;
    an_object_that_begins_with_a_bad_image_is_never_ready();
}

async fn a_missing_secret() {
    FAULTS
        .told("hurt", "PostgresReady", "False", "SecretNotFound", SOON)
        .await;
    FAULTS.told("hurt", "Ready", "False", "SecretNotFound", SOON).await;
    assert!(FAULTS.condition("hurt", "PostgresReady").2.contains("pg-app"));
    assert_eq!(
        FAULTS.kubectl(&[
            "get",
            "deployments,jobs,statefulsets",
            "-l",
            "app.kubernetes.io/instance=hurt",
            "-o",
            "name"
        ]),
        ""
    );

    let before = untouched();
    FAULTS.apply(&postgres_secret(FAULTS));
    FAULTS.wait("condition=Ready", "segmentcounter/hurt", READY);

    // Once more, while it runs.
    FAULTS.kubectl(&["delete", "secret", "pg-app"]);
    FAULTS
        .told("hurt", "PostgresReady", "False", "SecretNotFound", SOON)
        .await;
    FAULTS.apply(&postgres_secret(FAULTS));
    FAULTS.told("hurt", "PostgresReady", "True", "LoggedIn", SOON).await;
    FAULTS.told("hurt", "Ready", "True", "AllReady", SOON).await;
    assert_eq!(before, untouched());
    eprintln!("a missing Secret was told and healed, twice");
}

async fn a_password_that_only_the_database_knows() {
    let before = untouched();
    FAULTS.psql("ALTER ROLE app PASSWORD 'another';");
    let begun = Instant::now();
    FAULTS
        .told("hurt", "PostgresReady", "False", "AuthenticationFailed", SOON)
        .await;
    let told = begun.elapsed();
    FAULTS
        .told("hurt", "Ready", "False", "AuthenticationFailed", SOON)
        .await;
    let status = FAULTS.kubectl(&["get", "segmentcounter", "hurt", "-o", "yaml"]);
    assert!(!status.contains(PASSWORD), "{status}");

    FAULTS.psql(&format!("ALTER ROLE app PASSWORD '{PASSWORD}';"));
    let begun = Instant::now();
    FAULTS.told("hurt", "PostgresReady", "True", "LoggedIn", SOON).await;
    FAULTS.told("hurt", "Ready", "True", "AllReady", SOON).await;
    assert_eq!(before, untouched());
    eprintln!(
        "a wrong password was told after {:.0} s and had healed {:.0} s after it was mended",
        told.as_secs_f64(),
        begun.elapsed().as_secs_f64()
    );
}

async fn a_bad_image_is_never_ready() {
    let patch = |version: &str| {
        let patch = format!("{{\"spec\": {{\"version\": {version}}}}}");
        FAULTS.kubectl(&["patch", "segmentcounter", "hurt", "--type=merge", "-p", &patch]);
    };
    patch("\"there-is-none\"");
    let waited = [
        "-n",
        FAULTS.0,
        "wait",
        "--for=condition=Ready",
        "segmentcounter/hurt",
        "--timeout=40s",
    ];
    assert!(!kubectl_succeeds(&waited), "a bad image was Ready");
    let (status, reason, message) = FAULTS.condition("hurt", "Ready");
    assert_eq!(
        (status.as_str(), reason.as_str()),
        ("False", "ImagePullFailed"),
        "{message}"
    );
    assert!(message.contains("there-is-none"), "{message}");
    let object = FAULTS.get("segmentcounter/hurt");
    assert_eq!(object["status"]["api"]["ready"], "1/1", "the old version goes on");
    assert_ne!(object["status"]["version"], "there-is-none");

    patch("null");
    FAULTS.wait("condition=Ready", "segmentcounter/hurt", READY);
    eventually("the migration that never began goes", SOON, || {
        let label = "app.kubernetes.io/instance=hurt,app.kubernetes.io/component=migrate";
        let jobs = FAULTS.kubectl(&["get", "jobs", "-l", label, "-o", "name"]);
        if jobs.lines().count() <= 1 { Ok(()) } else { Err(jobs) }
    })
    .await;
    eprintln!("a bad image was told as such and never as Ready, and the old version went on");
}

fn an_object_that_begins_with_a_bad_image_is_never_ready() {
    let spec = format!("  version: there-is-none\n  redis: {{disabled: {{}}}}\n  maintenance: {{{NOT_DUE}}}");
    FAULTS.apply(&object("stillborn", "stillborn", &spec));
    let waited = [
        "-n",
        FAULTS.0,
        "wait",
        "--for=condition=Ready",
        "segmentcounter/stillborn",
        "--timeout=20s",
    ];
    assert!(!kubectl_succeeds(&waited), "a bad image was Ready");
    FAULTS.kubectl(&["delete", "segmentcounter", "stillborn", "--wait"]);
}

/// What would move if anybody touched the object.
fn untouched() -> (i64, String) {
    let object = FAULTS.get("segmentcounter/hurt");
    (
        object["metadata"]["generation"].as_i64().unwrap(),
        object["spec"].to_string(),
    )
}
