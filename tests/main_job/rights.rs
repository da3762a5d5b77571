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
    // Server-side apply of what is not there yet is one request, a patch, that needs the right to create too: the log has only the patch.
    let by_apply = |(group, resource, verb): &Right| {
        verb == "create" && used.contains(&(group.clone(), resource.clone(), "patch".to_owned()))
    };
    let lacking: Vec<_> = used
        .difference(&granted)
        .filter(|(_, resource, _)| !resource.is_empty())
        .collect();
    assert!(lacking.is_empty(), "tried without the right to: {lacking:?}");
    let idle: Vec<_> = granted.difference(&used).filter(|right| !by_apply(right)).collect();
    assert!(idle.is_empty(), "rights that nothing used: {idle:?}");
    eprintln!("{} rights, all of them used, and none missing", granted.len());
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
