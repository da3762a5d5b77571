//! The files beside the configuration: the tokens, and the Redis nodes. What they are taken for is what they say, and what is wrong is told without a
//! word of what may be secret.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use segment_counter::api::{Tokens, TokensError};
use segment_counter::runtime::config::NodesFile;
use segment_counter::runtime::shutdown::Shutdown;
use tokio::runtime::Runtime;

use crate::cases;
use crate::configuration::{SECRET, secretive};
use crate::shapes::broken;

/// What runs the reading of a file.
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn tokens(runtime: &Runtime, folder: &Path, bytes: &[u8]) -> Result<Tokens, TokensError> {
    let path = folder.join("tokens.yaml");
    std::fs::write(&path, bytes).unwrap();
    let shutdown = Shutdown::new();
    let tokens = runtime.block_on(Tokens::watch(path, shutdown.clone()));
    // Nobody goes on looking at it.
    shutdown.request();
    tokens
}

/// An entry of the tokens file.
#[derive(Debug, Clone)]
struct Entry {
    name: &'static str,
    hash: String,
    scopes: Vec<&'static str>,
    /// A field that no entry has; people put the token itself there.
    more: bool,
}

impl Entry {
    fn is_good(&self) -> bool {
        let known = ["pairs:write", "counts:read", "users:read", "users:erase", "admin"];
        let hash = self.hash.len() == 64 && self.hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        hash && !self.more && !self.scopes.is_empty() && self.scopes.iter().all(|scope| known.contains(scope))
    }

    /// As an item of a YAML list: in one line, or in some.
    fn text(&self, flow: bool) -> String {
        let Self { name, hash, scopes, .. } = self;
        let more = if self.more {
            format!("token: {SECRET}")
        } else {
            String::new()
        };
        if flow {
            format!("- {{name: {name:?}, sha256: {hash:?}, scopes: {scopes:?}, {more}}}\n")
        } else {
            format!("- sha256: {hash}\n  name: '{name}'\n  scopes: {scopes:?}\n  {more}\n")
        }
    }
}

fn entry() -> impl Strategy<Value = Entry> {
    let hash = prop_oneof![
        12 => select(vec!['a', 'b', 'c', 'd', 'e', 'F']).prop_map(|digit| digit.to_string().repeat(64)),
        1 => select(vec![SECRET.to_owned(), "a".repeat(63), "a".repeat(65), format!("{SECRET}{}", "a".repeat(57))]),
    ];
    let scopes = vec(
        select(vec![
            "pairs:write",
            "counts:read",
            "users:read",
            "users:erase",
            "admin",
            "admin",
        ]),
        1..4,
    );
    let scopes = prop_oneof![12 => scopes, 1 => vec(select(vec!["root", "Admin", "", SECRET, "admin"]), 0..3)];
    let name = select(vec!["a", "b", "c", "web-shop", "é", ""]);
    let more = prop_oneof![14 => Just(false), 1 => Just(true)];
    (name, hash, scopes, more).prop_map(|(name, hash, scopes, more)| Entry {
        name,
        hash,
        scopes,
        more,
    })
}

#[test]
fn a_tokens_file_is_a_list_of_good_tokens_or_is_refused_without_what_was_put_there_by_mistake() {
    let (folder, runtime) = (tempfile::tempdir().unwrap(), runtime());
    let (taken, refused) = (Cell::new(0), Cell::new(0));
    proptest!(cases(1_000), |(entries in vec((entry(), any::<bool>()), 0..4))| {
        let text: String = entries.iter().map(|(entry, flow)| entry.text(*flow)).collect();
        let names: BTreeSet<_> = entries.iter().map(|(entry, _)| entry.name).collect();
        let hashes: BTreeSet<_> = entries.iter().map(|(entry, _)| entry.hash.to_ascii_lowercase()).collect();
        let each_once = [names.len(), hashes.len()] == [entries.len(); 2];
        let good = !entries.is_empty() && each_once && entries.iter().all(|(entry, _)| entry.is_good());
        let read = tokens(&runtime, folder.path(), text.as_bytes());
        prop_assert_eq!(read.is_ok(), good, "{}: {:?}", text, read);
        let seen = if good { &taken } else { &refused };
        seen.set(seen.get() + 1);
        if let Err(error) = read {
            let told = error.to_string();
            prop_assert!(told.contains("tokens.yaml") && !told.contains(SECRET), "{}: {}", text, told);
        }
    });
    assert!(
        taken.get() > 50 && refused.get() > 50,
        "{taken:?} taken, {refused:?} refused"
    );
}

#[test]
fn any_bytes_are_a_tokens_file_or_none() {
    let (folder, runtime) = (tempfile::tempdir().unwrap(), runtime());
    let text = vec((entry(), any::<bool>()), 1..3).prop_map(|entries| {
        let texts = entries.iter().map(|(entry, flow)| entry.text(*flow));
        texts.collect::<String>()
    });
    proptest!(cases(1_000), |(bytes in prop_oneof![4 => broken(text), 1 => vec(any::<u8>(), 0..120)])| {
        if let Err(error) = tokens(&runtime, folder.path(), &bytes) {
            let told = error.to_string();
            // A name is told, and a slip may have made a part of the secret's own line one.
            prop_assert!(!told.contains(SECRET) || told.contains("has a token"), "{}: {}", String::from_utf8_lossy(&bytes), told);
        }
    });
}

#[test]
fn a_tokens_file_that_would_grow_without_bounds_is_refused_at_once() {
    let (folder, runtime) = (tempfile::tempdir().unwrap(), runtime());
    let hash = "a".repeat(64);
    let deep = format!(
        "- {{name: a, sha256: {hash}, scopes: {}{}}}\n",
        "[".repeat(50_000),
        "]".repeat(50_000)
    );
    let names = format!(
        "- {{name: &a {}, sha256: {hash}, scopes: [{}]}}\n",
        "x".repeat(100_000),
        "*a,".repeat(1_000)
    );
    let large = format!(
        "# {}\n- {{name: a, sha256: {hash}, scopes: [admin]}}\n",
        "x".repeat(1 << 20)
    );
    for bomb in [deep, names, large] {
        let begun = Instant::now();
        let told = tokens(&runtime, folder.path(), bomb.as_bytes())
            .map(drop)
            .unwrap_err()
            .to_string();
        // The longest name that it may tell is there once.
        assert!(told.len() < 110_000, "{} bytes", told.len());
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }
}

/// A line of the nodes file: its text, and the nodes that it names; `None` where it names something that is no node.
fn line() -> impl Strategy<Value = (String, Option<Vec<String>>)> {
    let url = (
        select(vec!["redis", "rediss"]),
        "(u?:hunter2@)?",
        "[a-d]",
        1..60_000_u16,
    )
        .prop_map(|(scheme, login, host, port)| format!("{scheme}://{login}{host}:{port}"));
    let bad = select(vec![
        "http://:hunter2@b",
        "hunter2",
        "redis:/:hunter2@b",
        "redis://:hunter2@b:port",
        "redis://:hunter2@b:70000",
        "redis://:hunter2@b/x",
        "redis://:hunter2@[b",
        "REDIS:/hunter2",
        "\u{feff}redis://:hunter2@b",
    ]);
    prop_oneof![
        8 => url.clone().prop_map(|url| (format!(" {url}\t"), Some(vec![url]))),
        2 => vec(url, 2..4).prop_map(|urls| (urls.join(" , "), Some(urls))),
        2 => select(vec!["", " \t", "# redis://:hunter2@b", " #hunter2", ",", " , ,"]).prop_map(|text| (text.to_owned(), Some(vec![]))),
        1 => bad.prop_map(|text| (text.to_owned(), None)),
        1 => Just(("# ".to_owned() + &"x".repeat(20_000), Some(vec![]))),
    ]
}

#[test]
fn a_nodes_file_names_its_nodes_in_their_order_or_is_refused_without_its_text() {
    let (folder, runtime) = (tempfile::tempdir().unwrap(), runtime());
    let file = NodesFile::new(folder.path().join("nodes"));
    let (taken, refused) = (Cell::new(0), Cell::new(0));
    let slip = prop_oneof![3 => Just(None), 1 => broken(secretive()).prop_map(Some)];
    proptest!(cases(1_000), |(lines in vec(line(), 0..7), returns in any::<bool>(), slip in slip)| {
        let texts: Vec<&str> = lines.iter().map(|(text, _)| text.as_str()).collect();
        let mut bytes = texts.join(if returns { "\r\n" } else { "\n" }).into_bytes();
        let nodes: Option<Vec<String>> = lines.iter().map(|(_, nodes)| nodes.clone()).collect::<Option<Vec<_>>>().map(|all| all.concat());
        let nodes = nodes.filter(|nodes| {
            let each: BTreeSet<_> = nodes.iter().collect();
            !nodes.is_empty() && each.len() == nodes.len() && bytes.len() <= 64 * 1024
        });
        let whole = slip.is_none();
        bytes.extend(slip.into_iter().flatten());
        std::fs::write(file.path(), &bytes).unwrap();
        let read = runtime.block_on(file.read());
        let shown = String::from_utf8_lossy(&bytes);
        match read {
            Ok(read) => {
                let read: Vec<String> = read.iter().map(|url| url.expose().to_owned()).collect();
                prop_assert!(!whole || Some(&read) == nodes.as_ref(), "{}: {:?}", shown, read);
                prop_assert!(!read.is_empty() && read.iter().all(|url| url.starts_with("redis")), "{}: {:?}", shown, read);
            }
            Err(error) => {
                let told = error.to_string();
                prop_assert!(!whole || nodes.is_none(), "{}: {}", shown, told);
                prop_assert!(told.contains("nodes") && !told.contains(SECRET), "{}: {}", shown, told);
            }
        }
        if whole {
            let seen = if nodes.is_some() { &taken } else { &refused };
            seen.set(seen.get() + 1);
        }
    });
    assert!(
        taken.get() > 50 && refused.get() > 50,
        "{taken:?} taken, {refused:?} refused"
    );
}
