//! Inputs that are nearly right: good pairs, good pairs with a wrong value, and either with bytes put in, taken out or turned.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// A name, mostly good; few of them, so that pairs meet.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        24 => "[a-c]{1,2}",
        2 => "\\PC{1,12}",
        1 => Just("x".repeat(128)),
        1 => Just("x".repeat(129)),
        1 => Just("é".repeat(64)),
        1 => Just("🦀".repeat(33)),
        1 => any::<char>().prop_map(|c| format!("a{c}")),
        1 => select(vec!["", "\0", "a\u{7f}", "\u{85}", "\u{feff}", "\u{2028}", "..", "%", "a/b"]).prop_map(str::to_owned),
    ]
}

/// A text as JSON: as usual, or every character escaped, or broken.
fn string(text: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    (text, 0..24_u8).prop_map(|(text, how)| match how {
        0 => {
            let units: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
            format!("\"{units}\"")
        }
        1 => format!("\"{text}\""),
        2 => format!("\"{text}\\ud83d\""),
        _ => serde_json::to_string(&text).unwrap(),
    })
}

fn instant() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => select(vec![
            "2026-01-31T12:00:00Z",
            "2001-02-29T00:00:00Z",
            "2000-02-29T23:59:59.999999999-23:59",
            "2026-01-31 12:00:00z",
            "1990-12-31T23:59:60Z",
            "2026-01-31T12:00:61Z",
            "2026-01-31T12Z",
            "2026-01-31T12:00Z",
            "20260131T120000Z",
            "2026-01-31T12:00:00,5Z",
            "2026-01-31T12:00:00.Z",
            "2026-01-31T12:00:00+0100",
            "2026-01-31T12:00:00+01",
            "2026-01-31T12:00:00+24:00",
            "2026-01-31T12:00:00+01:00:30",
            "2026-01-31T12:00:00Z[Europe/Berlin]",
            "2026-01-31T12:00:00+01:00[u-ca=hebrew]",
            "+002026-01-31T12:00:00Z",
            "-000001-01-31T12:00:00Z",
            "2026-W05-6T12:00:00Z",
            "2026-031T12:00:00Z",
        ]).prop_map(str::to_owned),
        3 => (0..10_000_u32, 0..14_u32, 0..33_u32, 0..25_u32, 0..61_u32, 0..62_u32, "(\\.[0-9]{1,10})?", "Z|z|[+-][0-2][0-9]:[0-6][0-9]")
            .prop_map(|(y, mo, d, h, mi, s, fraction, offset)| format!("{y:04}-{mo:02}-{d:02}T{h:02}:{mi:02}:{s:02}{fraction}{offset}")),
        1 => "\\PC{0,24}",
    ]
}

fn ttl() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => (1..1_000_000_i64).prop_map(|ttl| ttl.to_string()),
        2 => any::<i64>().prop_map(|ttl| ttl.to_string()),
        2 => select(vec!["0", "-0", "1", "31536000", "31536001", "1000000000", "1000000001", "1.0", "1e2", "01", "+1", "1e400", "18446744073709551616", "null", "\"60\"", "NaN"])
            .prop_map(str::to_owned),
    ]
}

/// Any JSON, and some that is none.
pub fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        select(vec!["null", "true", "0", "-1.5e3", "\"\"", "{}", "[]", "nul", "'a'"]).prop_map(str::to_owned),
        string(name()),
    ];
    leaf.prop_recursive(4, 16, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(|items| format!("[{}]", items.join(","))),
            (string(name()), inner).prop_map(|(key, value)| format!("{{{key}:{value}}}")),
        ]
    })
}

/// A field of a pair: nearly always one of the four with a value of its kind.
fn field() -> impl Strategy<Value = String> {
    prop_oneof![
        5 => string(instant()).prop_map(|at| format!("\"observed_at\":{at}")),
        5 => ttl().prop_map(|ttl| format!("\"ttl_seconds\":{ttl}")),
        1 => string(name()).prop_map(|name| format!("\"user_id\":{name}")),
        1 => (string(name()), value()).prop_map(|(key, value)| format!("{key}:{value}")),
        1 => (select(vec!["user_id", "segment", "observed_at", "ttl_seconds", "userId"]), value())
            .prop_map(|(key, value)| format!("\"{key}\":{value}")),
    ]
}

/// A pair, mostly good, without a line end in it.
pub fn pair() -> impl Strategy<Value = String> {
    let names = (string(name()), string(name()));
    let members = (
        names,
        prop_oneof![2 => Just(vec![]), 3 => vec(field(), 1..3)],
        any::<Index>(),
        any::<bool>(),
    );
    members
        .prop_map(|((user, segment), mut members, place, spaced)| {
            let place = place.index(members.len() + 1);
            members.insert(place, format!("\"user_id\":{user}"));
            members.push(format!("\"segment\":{segment}"));
            let comma = if spaced { " ,\t" } else { "," };
            format!("{{{}}}", members.join(comma))
        })
        .prop_map(|text| text.replace('\n', " "))
}

/// A removal, mostly good: the two names, sometimes with a field too many.
pub fn removal() -> impl Strategy<Value = String> {
    let more = prop_oneof![12 => Just(vec![]), 1 => vec(field(), 1..2)];
    (string(name()), string(name()), more, any::<bool>()).prop_map(|(user, segment, more, turned)| {
        let mut members = vec![format!("\"user_id\":{user}"), format!("\"segment\":{segment}")];
        members.extend(more);
        if turned {
            members.reverse();
        }
        format!("{{{}}}", members.join(", "))
    })
}

/// A text with some bytes put in, taken out or turned.
pub fn broken(good: impl Strategy<Value = String>) -> impl Strategy<Value = Vec<u8>> {
    let slip = (
        any::<Index>(),
        0..6_u8,
        any::<u8>(),
        select(b"{}[]\",:\\/ \r\te0-.u%".to_vec()),
    );
    (good, vec(slip, 1..4)).prop_map(|(text, slips)| {
        let mut bytes = text.into_bytes();
        for (place, how, byte, mark) in slips {
            if bytes.is_empty() {
                break;
            }
            let at = place.index(bytes.len());
            match how {
                0 => drop(bytes.remove(at)),
                1 => bytes.truncate(at),
                2 => bytes.insert(at, mark),
                3 => bytes[at] = mark,
                4 => bytes[at] = byte,
                _ => {
                    let tail = bytes[at..].to_vec();
                    bytes.extend(tail);
                }
            }
        }
        bytes
    })
}

/// Whatever may stand where a pair should.
pub fn item() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => pair().prop_map(String::into_bytes),
        4 => broken(pair()),
        1 => value().prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..40),
    ]
}

/// Bytes in pieces that are cut anywhere, some of them empty.
pub fn pieces(bytes: &[u8], cuts: &[Index]) -> Vec<Bytes> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2)
        .map(|cut| Bytes::copy_from_slice(&bytes[cut[0]..cut[1]]))
        .collect()
}
