//! What a structural schema says of a value, in the API server's own words, so that one table of promises serves offline and on a
//! cluster. Only the keywords that our schema uses; an unknown one is a failure of the test, not a rule passed over.

use serde_json::{Map, Value};

/// Keywords that check nothing by themselves, or that another checker has.
const SILENT: &[&str] = &[
    "default",
    "description",
    "format",
    "x-kubernetes-validations",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
];

/// Everything that is wrong with `value`, each as `path: what`. The empty path is the object itself.
pub(crate) fn refusals(schema: &Value, value: &Value, path: &str) -> Vec<String> {
    let mut found = Vec::new();
    check(schema, value, path, &mut found);
    found
}

fn check(schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    let schema = schema.as_object().expect("a schema is an object");
    if !type_fits(schema, value) {
        let wanted = schema["type"].as_str().unwrap_or_default();
        found.push(format!(
            "{path}: Invalid value: {path} in body must be of type {wanted}: \"{}\"",
            type_name(value)
        ));
        return;
    }
    if !schema.contains_key("additionalProperties") {
        properties(schema.get("properties").unwrap_or(&Value::Null), value, path, found);
    }
    for (keyword, wanted) in schema {
        match keyword.as_str() {
            "type" | "properties" | "x-kubernetes-int-or-string" => {}
            "required" => required(wanted, value, path, found),
            "additionalProperties" => each(value.as_object().into_iter().flatten(), wanted, path, found),
            "items" => {
                let items = value.as_array().into_iter().flatten().enumerate();
                items.for_each(|(i, item)| check(wanted, item, &format!("{path}[{i}]"), found));
            }
            "enum" => {
                if !wanted.as_array().expect("a list").contains(value) {
                    found.push(format!("{path}: Unsupported value: {value}"));
                }
            }
            silent if SILENT.contains(&silent) => {}
            bound => out_of_bounds(bound, wanted, value, path, found),
        }
    }
}

fn properties(wanted: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    for (key, field) in value.as_object().into_iter().flatten() {
        let at = join(path, key);
        match wanted.get(key) {
            Some(wanted) => check(wanted, field, &at, found),
            None if path.is_empty() && ["apiVersion", "kind", "metadata"].contains(&key.as_str()) => {}
            None => found.push(format!("strict decoding error: unknown field \"{at}\"")),
        }
    }
}

fn required(wanted: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    for key in wanted.as_array().expect("a list").iter().filter_map(Value::as_str) {
        if value.get(key).is_none() {
            found.push(format!("{}: Required value", join(path, key)));
        }
    }
}

fn each<'a>(
    fields: impl Iterator<Item = (&'a String, &'a Value)>,
    wanted: &Value,
    path: &str,
    found: &mut Vec<String>,
) {
    fields.for_each(|(key, field)| check(wanted, field, &join(path, key), found));
}

fn out_of_bounds(keyword: &str, wanted: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    let bound = wanted
        .as_f64()
        .unwrap_or_else(|| panic!("{path}: this checker does not know the keyword {keyword}"));
    let number = value.as_f64();
    let chars = value.as_str().map(|text| text.chars().count() as f64);
    let items = value.as_array().map(|items| items.len() as f64);
    let fields = value.as_object().map(|fields| fields.len() as f64);
    let what = match keyword {
        "minimum" if number.is_some_and(|n| n < bound) => format!("should be greater than or equal to {bound}"),
        "maximum" if number.is_some_and(|n| n > bound) => format!("should be less than or equal to {bound}"),
        "minLength" if chars.is_some_and(|n| n < bound) => format!("should be at least {bound} chars long"),
        "maxLength" if chars.is_some_and(|n| n > bound) => format!("Too long: may not be more than {bound} bytes"),
        "minItems" if items.is_some_and(|n| n < bound) => format!("should have at least {bound} items"),
        "maxItems" if items.is_some_and(|n| n > bound) => {
            format!(
                "Too many: {}: must have at most {bound} items",
                items.unwrap_or_default()
            )
        }
        "maxProperties" if fields.is_some_and(|n| n > bound) => format!("Too many: must have at most {bound} items"),
        "minimum" | "maximum" | "minLength" | "maxLength" | "minItems" | "maxItems" | "maxProperties" => return,
        other => panic!("{path}: this checker does not know the keyword {other}"),
    };
    found.push(format!("{path}: {what}"));
}

fn type_fits(schema: &Map<String, Value>, value: &Value) -> bool {
    if schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        return value.is_i64() || value.is_string();
    }
    match schema
        .get("type")
        .and_then(Value::as_str)
        .expect("every node of a structural schema has a type")
    {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64(),
        other => panic!("this checker does not know the type {other}"),
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_i64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}
