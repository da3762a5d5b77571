//! The schema as a real API server understands it: it takes the definition and every sample, and refuses every bad spec in the words
//! that the table promises. Nothing is stored but the definition, and for a moment an object whose change must be refused: all else is a dry run.
//!
//! Needs `KUBECONFIG` (or a context of the usual kubeconfig) of a cluster whose definitions may be changed; where none answers, the
//! tests fail.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "schema/table.rs"]
mod table;

use std::time::Duration;

use http::Method;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    runtime::{conditions::is_crd_established, wait::await_condition},
};
use segment_counter::crd::crd;
use serde_json::{Value, json};
use table::{bad_specs, good_spec, object, samples};
use tokio::time::timeout;

const DEFINITION: &str = "segmentcounters.segmentcounter.io";

#[tokio::test]
async fn every_bad_spec_is_refused_by_the_real_api_server() {
    let client = client_with_definition().await;
    let mut wrong = Vec::new();
    for bad in bad_specs() {
        let answer = match bad.before() {
            Some(before) => change_dry(&client, &before, &bad.object()).await,
            None => create_dry(&client, &bad.object()).await,
        };
        match answer {
            Ok(_) => wrong.push(format!("{}: was taken", bad.case)),
            Err(refusal) => {
                let missing = bad.missing_in(&refusal);
                if !missing.is_empty() {
                    wrong.push(format!("{}: {missing:?} is not in: {refusal}", bad.case));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn every_sample_is_admitted_by_the_real_api_server() {
    let client = client_with_definition().await;
    for (file, sample) in samples() {
        create_dry(&client, &sample)
            .await
            .unwrap_or_else(|refusal| panic!("{file}: {refusal}"));
    }
}

#[tokio::test]
async fn the_real_api_server_fills_in_the_same_defaults_as_the_types() {
    let client = client_with_definition().await;
    let answered = create_dry(&client, &object("defaults", &good_spec())).await.unwrap();
    let typed: segment_counter::crd::SegmentCounterSpec = serde_json::from_value(good_spec()).unwrap();
    assert_eq!(answered["spec"], serde_json::to_value(typed).unwrap());
}

#[tokio::test]
async fn choosing_one_member_of_a_union_brings_no_other_with_it() {
    let client = client_with_definition().await;
    let mut spec = good_spec();
    spec["redis"] = json!({ "disabled": {} });
    let answered = create_dry(&client, &object("disabled", &spec)).await.unwrap();
    assert_eq!(
        answered["spec"]["redis"],
        json!({ "disabled": {} }),
        "a default brought another member in"
    );
}

const OBJECTS: &str = "/apis/segmentcounter.io/v1alpha1/namespaces/default/segmentcounters";
const DRY: &str = "dryRun=All&fieldValidation=Strict";

/// Creates as `kubectl create` does, strictly, without storing. The refusal is the server's message.
async fn create_dry(client: &Client, object: &Value) -> Result<Value, String> {
    ask(client, Method::POST, &format!("{OBJECTS}?{DRY}"), object).await
}

/// The same of a change. Only what is stored can be changed, so the object as it was stands for a moment.
async fn change_dry(client: &Client, before: &Value, object: &Value) -> Result<Value, String> {
    let place = format!("{OBJECTS}/{}", before["metadata"]["name"].as_str().unwrap());
    // One that an interrupted run left behind.
    let _ = ask(client, Method::DELETE, &place, &Value::Null).await;
    let stored = ask(client, Method::POST, OBJECTS, before).await.expect("a good object");
    let mut object = object.clone();
    object["metadata"] = stored["metadata"].clone();
    let answer = ask(client, Method::PUT, &format!("{place}?{DRY}"), &object).await;
    ask(client, Method::DELETE, &place, &Value::Null)
        .await
        .expect("it goes again");
    answer
}

async fn ask(client: &Client, method: Method, uri: &str, object: &Value) -> Result<Value, String> {
    let body = if object.is_null() {
        Vec::new()
    } else {
        serde_json::to_vec(object).unwrap()
    };
    let request = http::Request::builder()
        .method(method)
        .uri(uri)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(body)
        .unwrap();
    match client.request::<Value>(request).await {
        Ok(answer) => Ok(answer),
        Err(kube::Error::Api(status)) => Err(status.message.clone()),
        Err(other) => panic!("no answer of the API server: {other}"),
    }
}

async fn client_with_definition() -> Client {
    let client = Client::try_default()
        .await
        .expect("a kubeconfig: KUBECONFIG, or `make cluster-up`");
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    definitions
        .patch(
            DEFINITION,
            &PatchParams::apply("segment-counter-tests").force(),
            &Patch::Apply(crd()),
        )
        .await
        .expect("the API server takes the definition");
    let established = await_condition(definitions, DEFINITION, is_crd_established());
    timeout(Duration::from_secs(30), established)
        .await
        .expect("established within 30 s")
        .unwrap();
    wait_until_served(&client).await;
    client
}

/// Established is not yet served: a path of the API appears a moment later.
async fn wait_until_served(client: &Client) {
    for _ in 0..100 {
        let list = http::Request::get("/apis/segmentcounter.io/v1alpha1/segmentcounters?limit=1")
            .body(Vec::new())
            .unwrap();
        if client.request::<Value>(list).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the API server established the definition and does not serve it");
}
