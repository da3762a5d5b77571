//! The written rules once more, by other means than the service's: what is a pair, a name, an instant. Slow and plain.

use serde_json::Value;

/// What the rules say of an input; where they leave it open both are right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Taken,
    Refused,
    Open,
}

use Verdict::{Open, Refused, Taken};

/// The most bytes of a pair, as a body and as a line.
pub const MAX_PAIR_BYTES: usize = 4_096;

/// An object of the four fields, each once, nothing else beside it.
pub fn pair(bytes: &[u8]) -> Verdict {
    let Some(fields) = object(bytes) else { return Refused };
    let mut verdict = Taken;
    for (index, (name, value)) in fields.iter().enumerate() {
        let twice = fields[..index].iter().any(|(other, _)| other == name);
        let field = match (name.as_str(), value) {
            _ if twice => Refused,
            ("user_id" | "segment", Value::String(text)) => taken(is_name(text)),
            ("observed_at" | "ttl_seconds", Value::Null) => Taken,
            ("observed_at", Value::String(text)) => instant(text),
            // Where nothing else is said, no window is longer than a year.
            ("ttl_seconds", Value::Number(number)) => {
                taken(number.as_i64().is_some_and(|ttl| (1..=31_536_000).contains(&ttl)))
            }
            _ => Refused,
        };
        verdict = match (verdict, field) {
            (Refused, _) | (_, Refused) => return Refused,
            (Open, _) | (_, Open) => Open,
            _ => Taken,
        };
    }
    let has = |name: &str| fields.iter().any(|(other, _)| other == name);
    if has("user_id") && has("segment") {
        verdict
    } else {
        Refused
    }
}

/// Who is to be taken out of which segment, where the rules take it: an object of the two names, each once, nothing else beside them.
pub fn removal(bytes: &[u8]) -> Option<(String, String)> {
    let fields = object(bytes)?;
    let name = |wanted: &str| match fields.iter().find(|(name, _)| name == wanted) {
        Some((_, Value::String(text))) if is_name(text) => Some(text.clone()),
        _ => None,
    };
    let (user, segment) = (name("user_id")?, name("segment")?);
    (fields.len() == 2).then_some((user, segment))
}

fn taken(good: bool) -> Verdict {
    if good { Taken } else { Refused }
}

/// The members of an object in their order, duplicates too.
fn object(bytes: &[u8]) -> Option<Vec<(String, Value)>> {
    struct Members;
    impl<'de> serde::de::Visitor<'de> for Members {
        type Value = Vec<(String, Value)>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some(member) = map.next_entry()? {
                members.push(member);
            }
            Ok(members)
        }
    }
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    let members = serde::Deserializer::deserialize_map(&mut parser, Members).ok()?;
    parser.end().ok()?;
    Some(members)
}

/// 1 to 128 bytes of UTF-8, no control character.
pub fn is_name(text: &str) -> bool {
    let control = |c: char| matches!(u32::from(c), 0..=0x1f | 0x7f..=0x9f);
    (1..=128).contains(&text.len()) && !text.chars().any(control)
}

/// RFC 3339: `YYYY-MM-DDThh:mm:ss`, perhaps a fraction, and an offset. A space or a small letter may stand for the T, a small z for the Z.
pub fn instant(text: &str) -> Verdict {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| -> Option<u32> {
        let digits = bytes.get(from..to)?;
        digits
            .iter()
            .all(u8::is_ascii_digit)
            .then(|| std::str::from_utf8(digits).unwrap().parse().unwrap())
    };
    let is = |at: usize, among: &[u8]| bytes.get(at).is_some_and(|byte| among.contains(byte));
    let marks = is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":");
    let parts = [(0, 4), (5, 7), (8, 10), (11, 13), (14, 16), (17, 19)].map(|(from, to)| number(from, to));
    let [
        Some(year),
        Some(month),
        Some(day),
        Some(hour),
        Some(minute),
        Some(second),
    ] = parts
    else {
        return Refused;
    };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + u32::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return Refused,
    };
    if !marks || !(1..=days).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return Refused;
    }
    let mut at = 19;
    let mut fraction = 0;
    if is(at, b".") {
        fraction = bytes[at + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if fraction == 0 {
            return Refused;
        }
        at += 1 + fraction;
    }
    let offset = if is(at, b"Zz") {
        at + 1 == bytes.len()
    } else {
        let (hours, minutes) = (number(at + 1, at + 3), number(at + 4, at + 6));
        is(at, b"+-")
            && is(at + 3, b":")
            && at + 6 == bytes.len()
            && hours < Some(24)
            && minutes < Some(60)
            && hours.is_some()
            && minutes.is_some()
    };
    match offset {
        false => Refused,
        // More than nanoseconds; and the last days that can be told.
        true if fraction > 9 || (year, month) == (9_999, 12) => Open,
        true => Taken,
    }
}

/// The text of percent-encoded bytes, where every escape is whole and the result is UTF-8.
pub fn decoded(raw: &[u8], plus_is_space: bool) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = raw;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match first {
            b'%' => {
                let digits = rest.get(..2)?;
                let digit = |byte: u8| char::from(byte).to_digit(16);
                bytes.push(u8::try_from(digit(digits[0])? * 16 + digit(digits[1])?).unwrap());
                rest = &rest[2..];
            }
            b'+' if plus_is_space => bytes.push(b' '),
            byte => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).ok()
}

#[test]
fn the_judge_knows_a_pair_when_it_sees_one() {
    for (text, verdict) in [
        (r#"{"user_id":"u","segment":"s"}"#, Taken),
        (
            r#" {"segment":"s","user_id":"\u00fc","ttl_seconds":null,"observed_at":"2026-01-31T12:00:00+01:00"} "#,
            Taken,
        ),
        (r#"{"user_id":"u","segment":"s","ttl_seconds":31536000}"#, Taken),
        (r#"{"user_id":"u","segment":"s","ttl_seconds":31536001}"#, Refused),
        (r#"{"user_id":"u","segment":"s","user_id":"u"}"#, Refused),
        (r#"{"user_id":"u","segment":"s"}}"#, Refused),
        (r#"{"user_id":"u","segment":"\u0085"}"#, Refused),
        (r#"["u","s"]"#, Refused),
        ("", Refused),
    ] {
        assert_eq!(pair(text.as_bytes()), verdict, "{text}");
    }
}

#[test]
fn the_judge_knows_a_removal_when_it_sees_one() {
    let good = Some(("ü".to_owned(), "s".to_owned()));
    assert_eq!(removal(br#" {"segment":"s", "user_id":"\u00fc"}"#), good);
    for bad in [
        r#"{"segment":"s"}"#,
        r#"{"segment":"s","user_id":""}"#,
        r#"{"segment":"s","user_id":7}"#,
        r#"{"segment":"s","user_id":"u","user_id":"u"}"#,
        r#"{"segment":"s","user_id":"u","observed_at":null}"#,
        r#"["u","s"]"#,
        "",
    ] {
        assert_eq!(removal(bad.as_bytes()), None, "{bad}");
    }
}
