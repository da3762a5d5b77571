//! The operator's rights against what it used them for, by the API server's audit log: run after the scenarios, which make it do all that
//! it can do.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    audit::AuditLog,
    world::{STREAM, SYSTEM},
};

/// Group, resource with its subresource, verb.
type Right = (String, String, String);

/// Rights that no scenario makes it use, with the reason why it has them.
const UNUSED: [(&str, &str, &str, &str); 0] = [];

/// Nothing is forbidden to it that it tried, and nothing is allowed that it did not use.
pub fn the_operator_has_the_rights_that_it_uses_and_no_others(from: u64) {
    let granted: BTreeSet<Right> = [STREAM, SYSTEM]
        .iter()
        .flat_map(|namespace| granted(&namespace.get("roles")))
        .collect();
    let used: BTreeSet<Right> = AuditLog::open()
        .of_the_operator_since(from)
        .into_iter()
        .map(|request| (request.group, request.resource, request.verb))
        .collect();
    let excepted: BTreeSet<Right> = UNUSED
        .iter()
        .map(|(group, resource, verb, _)| (*group, *resource, *verb))
        .map(owned)
        .collect();
    let lacking: Vec<_> = used
        .difference(&granted)
        .filter(|(_, resource, _)| !resource.is_empty())
        .collect();
    assert!(lacking.is_empty(), "tried without the right to: {lacking:?}");
    let idle: Vec<_> = granted
        .difference(&used)
        .filter(|right| !excepted.contains(*right))
        .collect();
    assert!(idle.is_empty(), "rights that nothing used: {idle:?}");
    eprintln!("{} rights, all of them used, and none missing", granted.len());
}

fn owned((group, resource, verb): (&str, &str, &str)) -> Right {
    (group.to_owned(), resource.to_owned(), verb.to_owned())
}

fn granted(roles: &Value) -> BTreeSet<Right> {
    let words = |rule: &Value, key: &str| -> Vec<String> {
        let all = rule[key].as_array().cloned().unwrap_or_default();
        all.iter().filter_map(|word| word.as_str().map(str::to_owned)).collect()
    };
    let rules = roles["items"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|role| role["rules"].as_array().cloned().unwrap_or_default());
    let mut rights = BTreeSet::new();
    for rule in rules {
        for group in words(&rule, "apiGroups") {
            for resource in words(&rule, "resources") {
                for verb in words(&rule, "verbs") {
                    rights.insert((group.clone(), resource.clone(), verb));
                }
            }
        }
    }
    rights
}
