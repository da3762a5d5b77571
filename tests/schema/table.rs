//! The table of bad specs, and the samples, as raw JSON: what a user would send, not what the types would make of it.

use std::{fs, path::PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

/// One spec that must be refused.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bad {
    /// What is wrong, in words.
    pub(crate) case: String,
    /// Name of the object, where that is what is wrong.
    name: Option<String>,
    /// What stood before, laid over a good spec, where it is the change that is wrong.
    was: Option<Value>,
    /// Laid over a good spec.
    set: Option<Value>,
    /// Stands alone.
    spec: Option<Value>,
    /// What the refusal must contain.
    pub(crate) says: Vec<String>,
}

impl Bad {
    /// The object as a user would send it.
    pub(crate) fn object(&self) -> Value {
        let mut spec = self.spec.clone().unwrap_or_else(good_spec);
        if let Some(set) = &self.set {
            lay_over(&mut spec, set);
        }
        object(self.name.as_deref().unwrap_or("bad"), &spec)
    }

    /// The object that it changes, if it is a change.
    pub(crate) fn before(&self) -> Option<Value> {
        let mut spec = good_spec();
        lay_over(&mut spec, self.was.as_ref()?);
        Some(object("bad", &spec))
    }

    /// What of the promised words is missing in a refusal.
    pub(crate) fn missing_in<'a>(&'a self, refusal: &str) -> Vec<&'a str> {
        self.says
            .iter()
            .map(String::as_str)
            .filter(|words| !refusal.contains(words))
            .collect()
    }
}

/// The smallest good spec.
pub(crate) fn good_spec() -> Value {
    json!({ "postgres": { "external": { "secretRef": { "name": "pg" } } }, "redis": { "managed": {} } })
}

/// An object of that name and spec.
pub(crate) fn object(name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "segmentcounter.io/v1alpha1",
        "kind": "SegmentCounter",
        "metadata": { "name": name },
        "spec": spec,
    })
}

/// The table; at least thirty rows, each of which promises something.
pub(crate) fn bad_specs() -> Vec<Bad> {
    let text = fs::read_to_string(root().join("tests/schema/bad.yaml")).unwrap();
    let table: Vec<Bad> = serde_saphyr::from_str(&text).unwrap();
    assert!(table.len() >= 30, "the table lost its rows: {}", table.len());
    for row in &table {
        assert!(!row.says.is_empty(), "{}: promises nothing", row.case);
        assert!(
            row.set.is_none() || row.spec.is_none(),
            "{}: both `set` and `spec`",
            row.case
        );
    }
    table
}

/// Every file of manifests/samples, by its name.
pub(crate) fn samples() -> Vec<(String, Value)> {
    let mut files: Vec<PathBuf> = fs::read_dir(root().join("manifests/samples"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 4, "the samples are gone: {files:?}");
    files
        .into_iter()
        .map(|file| {
            let sample = serde_saphyr::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
            (file.file_name().unwrap().to_string_lossy().into_owned(), sample)
        })
        .collect()
}

/// Where the repository begins.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn lay_over(under: &mut Value, over: &Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                match under.get_mut(key) {
                    Some(there) => lay_over(there, value),
                    None => {
                        under.insert(key.clone(), value.clone());
                    }
                }
            }
        }
        (under, over) => *under = over.clone(),
    }
}
