//! The configuration's file, environment and flags: whatever they hold, a configuration within its bounds or mistakes that are told, and no
//! secret among them.

use std::cell::Cell;
use std::ffi::OsString;
use std::ops::Range;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use segment_counter::runtime::config::{KEYS, StartError, Started, start};

use crate::cases;
use crate::shapes::broken;

/// What may never be told.
pub const SECRET: &str = "hunter2";

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

/// A URL or what somebody took for one, with the secret in some place of it. None of SQLite's: the name of its file is no secret.
pub fn secretive() -> impl Strategy<Value = String> {
    let schemes = [
        "postgres://u:",
        "postgres://h/d?password=",
        "postgresql://",
        "redis://:",
        "rediss://u:",
        "redis://a:1,redis://:",
        "mysql://",
        "",
    ];
    let ends = [
        "",
        "@h",
        "@h:5432/d",
        "@h:x/d",
        "@h:99999",
        "@[::1",
        "/d?sslmode=x",
        "@h/1",
        "@h/x",
    ];
    let noise = || prop_oneof![4 => "[a-z0-9]{0,3}", 1 => "[]@:/?#%&=,{}' \"\\\\|>*!.\\[-]{0,3}"];
    (select(schemes.to_vec()), noise(), noise(), select(ends.to_vec()))
        .prop_map(|(scheme, before, after, end)| format!("{scheme}{before}{SECRET}{after}{end}"))
}

/// A file that holds the secret, and only where a secret may be: in values of the keys that are known to hold one.
fn kept(layouts: Range<u8>) -> impl Strategy<Value = String> {
    let known: Vec<&'static str> = KEYS.iter().filter(|key| key.secret).map(|key| key.name).collect();
    let open = settings().prop_map(|settings| {
        let open = settings
            .into_iter()
            .map(|(name, value)| (name, value.replace(SECRET, "hunter")));
        open.collect::<Vec<_>>()
    });
    // Few settings of any kind make a configuration, so that some files have none.
    let open = prop_oneof![1 => Just(vec![]), 1 => open];
    let fitting = select(vec![
        ("database_url", "postgres://u:hunter2@h:5432/d"),
        ("redis_url", "redis://:hunter2@b:2"),
        ("redis_url", "redis://:hunter2@b:2,rediss://:hunter2@c:3"),
    ]);
    let fitting = fitting.prop_map(|(name, value)| (name, value.to_owned()));
    let secrets = vec(prop_oneof![1 => fitting, 2 => (select(known), secretive())], 1..3);
    (open, secrets, vec(layouts, 8), any::<bool>()).prop_map(|(mut settings, secrets, layouts, first)| {
        let at = if first { 0 } else { settings.len() };
        settings.splice(at..at, secrets);
        let lines = settings.iter().zip(layouts);
        lines
            .map(|((name, value), layout)| laid_out(name, value, layout))
            .collect()
    })
}

/// Layouts whose values are values; behind them, those whose colon or space was forgotten, so that they may be a part of a name.
const WELL: Range<u8> = 0..10;
const ILL: Range<u8> = 0..13;

/// A key and its value as people write them, well or not.
fn laid_out(name: &str, value: &str, layout: u8) -> String {
    match layout {
        0 => format!("{name}: {value:?}\n"),
        1 => format!("{name}: '{}'\n", value.replace('\'', "''")),
        2 => format!("{name}: |\n  {value}\n"),
        3 => format!("{name}:\n  - {value}\n  - {value:?}\n"),
        4 => format!("{name}: {{a: {value:?}}}\n"),
        5 => format!("{name}: [[{value:?}], {value:?}]\n"),
        6 => format!("{name}: \"{value}\n"),
        7 => format!("{name}: 1\n{name}: {value}\n"),
        10 => format!("{name}:{value}\n"),
        11 => format!("{name}={value}\n"),
        12 => format!("{name} {value}\n"),
        _ => format!("{name}: {value}\n"),
    }
}

fn file(folder: &Path, bytes: &[u8]) -> OsString {
    let path = folder.join("config.yaml");
    std::fs::write(&path, bytes).unwrap();
    path.into_os_string()
}

/// Where the secret stands in what was read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    /// Also in values that an error may repeat.
    Anywhere,
    /// In values of keys that are known to hold one or, by a slip, in what became the name of a key or the value of another: none of it is told.
    Values,
}

/// What a person may be shown, judged.
fn check(started: Result<Started, StartError>, held: Held) -> Result<(), TestCaseError> {
    match started {
        Ok(started) => {
            let config = &started.config;
            prop_assert!(config.max_staleness <= Duration::from_secs(60));
            prop_assert!((1..=1_000_000_000).contains(&config.rules.window().seconds()));
            prop_assert!((1..=86_400).contains(&config.rules.resolution().seconds()));
            prop_assert!(config.rules.window().seconds() / config.rules.resolution().seconds() <= 10_000_000);
            prop_assert!((1..=100_000).contains(&config.batch_size) && (1..=36_500).contains(&config.keep_days));
            prop_assert!(config.listen != config.health_listen || config.listen.port() == 0);
            prop_assert!(
                held == Held::Anywhere || !format!("{started:?}").contains(SECRET),
                "{started:?}"
            );
        }
        Err(StartError::Config(error)) => {
            prop_assert!(!error.problems.is_empty());
            let told = error.to_string();
            prop_assert!(held != Held::Values || !told.contains(SECRET), "{told}");
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
fn any_file_is_a_configuration_or_is_told_why_not_and_without_its_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let file_of = |bytes: &[u8], held| {
        let path = file(folder.path(), bytes);
        let started = start(["segment-counter".into(), "serve".into(), "--config".into(), path], []);
        let taken = started.is_ok();
        check(started, held).map(|()| taken)
    };
    let noise = prop_oneof![
        3 => yaml().prop_map(String::into_bytes),
        3 => broken(yaml()),
        1 => vec(any::<u8>(), 0..120),
    ];
    proptest!(cases(1_000), |(bytes in noise)| {
        file_of(&bytes, Held::Anywhere)?;
    });
    let (taken, refused) = (Cell::new(0), Cell::new(0));
    proptest!(cases(1_000), |(text in kept(WELL))| {
        let seen = if file_of(text.as_bytes(), Held::Values)? { &taken } else { &refused };
        seen.set(seen.get() + 1);
    });
    proptest!(cases(1_000), |(bytes in prop_oneof![2 => broken(kept(WELL)), 1 => kept(ILL).prop_map(String::into_bytes)])| {
        file_of(&bytes, Held::Values)?;
    });
    let (taken, refused) = (taken.get(), refused.get());
    assert!(taken > 10 && refused > 10, "{taken} taken, {refused} refused");
}

#[test]
fn any_environment_and_flags_are_a_configuration_or_are_told_why_not() {
    proptest!(cases(1_500), |(environment in settings(), flags in settings(), noise in vec(any::<u8>(), 0..12), noisy in prop_oneof![9 => Just(false), 1 => Just(true)])| {
        let in_place = in_its_place(&environment) && in_its_place(&flags);
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
        check(start(arguments, variables), if in_place { Held::Values } else { Held::Anywhere })?;
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
