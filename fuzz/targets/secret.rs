//! The `uri` of a mounted Secret: a whole login, or none.
#![no_main]

use std::collections::BTreeMap;

use segment_counter::runtime::credentials::PostgresCredentials;

libfuzzer_sys::fuzz_target!(|uri: &[u8]| {
    let keys = BTreeMap::from([("uri".to_owned(), uri.to_vec())]);
    if let Ok(login) = PostgresCredentials::parse(&keys) {
        let texts = [
            login.host.as_str(),
            &login.database,
            &login.user,
            login.password.expose(),
        ];
        assert!(texts.iter().all(|text| !text.is_empty()));
        assert!(!login.host.contains([',', '/', '@']));
    }
});
