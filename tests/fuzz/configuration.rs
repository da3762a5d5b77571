//! The configuration's file, environment and flags: whatever they hold, a configuration within its bounds or mistakes that are told, and no
//! secret among them.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use segment_counter::runtime::config::{KEYS, StartError, Started, start};

use crate::cases;
use crate::shapes::broken;

const SECRET: &str = "hunter2";

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => (0..100_000_i64).prop_map(|number| number.to_string()),
        1 => any::<i64>().prop_map(|number| number.to_string()),
        3 => select(vec![
            "127.0.0.1:8080", "[::]:0", "text", "json", "nodes", "cluster", "segment_counter", "/dev/null", "sqlite::memory:", "sqlite://x.db",
            "postgres://u:hunter2@h:5432/d", "postgres://u:hunter2@h:x/d", "redis://a:1", "redis://:hunter2@b:2,redis://c:3",
            "redis://:hunter2@b:2,redis://:hunter2@b:2", "rediss://:hunter2@b", "hunter2", "~", "null", "[1, 2]", "{a: hunter2}",
        ]).prop_map(str::to_owned),
        2 => "\\PC{0,20}",
    ]
}

/// Keys with values of their kind or of another's.
fn settings() -> impl Strategy<Value = Vec<(&'static str, String)>> {
    let names: Vec<&'static str> = KEYS.iter().map(|key| key.name).chain(["colour", "config"]).collect();
    vec((select(names), value()), 0..6)
}

fn yaml() -> impl Strategy<Value = String> {
    let line = (settings(), any::<bool>());
    line.prop_map(|(settings, quoted)| {
        let line = |(name, value): &(&str, String)| {
            if quoted {
                format!("{name}: {value:?}\n")
            } else {
                format!("{name}: {value}\n")
            }
        };
        settings.iter().map(line).collect()
    })
}

fn file(folder: &Path, bytes: &[u8]) -> OsString {
    let path = folder.join("config.yaml");
    std::fs::write(&path, bytes).unwrap();
    path.into_os_string()
}

/// What a person may be shown, judged.
fn check(started: Result<Started, StartError>, secrets: bool) -> Result<(), TestCaseError> {
    match started {
        Ok(started) => {
            let config = &started.config;
            prop_assert!(config.max_staleness <= Duration::from_secs(60));
            prop_assert!((1..=1_000_000_000).contains(&config.rules.window().seconds()));
            prop_assert!((1..=86_400).contains(&config.rules.resolution().seconds()));
            prop_assert!(config.rules.window().seconds() / config.rules.resolution().seconds() <= 10_000_000);
            prop_assert!((1..=100_000).contains(&config.batch_size) && (1..=36_500).contains(&config.keep_days));
            prop_assert!(config.listen != config.health_listen || config.listen.port() == 0);
            prop_assert!(!secrets || !format!("{started:?}").contains(SECRET), "{started:?}");
        }
        Err(StartError::Config(error)) => {
            prop_assert!(!error.problems.is_empty());
            let told = error.to_string();
            prop_assert!(!secrets || !told.contains(SECRET), "{told}");
        }
        Err(StartError::CommandLine(error)) => prop_assert!(!error.to_string().is_empty()),
    }
    Ok(())
}

/// Whether the secret stands only where a secret may: in a key that is known to hold one.
fn in_its_place(settings: &[(&str, String)]) -> bool {
    settings
        .iter()
        .all(|(name, value)| !value.contains(SECRET) || matches!(*name, "database_url" | "redis_url"))
}

#[test]
fn any_file_is_a_configuration_or_is_told_why_not() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = prop_oneof![
        3 => yaml().prop_map(String::into_bytes),
        3 => broken(yaml()),
        1 => vec(any::<u8>(), 0..120),
    ];
    proptest!(cases(1_500), |(bytes in bytes)| {
        let path = file(folder.path(), &bytes);
        check(start(["segment-counter".into(), "serve".into(), "--config".into(), path], []), false)?;
    });
}

#[test]
fn any_environment_and_flags_are_a_configuration_or_are_told_why_not() {
    proptest!(cases(1_500), |(environment in settings(), flags in settings(), noise in vec(any::<u8>(), 0..12), noisy in prop_oneof![9 => Just(false), 1 => Just(true)])| {
        let secrets = in_its_place(&environment) && in_its_place(&flags);
        let variables: Vec<_> = environment
            .iter()
            .map(|(name, value)| (format!("SEGMENT_COUNTER_{}", name.to_ascii_uppercase()), value.clone()))
            .collect();
        let mut arguments: Vec<OsString> = vec!["segment-counter".into(), "serve".into()];
        for (name, value) in &flags {
            arguments.push(format!("--{}={value}", name.replace('_', "-")).into());
        }
        if noisy {
            arguments.push(OsString::from_vec(noise));
        }
        check(start(arguments, variables), secrets)?;
    });
}

#[test]
fn a_file_that_would_grow_without_bounds_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    // Ten of ten of ten …: a thousand million words, if somebody wrote them out.
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..=9 {
        let alias = format!("*a{}", level - 1);
        laughs.push_str(&format!("a{level}: &a{level} [{}]\n", [alias.as_str(); 10].join(", ")));
    }
    laughs.push_str("redis_url: *a9\n");
    let deep = format!("redis_url: {}1{}\n", "[".repeat(50_000), "]".repeat(50_000));
    for bomb in [laughs, deep] {
        let path = file(folder.path(), bomb.as_bytes());
        let begun = Instant::now();
        let told = start(["segment-counter".into(), "serve".into(), "--config".into(), path], []);
        assert!(matches!(told, Err(StartError::Config(_))), "{told:?}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }
}
