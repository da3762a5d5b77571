//! The schema without a server: generated files are the committed ones, every sample decodes and passes, every bad spec is refused in
//! the words that the table promises. tests/cluster_schema.rs asks a real API server the same.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "schema/generated.rs"]
mod generated;
#[path = "schema/structural.rs"]
mod structural;
#[path = "schema/table.rs"]
mod table;

use kube::core::cel::{Validator, apply_defaults};
use segment_counter::{
    counting,
    crd::{ConditionStatus, ConditionType, Reason, SegmentCounter, SegmentCounterSpec, crd, crd_yaml},
};
use serde_json::{Value, json};
use table::{Bad, bad_specs, good_spec, object, samples};

#[test]
fn every_generated_file_is_the_committed_one() {
    generated::files()
        .iter()
        .for_each(generated::Generated::assert_committed);
}

#[test]
fn the_definition_is_the_same_at_every_call() {
    assert_eq!(crd_yaml().unwrap(), crd_yaml().unwrap());
}

#[test]
fn every_sample_passes() {
    for (file, sample) in samples() {
        assert_eq!(refusals(&sample), Vec::<String>::new(), "{file}");
    }
}

#[test]
fn every_sample_decodes_and_nothing_in_it_is_lost() {
    for (file, sample) in samples() {
        let typed: SegmentCounter = serde_json::from_value(sample.clone()).unwrap_or_else(|e| panic!("{file}: {e}"));
        let again = serde_json::to_value(typed).unwrap();
        assert_contains(&again["spec"], &sample["spec"], &format!("{file}: spec"));
    }
}

#[test]
fn the_full_sample_has_every_field() {
    let full = samples()
        .into_iter()
        .find(|(file, _)| file == "full.yaml")
        .expect("manifests/samples/full.yaml")
        .1;
    // A union shows one member.
    let elsewhere = ["spec.redis.disabled"];
    let mut missing = Vec::new();
    walk(&schema()["properties"]["spec"], "spec", &mut |path, _| {
        let pointer = format!("/{}", path.replace('.', "/"));
        if !path.ends_with(['*', ']']) && full.pointer(&pointer).is_none() && !elsewhere.contains(&path) {
            let inside_list = path.contains("[]") || path.contains(".*");
            if !inside_list {
                missing.push(path.to_owned());
            }
        }
    });
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn every_bad_spec_is_refused_in_the_promised_words() {
    let mut wrong = Vec::new();
    for bad in bad_specs() {
        let refusal = refused(&bad).join("\n");
        let missing = bad.missing_in(&refusal);
        if refusal.is_empty() {
            wrong.push(format!("{}: passed", bad.case));
        } else if !missing.is_empty() {
            wrong.push(format!("{}: {missing:?} is not in: {refusal}", bad.case));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_rule_is_broken_by_a_bad_spec() {
    let table: String = bad_specs().iter().map(|bad| refused(bad).join("\n")).collect();
    let mut unproven = Vec::new();
    walk(&schema(), "", &mut |path, node| {
        for rule in node["x-kubernetes-validations"].as_array().into_iter().flatten() {
            let message = rule["message"].as_str().expect("every rule says something to the user");
            if !table.contains(message) {
                unproven.push(format!("{path}: {message}"));
            }
        }
    });
    assert_eq!(unproven, Vec::<String>::new());
}

#[test]
fn every_string_list_and_map_has_a_bound() {
    let mut unbounded = Vec::new();
    walk(&schema(), "", &mut |path, node| {
        let bounded = match node["type"].as_str() {
            Some("string") => node.get("maxLength").is_some() || node.get("enum").is_some(),
            Some("array") => node.get("maxItems").is_some(),
            Some("object") if node.get("additionalProperties").is_some() => node.get("maxProperties").is_some(),
            Some("integer") if path.starts_with("spec.") => {
                node.get("minimum").is_some() && node.get("maximum").is_some()
            }
            Some("number") => false,
            _ => true,
        };
        if !bounded {
            unbounded.push(path.to_owned());
        }
    });
    assert_eq!(unbounded, Vec::<String>::new());
}

#[test]
fn every_field_is_explained() {
    let mut silent = Vec::new();
    walk(&schema(), "", &mut |path, node| {
        if node["description"].as_str().is_none_or(str::is_empty) && !path.ends_with(['*', ']']) {
            silent.push(path.to_owned());
        }
    });
    assert_eq!(silent, Vec::<String>::new());
}

#[test]
fn no_member_of_a_union_has_a_default_and_nothing_may_be_null() {
    let schema = schema();
    let spec = &schema["properties"]["spec"]["properties"];
    for union in ["postgres", "redis", "exposure"] {
        assert!(spec[union].get("default").is_none(), "{union}");
        for (member, node) in spec[union]["properties"].as_object().unwrap() {
            assert!(node.get("default").is_none(), "{union}.{member}");
        }
    }
    walk(&schema, "", &mut |path, node| {
        assert!(node.get("nullable").is_none(), "{path}");
    });
}

#[test]
fn the_types_and_the_schema_have_the_same_defaults() {
    let typed: SegmentCounterSpec = serde_json::from_value(good_spec()).unwrap();
    let defaulted = apply_defaults(&schema(), &object("defaults", &good_spec()));
    assert_eq!(defaulted["spec"], serde_json::to_value(typed).unwrap());
}

#[test]
fn the_bounds_of_counting_are_those_of_its_rules() {
    let counting = &schema()["properties"]["spec"]["properties"]["counting"];
    let fields = &counting["properties"];
    assert_eq!(
        fields["windowSeconds"]["maximum"].as_f64(),
        Some(counting::MAX_WINDOW_SECONDS as f64)
    );
    assert_eq!(fields["windowSeconds"]["default"], counting::DEFAULT_WINDOW_SECONDS);
    assert_eq!(
        fields["resolutionSeconds"]["maximum"].as_f64(),
        Some(counting::MAX_RESOLUTION_SECONDS as f64)
    );
    assert_eq!(
        fields["resolutionSeconds"]["default"],
        counting::DEFAULT_RESOLUTION_SECONDS
    );
    let rules = counting["x-kubernetes-validations"].to_string();
    assert!(rules.contains(&format!("* {}\"", counting::MAX_BUCKETS)), "{rules}");
}

#[test]
fn scale_columns_and_names_are_as_promised() {
    let crd = serde_json::to_value(crd()).unwrap();
    let version = &crd["spec"]["versions"][0];
    let scale = &version["subresources"]["scale"];
    assert_eq!(scale["specReplicasPath"], ".spec.api.replicas");
    assert_eq!(scale["statusReplicasPath"], ".status.api.replicas");
    assert_eq!(scale["labelSelectorPath"], ".status.api.selector");
    let columns = |wide: bool| -> Vec<&str> {
        let all = version["additionalPrinterColumns"].as_array().unwrap().iter();
        all.filter(|c| (c["priority"] == 1) == wide)
            .map(|c| c["name"].as_str().unwrap())
            .collect()
    };
    assert_eq!(columns(false), ["Ready", "Reason", "API", "URL", "Version", "Age"]);
    assert_eq!(columns(true), ["Postgres", "Redis", "Archived", "Counted", "Message"]);
    assert_eq!(
        crd["spec"]["names"],
        json!({
            "kind": "SegmentCounter", "plural": "segmentcounters", "singular": "segmentcounter",
            "shortNames": ["segc"], "categories": ["segments"],
        })
    );
}

#[test]
fn every_type_status_and_reason_fits_a_condition() {
    let schema = schema();
    let condition = &schema["properties"]["status"]["properties"]["conditions"]["items"]["properties"];
    let fits = |name: &str| name.len() <= 64 && name.starts_with(|c: char| c.is_ascii_uppercase());
    assert!(ConditionType::ALL.iter().all(|t| fits(t.as_str())));
    assert!(
        Reason::ALL
            .iter()
            .all(|r| fits(r.as_str()) && r.as_str().bytes().all(|b| b.is_ascii_alphanumeric()))
    );
    for status in ConditionStatus::ALL {
        assert!(
            condition["status"]["enum"]
                .as_array()
                .unwrap()
                .contains(&json!(status.as_str()))
        );
    }
    assert!(
        schema["properties"]["status"]["properties"]["conditions"]["maxItems"].as_f64()
            >= Some(ConditionType::ALL.len() as f64)
    );
}

/// Everything that the API server would say against an object, as it would say it: of its structure, and of the rules.
fn refused(bad: &Bad) -> Vec<String> {
    refusals_of_change(bad.before().as_ref(), &bad.object())
}

fn refusals(object: &Value) -> Vec<String> {
    refusals_of_change(None, object)
}

fn refusals_of_change(before: Option<&Value>, object: &Value) -> Vec<String> {
    let schema = schema();
    let defaulted = apply_defaults(&schema, object);
    let before = before.map(|before| apply_defaults(&schema, before));
    let mut found = structural::refusals(&schema, &defaulted, "");
    if let Err(broken) = Validator::new().validate(&schema, &defaulted, before.as_ref()) {
        found.extend(
            broken
                .iter()
                .map(|e| format!("{}: Invalid value: {}", e.field_path, e.message)),
        );
    }
    found
}

fn schema() -> Value {
    let crd = serde_json::to_value(crd()).unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// Shows every node below `schema` with its path; the items of a list are `[]`, the values of a map `*`.
fn walk(schema: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
    let join = |key: &str| {
        if path.is_empty() {
            key.to_owned()
        } else {
            format!("{path}.{key}")
        }
    };
    visit(path, schema);
    for (key, node) in schema["properties"].as_object().into_iter().flatten() {
        walk(node, &join(key), visit);
    }
    if let Some(values) = schema.get("additionalProperties") {
        walk(values, &join("*"), visit);
    }
    if let Some(items) = schema.get("items") {
        walk(items, &format!("{path}[]"), visit);
    }
}

/// Fails where something of `part` is not in `whole`.
fn assert_contains(whole: &Value, part: &Value, path: &str) {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            for (key, value) in part {
                let there = whole
                    .get(key)
                    .unwrap_or_else(|| panic!("{path}.{key} is lost: the types do not know it"));
                assert_contains(there, value, &format!("{path}.{key}"));
            }
        }
        (whole, part) => assert_eq!(whole, part, "{path}"),
    }
}
