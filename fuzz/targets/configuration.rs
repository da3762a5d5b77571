//! A file of the configuration: valid, or refused with its mistakes.
#![no_main]

use std::sync::LazyLock;

use segment_counter::runtime::config::{StartError, start};

static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

libfuzzer_sys::fuzz_target!(|file: &[u8]| {
    let path = FOLDER.path().join("config.yaml");
    std::fs::write(&path, file).unwrap();
    let arguments = [
        "segment-counter".into(),
        "serve".into(),
        "--config".into(),
        path.into_os_string(),
    ];
    match start(arguments, []) {
        Ok(started) => assert!((1..=1_000_000_000).contains(&started.config.rules.window().seconds())),
        Err(StartError::Config(error)) => assert!(!error.problems.is_empty()),
        Err(StartError::CommandLine(error)) => panic!("{error}"),
    }
});
