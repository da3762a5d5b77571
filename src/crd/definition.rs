//! The CustomResourceDefinition made of the types: what `segment-counter-operator crds` prints and the charts carry.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;
use serde_json::Value;

use super::spec::SegmentCounter;

/// The definition of `segmentcounters.segmentcounter.io`. The same at every call.
#[must_use]
pub fn crd() -> CustomResourceDefinition {
    let mut crd = SegmentCounter::crd();
    for version in &mut crd.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|s| s.open_api_v3_schema.as_mut()) {
            schema.title = None;
            forbid_null(schema);
        }
    }
    crd
}

/// The definition as YAML, with a line's end at its end.
///
/// # Errors
/// When the definition cannot be written as YAML, which no input decides.
pub fn crd_yaml() -> Result<String, DefinitionError> {
    let mut definition = serde_json::to_value(crd())?;
    whole_numbers(&mut definition);
    Ok(serde_saphyr::to_string(&definition)?)
}

/// Why the definition could not be written.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    /// It is no JSON.
    #[error("the definition cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// It is no YAML.
    #[error("the definition cannot be written as YAML: {0}")]
    Yaml(#[from] serde_saphyr::ser::Error),
}

/// A schema's bounds are floats to the API's types; `100.0` reads as if 99.5 could be meant.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            if let Ok(whole) = number.to_string().trim_end_matches(".0").parse::<i64>() {
                *number = whole.into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(fields) => fields.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

/// An optional field is left out, never null: with `nullable` the API server would keep the null, and `has()` would call a union's
/// null member set.
fn forbid_null(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    for property in schema.properties.iter_mut().flat_map(|p| p.values_mut()) {
        forbid_null(property);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        forbid_null(values);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(item)) => forbid_null(item),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(forbid_null),
        None => {}
    }
}
