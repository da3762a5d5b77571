//! Objects as trees of fields: how a change comes into one, and what an apply takes away or would take from others.

use serde_json::{Map, Value, json};

/// The fields of what is a map, or becomes one.
pub(super) fn fields(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut().unwrap()
}

/// What moves the generation: all but metadata and status.
pub(super) fn spec_of(object: &Value) -> Value {
    let mut rest = object.clone();
    fields(&mut rest).retain(|field, _| field != "metadata" && field != "status");
    rest
}

/// A merge patch: maps field by field, all else as a whole; null takes away.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    let target = fields(target);
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Takes away what was applied and no longer is.
pub(super) fn forget(target: &mut Value, applied: &Value, now: &Value) {
    let (Value::Object(target), Value::Object(applied)) = (target, applied) else {
        return;
    };
    for (key, old) in applied {
        match (now.get(key), target.get_mut(key)) {
            (None, _) => drop(target.remove(key)),
            (Some(new), Some(inner)) => forget(inner, old, new),
            (Some(_), None) => {}
        }
    }
}

/// Whether a value that others set would become another.
pub(super) fn clash(others: &Value, body: &Value) -> bool {
    match (others, body) {
        (Value::Null, _) => false,
        (Value::Object(others), Value::Object(body)) => others
            .iter()
            .any(|(key, theirs)| body.get(key).is_some_and(|ours| clash(theirs, ours))),
        (theirs, ours) => theirs != ours,
    }
}
