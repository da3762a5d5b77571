//! What was measured on the way, for the table of `make bench`: printed, and kept in target/cluster-figures.json. No test depends on them.

use std::{fs, sync::Mutex};

use serde_json::{Value, json};

use super::kubectl::{Namespace, kubectl};

static FIGURES: Mutex<Vec<Value>> = Mutex::new(Vec::new());

/// Notes a figure. `PROFILE` says how the programs in the image were built.
pub fn note(what: &str, value: f64, unit: &str) {
    let profile = std::env::var("PROFILE").unwrap_or_else(|_| "debug".to_owned());
    let what = format!("{what}, {profile} build");
    eprintln!("figure: {what}: {value:.1} {unit}");
    let measured = format!("{value:.1} {unit}");
    FIGURES
        .lock()
        .unwrap()
        .push(json!({"work": what, "measured": measured.trim()}));
}

/// Notes how large the image is, as the node has it.
pub fn size_of_image(name: &str) {
    let nodes: Value = serde_json::from_str(&kubectl(&["get", "nodes", "-o", "json"])).unwrap();
    let images = nodes["items"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|node| node["status"]["images"].as_array().cloned().unwrap_or_default());
    let ours = images.into_iter().find(|image| {
        image["names"]
            .as_array()
            .is_some_and(|names| names.iter().any(|own| own == name))
    });
    match ours.and_then(|image| image["sizeBytes"].as_f64()) {
        Some(bytes) => note(
            "image of all our programs, with its base",
            bytes / f64::from(1 << 20),
            "MiB",
        ),
        None => eprintln!("figure: no node tells the size of {name}"),
    }
}

/// Notes the largest resident set among these pods' main processes. Their images have no shell, so the node is asked: it must be this host.
pub fn memory_of_pods(namespace: Namespace, label: &str, what: &str) {
    let pods: Value = serde_json::from_str(&namespace.kubectl(&["get", "pods", "-l", label, "-o", "json"])).unwrap();
    let containers = pods["items"].as_array().unwrap().iter().filter_map(|pod| {
        let id = pod["status"]["containerStatuses"][0]["containerID"].as_str()?;
        Some(id.rsplit('/').next()?.to_owned())
    });
    let largest = containers.filter_map(|id| resident_kib(&id)).max();
    match largest {
        Some(kib) => note(&format!("resident memory, {what}"), f64::from(kib) / 1024.0, "MiB"),
        None => eprintln!("figure: the memory of {what} cannot be seen from this host"),
    }
}

/// The resident set of the first process in a container's cgroup.
fn resident_kib(container: &str) -> Option<u32> {
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let path = process.path();
        let Ok(cgroup) = fs::read_to_string(path.join("cgroup")) else {
            continue;
        };
        if !cgroup.contains(container) {
            continue;
        }
        let status = fs::read_to_string(path.join("status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        return line.split_whitespace().nth(1)?.parse().ok();
    }
    None
}

/// Writes them down.
pub fn keep() {
    let figures = serde_json::to_string_pretty(&*FIGURES.lock().unwrap()).unwrap();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/target/cluster-figures.json");
    fs::write(path, figures).unwrap();
}
