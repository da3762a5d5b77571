//! A JSON array: judged as JSON first, so that a broken one records nothing; then each pair on its own account.

use std::fmt;

use axum::body::Body;
use axum::http::HeaderMap;
use serde::Deserializer as _;
use serde::de::{SeqAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::totals::{Place, Totals};
use crate::api::Api;
use crate::api::body;
use crate::api::json::clip;
use crate::api::pair;
use crate::api::problem::{Kind, Problem};

/// The most pairs of an array.
const MAX_ITEMS: usize = 10_000;
/// The largest array: 10,000 pairs of the longest names, with room for their times.
pub(crate) const MAX_BYTES: usize = 8 * 1024 * 1024;

/// Records every good pair of an array.
pub(super) async fn send(api: &Api, headers: &HeaderMap, body: Body) -> Result<Totals, Problem> {
    let whole = body::whole(headers, body, MAX_BYTES, api.bodies()).await?;
    let items = items(&whole.bytes, "pairs")?;
    let mut totals = Totals::default();
    let mut pairs = Vec::with_capacity(items.len());
    let mut places = Vec::with_capacity(items.len());
    for (index, item) in (0_u64..).zip(items) {
        match pair::parse(item.get().as_bytes(), api.rules()) {
            Ok(pair) => {
                pairs.push(pair);
                places.push(Place::Index(index));
            }
            Err(problem) => totals.invalid(Place::Index(index), problem),
        }
    }
    drop(whole);
    let recordings = api.service().record_many(pairs).await?;
    for (place, recording) in places.into_iter().zip(recordings) {
        totals.recorded(place, recording);
    }
    totals.sort();
    Ok(totals)
}

/// The items of an array of `what`, each as its text; counted while it is read, so that too many cost no more than the limit.
pub(crate) fn items<'a>(bytes: &'a [u8], what: &str) -> Result<Vec<&'a RawValue>, Problem> {
    match bytes.trim_ascii_start().first() {
        None => {
            let detail = format!("the body is empty, and a JSON array of {what} is needed");
            return Err(Problem::new(Kind::MalformedJson, detail));
        }
        Some(b'[') => {}
        Some(_) => {
            let hint = if what == "pairs" {
                "; send one pair to /v1/pairs, and lines as application/x-ndjson"
            } else {
                ""
            };
            return Err(Problem::invalid("", format!("a JSON array of {what} is needed{hint}")));
        }
    }
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    let read = parser
        .deserialize_seq(Items)
        .and_then(|items| parser.end().map(|()| items));
    read.map_err(|error| {
        if error.classify() == Category::Data {
            let detail = format!(
                "an array holds at most {MAX_ITEMS} {what}; nothing of it was taken: send it in parts, or pairs as a stream of application/x-ndjson"
            );
            return Problem::new(Kind::TooManyItems, detail);
        }
        let (line, column) = (error.line(), error.column());
        Problem::new(Kind::MalformedJson, clip(&error.to_string()))
            .with("line", line)
            .with("column", column)
    })
}

struct Items;

impl<'de> Visitor<'de> for Items {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of pairs")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element()? {
            if items.len() == MAX_ITEMS {
                return Err(serde::de::Error::custom("too many"));
            }
            items.push(item);
        }
        Ok(items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_is_split_and_counted() {
        assert_eq!(items(br#" [{"a":"]"}, 5 ,[1,2]]"#, "pairs").unwrap().len(), 3);
        assert!(items(b"[]", "pairs").unwrap().is_empty());
        let many = format!("[{}0]", "0,".repeat(MAX_ITEMS - 1));
        assert_eq!(items(many.as_bytes(), "pairs").unwrap().len(), MAX_ITEMS);
        let too_many = format!("[{}0]", "0,".repeat(MAX_ITEMS));
        assert_eq!(
            items(too_many.as_bytes(), "pairs").unwrap_err().kind,
            Kind::TooManyItems
        );
        for broken in ["[", "[1,]", "[1 2]", "[1]]", "[1", ""] {
            assert_eq!(
                items(broken.as_bytes(), "pairs").unwrap_err().kind,
                Kind::MalformedJson,
                "{broken}"
            );
        }
        assert_eq!(items(b"{}", "pairs").unwrap_err().kind, Kind::InvalidField);
    }
}
