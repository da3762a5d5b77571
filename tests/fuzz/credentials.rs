//! A Secret as it is mounted: a file for each key, or one `uri`. What a login is taken for is what they say, and what is wrong is told without a
//! word of what may be secret.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use segment_counter::runtime::config::Login;
use segment_counter::runtime::credentials::{PostgresCredentials, SslMode};
use segment_counter::runtime::secret_dir;

use crate::cases;
use crate::configuration::{SECRET, secretive};
use crate::files::runtime;
use crate::shapes::broken;

/// The parts of a login that one side of a Secret gives: its own keys, or its `uri`.
#[derive(Debug, Clone)]
struct Parts {
    host: Option<String>,
    port: Option<u16>,
    database: Option<String>,
    user: Option<String>,
    password: Option<String>,
    ssl: Option<(&'static str, SslMode)>,
}

fn parts(often: f64) -> impl Strategy<Value = Parts> {
    let host = prop_oneof!["[a-z.-]{1,8}", Just("fd00::1".to_owned())];
    let ssl = select(vec![
        ("disable", SslMode::Disable),
        ("allow", SslMode::Allow),
        ("prefer", SslMode::Prefer),
        ("require", SslMode::Require),
        ("verify-ca", SslMode::VerifyCa),
        ("verify-full", SslMode::VerifyFull),
    ]);
    let text = || option::weighted(often, "\\PC{1,12}");
    let password = "\\PC{0,6}".prop_map(|text| format!("{text}{SECRET}"));
    let parts = (
        option::weighted(often, host),
        option::of(any::<u16>()),
        text(),
        text(),
        option::weighted(often, password),
        option::of(ssl),
    );
    parts.prop_map(|(host, port, database, user, password, ssl)| Parts {
        host,
        port,
        database,
        user,
        password,
        ssl,
    })
}

impl Parts {
    /// As one `uri`, with every byte of its texts escaped that may not stand for itself.
    fn uri(&self) -> String {
        let part = |text: &Option<String>| {
            let bytes = text.iter().flat_map(|text| text.bytes());
            let escaped = bytes.map(|byte| {
                if byte.is_ascii_alphanumeric() {
                    char::from(byte).to_string()
                } else {
                    format!("%{byte:02x}")
                }
            });
            escaped.collect::<String>()
        };
        let host = match self.host.as_deref() {
            Some(v6) if v6.contains(':') => format!("[{v6}]"),
            _ => part(&self.host),
        };
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        let ssl = self
            .ssl
            .map(|(text, _)| format!("?a=b&sslmode={text}"))
            .unwrap_or_default();
        let (user, password, database) = (part(&self.user), part(&self.password), part(&self.database));
        format!("postgresql://{user}:{password}@{host}{port}/{database}{ssl}")
    }

    /// As keys of their own, under the first or the last name that each may have.
    fn keys(&self, usual: bool, end: &str) -> BTreeMap<String, Vec<u8>> {
        let name = |first: &'static str, last: &'static str| if usual { first } else { last };
        let texts = [
            (name("host", "hostname"), self.host.clone()),
            ("port", self.port.map(|port| port.to_string())),
            (name("dbname", "db"), self.database.clone()),
            (name("username", "user"), self.user.clone()),
            ("password", self.password.clone()),
            ("sslmode", self.ssl.map(|(text, _)| text.to_owned())),
        ];
        let given = texts
            .into_iter()
            .filter_map(|(key, text)| Some((key.to_owned(), (text? + end).into_bytes())));
        given.collect()
    }
}

#[test]
fn a_login_is_what_the_keys_and_the_uri_of_a_secret_say_together_or_the_first_part_that_lacks_is_named() {
    let (whole, lacking) = (Cell::new(0), Cell::new(0));
    let ways = (any::<bool>(), select(vec!["", "\n", "\r\n"]));
    proptest!(cases(1_500), |(own in parts(0.5), uri in option::weighted(0.8, parts(0.9)), (usual, end) in ways)| {
        let mut keys = own.keys(usual, end);
        keys.extend(uri.as_ref().map(|uri| ("uri".to_owned(), (uri.uri() + end).into_bytes())));
        let text = |of: fn(&Parts) -> &Option<String>| of(&own).clone().or_else(|| of(uri.as_ref()?).clone());
        let wanted = [
            ("host", text(|parts| &parts.host)),
            ("dbname", text(|parts| &parts.database)),
            ("username", text(|parts| &parts.user)),
            ("password", text(|parts| &parts.password)),
        ];
        let read = PostgresCredentials::parse(&keys);
        prop_assert!(!format!("{read:?}").contains(SECRET), "{:?}", read);
        match wanted.iter().find(|(_, text)| text.is_none()) {
            Some((lacks, _)) => {
                let told = read.map(drop).unwrap_err().to_string();
                prop_assert!(told.starts_with(&format!("no key {lacks}")) && !told.contains(SECRET), "{:?}: {}", keys, told);
                lacking.set(lacking.get() + 1);
            }
            None => {
                let login = read.map_err(|error| TestCaseError::fail(format!("{keys:?}: {error}")))?;
                let options = login.connect_options();
                prop_assert_eq!(options.get_host(), login.host.as_str());
                prop_assert_eq!(options.get_database(), Some(login.database.as_str()));
                let got = [login.host.as_str(), &login.database, &login.user, login.password.expose()].map(|text| Some(text.to_owned()));
                prop_assert_eq!(got, wanted.map(|(_, text)| text), "{:?}", keys);
                let port = own.port.or_else(|| uri.as_ref()?.port).unwrap_or(5432);
                let ssl = own.ssl.or_else(|| uri.as_ref()?.ssl).map_or(SslMode::Prefer, |(_, mode)| mode);
                prop_assert_eq!((login.port, login.ssl_mode), (port, ssl), "{:?}", keys);
                whole.set(whole.get() + 1);
            }
        }
    });
    assert!(
        whole.get() > 50 && lacking.get() > 50,
        "{whole:?} whole, {lacking:?} lacking"
    );
}

/// A Secret's keys, most of them what somebody took for the right thing.
fn mistaken() -> impl Strategy<Value = BTreeMap<String, Vec<u8>>> {
    let uri = prop_oneof![
        6 => broken(parts(0.99).prop_map(|parts| parts.uri())),
        2 => secretive().prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..40),
    ];
    let value = prop_oneof![
        2 => "\\PC{0,12}".prop_map(String::into_bytes),
        1 => secretive().prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..12),
    ];
    let names = vec![
        "host", "hostname", "port", "dbname", "database", "user", "username", "password", "sslmode", "pgpass",
    ];
    (uri, vec((select(names), value), 0..3)).prop_map(|(uri, others)| {
        let others = others.into_iter().map(|(name, value)| (name.to_owned(), value));
        others.chain([("uri".to_owned(), uri)]).collect()
    })
}

#[test]
fn a_mistaken_secret_gives_a_whole_login_or_none_and_nothing_of_it_is_told() {
    let (taken, refused) = (Cell::new(0), Cell::new(0));
    proptest!(cases(2_000), |(keys in mistaken())| {
        match PostgresCredentials::parse(&keys) {
            Ok(login) => {
                let texts = [login.host.as_str(), &login.database, &login.user, login.password.expose()];
                prop_assert!(texts.iter().all(|text| !text.is_empty()), "{:?}", keys);
                prop_assert!(texts.iter().all(|text| !text.contains('\0')), "{:?}", keys);
                prop_assert!(!login.host.contains([',', '/', '@']), "{:?}", keys);
                taken.set(taken.get() + 1);
            }
            Err(error) => {
                prop_assert!(!error.to_string().contains(SECRET), "{:?}: {}", keys, error);
                refused.set(refused.get() + 1);
            }
        }
    });
    assert!(
        taken.get() > 50 && refused.get() > 50,
        "{taken:?} taken, {refused:?} refused"
    );
}

#[test]
fn a_folder_of_a_secret_is_read_whatever_else_lies_in_it() {
    let runtime = runtime();
    proptest!(cases(100), |(keys in mistaken())| {
        let folder = tempfile::tempdir().unwrap();
        for (name, value) in &keys {
            std::fs::write(folder.path().join(name), value).unwrap();
        }
        std::fs::create_dir(folder.path().join("db")).unwrap();
        std::fs::write(folder.path().join("..data"), SECRET).unwrap();
        std::fs::write(folder.path().join(OsStr::from_bytes(b"\xff\n")), SECRET).unwrap();
        let mut read = runtime.block_on(secret_dir::read(folder.path())).unwrap();
        read.remove("\u{fffd}\n");
        prop_assert_eq!(&read, &keys);
        let login = runtime.block_on(Login::SecretDir(folder.path().to_owned()).connect_options());
        match (login, PostgresCredentials::parse(&keys)) {
            (Ok(options), Ok(login)) => prop_assert_eq!(options.get_username(), login.user.as_str()),
            (Err(told), Err(error)) => {
                prop_assert!(told.to_string().ends_with(&error.to_string()) && !told.to_string().contains(SECRET), "{}", told);
            }
            (folder, keys) => return Err(TestCaseError::fail(format!("{:?} and {keys:?}", folder.is_ok()))),
        }
    });
}
