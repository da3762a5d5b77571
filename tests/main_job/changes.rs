//! What a change of the spec brings about, and what it leaves alone.

use std::time::Duration;

use serde_json::Value;

use super::{
    client::Client,
    kubectl::eventually,
    world::{CHANGES, NOT_DUE, READY, object, postgres},
};

const SOON: Duration = Duration::from_secs(60);

/// The scenario.
pub async fn a_changed_spec_is_brought_about_and_what_is_not_asked_for_any_more_goes() {
    postgres(CHANGES);
    CHANGES.apply(&object(
        "moody",
        "moody",
        &format!("  api: {{replicas: 1}}\n  redis: {{managed: {{nodes: 2}}}}\n  maintenance: {{{NOT_DUE}}}"),
    ));
    CHANGES.wait("condition=Ready", "segmentcounter/moody", READY);
    Client::new(CHANGES, "moody").pair("ada", "readers").await;

    kubectl_scale_works().await;
    lanes_are_added_and_not_taken_away().await;
    somebody_elses_change_is_undone().await;
    a_cache_that_is_not_asked_for_goes_and_its_password_stays().await;
    an_object_of_a_childs_name_is_not_taken_over().await;
    bad_tokens_are_told().await;
}

async fn kubectl_scale_works() {
    CHANGES.kubectl(&["scale", "segmentcounter/moody", "--replicas=2"]);
    CHANGES.wait("jsonpath={.status.api.ready}=2/2", "segmentcounter/moody", SOON);
    let scale: Value = serde_json::from_str(&CHANGES.kubectl(&[
        "get",
        "segmentcounter",
        "moody",
        "--subresource=scale",
        "-o",
        "json",
    ]))
    .unwrap();
    assert_eq!(scale["status"]["replicas"], 2);
    assert!(
        scale["status"]["selector"]
            .as_str()
            .unwrap()
            .contains("app.kubernetes.io/instance=moody")
    );
    CHANGES.kubectl(&["scale", "segmentcounter/moody", "--replicas=1"]);
    CHANGES.wait("jsonpath={.status.api.ready}=1/1", "segmentcounter/moody", SOON);
}

async fn lanes_are_added_and_not_taken_away() {
    let lanes = |number: u32| format!("{{\"spec\": {{\"postgres\": {{\"external\": {{\"lanes\": {number}}}}}}}}}");
    CHANGES.kubectl(&["patch", "segmentcounter", "moody", "--type=merge", "-p", &lanes(3)]);
    eventually("the ledger has the lanes", READY, || {
        let there = CHANGES.psql("SELECT count(*) FROM moody.lane");
        if there == "3" { Ok(()) } else { Err(there) }
    })
    .await;
    CHANGES.told("moody", "Ready", "True", "AllReady", READY).await;
    let client = Client::new(CHANGES, "moody");
    for segment in ["writers", "editors", "printers"] {
        client.pair("ada", segment).await;
    }
    assert_eq!(CHANGES.psql("SELECT count(DISTINCT lane) FROM moody.segment"), "3");
    for segment in ["readers", "writers", "editors", "printers"] {
        assert_eq!(client.count(segment).await["count"], 1, "{segment}");
    }
    let refused = CHANGES.refused(&["patch", "segmentcounter", "moody", "--type=merge", "-p", &lanes(2)]);
    assert!(refused.contains("lanes can be added and not taken away"), "{refused}");
}

async fn somebody_elses_change_is_undone() {
    CHANGES.kubectl(&["scale", "deployment/moody-api", "--replicas=3"]);
    CHANGES.kubectl(&[
        "delete",
        "service/moody-api",
        "poddisruptionbudget/moody-api",
        "cronjob/moody-archive",
    ]);
    eventually("what was deleted comes back", SOON, || {
        let names = CHANGES.kubectl(&[
            "get",
            "services,poddisruptionbudgets,cronjobs",
            "-l",
            "app.kubernetes.io/instance=moody",
            "-o",
            "name",
        ]);
        let all = [
            "service/moody-api",
            "poddisruptionbudget.policy/moody-api",
            "cronjob.batch/moody-archive",
        ];
        if all.iter().all(|one| names.contains(one)) {
            Ok(())
        } else {
            Err(names)
        }
    })
    .await;
    CHANGES.wait("jsonpath={.spec.replicas}=1", "deployment/moody-api", SOON);
    CHANGES.wait("condition=Ready", "segmentcounter/moody", SOON);
}

async fn a_cache_that_is_not_asked_for_goes_and_its_password_stays() {
    let patch = "{\"spec\": {\"redis\": {\"managed\": null, \"disabled\": {}}}}";
    CHANGES.kubectl(&["patch", "segmentcounter", "moody", "--type=merge", "-p", patch]);
    eventually("the cache goes", SOON, || {
        let left = CHANGES.kubectl(&[
            "get",
            "statefulsets,services,pods",
            "-l",
            "app.kubernetes.io/instance=moody,app.kubernetes.io/component=redis",
            "-o",
            "name",
        ]);
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
    CHANGES.kubectl(&["get", "secret", "moody-redis"]);
    CHANGES
        .told("moody", "CacheReady", "Unknown", "NotConfigured", SOON)
        .await;
    CHANGES.wait("condition=Ready", "segmentcounter/moody", SOON);
    assert_eq!(Client::new(CHANGES, "moody").count("readers").await["count"], 1);
}

async fn an_object_of_a_childs_name_is_not_taken_over() {
    CHANGES.kubectl(&["create", "serviceaccount", "taken-api"]);
    CHANGES.apply(&object(
        "taken",
        "taken",
        &format!("  redis: {{disabled: {{}}}}\n  maintenance: {{{NOT_DUE}}}"),
    ));
    CHANGES.told("taken", "Stalled", "True", "NameConflict", SOON).await;
    CHANGES.told("taken", "Ready", "False", "NameConflict", SOON).await;
    CHANGES.kubectl(&["delete", "serviceaccount", "taken-api"]);
    CHANGES.wait("condition=Ready", "segmentcounter/taken", READY);
    CHANGES.kubectl(&["delete", "segmentcounter", "taken", "--wait"]);
}

async fn bad_tokens_are_told() {
    let patch = "{\"spec\": {\"api\": {\"tokensSecretRef\": {\"name\": \"tokens\"}}}}";
    CHANGES.kubectl(&["patch", "segmentcounter", "moody", "--type=merge", "-p", patch]);
    CHANGES.told("moody", "Stalled", "True", "SecretNotFound", SOON).await;
    CHANGES.kubectl(&["create", "secret", "generic", "tokens", "--from-literal=other=x"]);
    CHANGES.told("moody", "Stalled", "True", "SecretKeyMissing", SOON).await;
    CHANGES.kubectl(&["delete", "secret", "tokens"]);
    let hash = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8";
    let tokens = format!("tokens.yaml=[{{name: app, sha256: {hash}, scopes: [pairs:write]}}]");
    CHANGES.kubectl(&[
        "create",
        "secret",
        "generic",
        "tokens",
        &format!("--from-literal={tokens}"),
    ]);
    CHANGES.told("moody", "Ready", "True", "AllReady", READY).await;
    eprintln!("changes were brought about, and what was not asked for any more went");
}
