//! What stands in a path or a query, with our own refusals in the place of axum's plain texts.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::problem::{Kind, Problem};
use crate::counting::{SegmentName, UserId};

/// What needs no encoding in a path's segment or a query's value.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The segment of a path, percent-decoded: `owner%2Frepo:dir` names `owner/repo:dir`.
pub(crate) struct InPath(pub(crate) SegmentName);

/// The user of a path.
pub(crate) struct UserInPath(pub(crate) UserId);

/// Segment and user of a path.
pub(crate) struct MemberInPath(pub(crate) SegmentName, pub(crate) UserId);

impl<S: Send + Sync> FromRequestParts<S> for InPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text = decoded::<String, S>(parts, state, "segment").await?;
        segment("segment", text).map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for UserInPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text = decoded::<String, S>(parts, state, "user").await?;
        user("user", text).map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for MemberInPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        // `…/{segment}/users/{user}`: where the first is well, it is the second.
        let first_is_well = parts.uri.path().rsplit('/').nth(2).is_some_and(is_utf8);
        let at_fault = if first_is_well { "user" } else { "segment" };
        let (of, who) = decoded::<(String, String), S>(parts, state, at_fault).await?;
        Ok(Self(segment("segment", of)?, user("user", who)?))
    }
}

async fn decoded<T, S>(parts: &mut Parts, state: &S, field: &'static str) -> Result<T, Problem>
where
    T: serde::de::DeserializeOwned + Send,
    S: Send + Sync,
{
    let malformed = || {
        let detail = format!("the {field} in the path is not percent-encoded UTF-8");
        Problem::new(Kind::MalformedPath, detail).at(field)
    };
    // Decoding leaves a broken escape as it stands, and the path would name what another one names properly.
    if !is_encoded(parts.uri.path()) {
        return Err(malformed());
    }
    let Path(text) = Path::<T>::from_request_parts(parts, state)
        .await
        .map_err(|_| malformed())?;
    Ok(text)
}

/// A request whose route has no parameters and whose query is empty: one that is given all the same is a mistake of the client's.
pub(crate) struct NoQuery;

impl<S: Send + Sync> FromRequestParts<S> for NoQuery {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        query(parts.uri.query(), []).map(|[]| Self)
    }
}

/// Whether a part of a path is percent-encoded UTF-8.
fn is_utf8(part: &str) -> bool {
    is_encoded(part) && percent_encoding::percent_decode_str(part).decode_utf8().is_ok()
}

/// Whether every `%` begins an escape.
pub(crate) fn is_encoded(text: &str) -> bool {
    text.split('%').skip(1).all(|after| {
        let digits = after.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}

/// A name as a path or a query carries it.
pub(crate) fn encoded(name: &SegmentName) -> String {
    utf8_percent_encode(name.as_str(), UNRESERVED).to_string()
}

/// A segment's name in `field`.
pub(crate) fn segment(field: &'static str, text: impl AsRef<str>) -> Result<SegmentName, Problem> {
    SegmentName::new(text).map_err(|error| Problem::invalid(field, error.to_string()))
}

/// A user's name in `field`.
pub(crate) fn user(field: &'static str, text: impl AsRef<str>) -> Result<UserId, Problem> {
    UserId::new(text).map_err(|error| Problem::invalid(field, error.to_string()))
}

/// The parameters of a query, of which only `known` ones may be there and each once; in the order of `known`.
pub(crate) fn query<const N: usize>(
    query: Option<&str>,
    known: [&'static str; N],
) -> Result<[Option<String>; N], Problem> {
    let mut values = [const { None }; N];
    for part in query.unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let Some(index) = known.iter().position(|known| *known == name) else {
            let known = if N == 0 { "none".to_owned() } else { known.join(", ") };
            let name = super::json::clip(name);
            let detail = format!("there is no parameter {name}; expected {known}");
            return Err(Problem::new(Kind::UnknownField, detail).at(name));
        };
        let decoded = percent_decode_str(&value.replace('+', " "))
            .decode_utf8()
            .map(|text| text.into_owned());
        let decoded = match decoded {
            Ok(text) if is_encoded(value) => text,
            _ => return Err(Problem::invalid(known[index], "is not percent-encoded UTF-8")),
        };
        if values[index].replace(decoded).is_some() {
            return Err(Problem::invalid(known[index], "is given more than once"));
        }
    }
    Ok(values)
}

/// A whole number of `field` within bounds.
pub(crate) fn number(field: &'static str, text: &str, least: u64, most: u64) -> Result<u64, Problem> {
    match text.parse::<u64>() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(Problem::invalid(
            field,
            format!("must be a whole number from {least} to {most}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_strictly() {
        let read = |text: &str| query(Some(text), ["a", "b"]);
        assert_eq!(
            read("b=x%2Fy+z&a=").unwrap(),
            [Some(String::new()), Some("x/y z".to_owned())]
        );
        assert_eq!(query(None, ["a"]).unwrap(), [None]);
        assert_eq!(read("c=1").unwrap_err().kind, Kind::UnknownField);
        assert_eq!(read("a=1&a=2").unwrap_err().field.as_deref(), Some("a"));
        for broken in ["a=%ff", "a=%", "a=%4", "a=%zz", "a=x%2"] {
            assert_eq!(read(broken).unwrap_err().kind, Kind::InvalidField, "{broken}");
        }
        let [] = query(Some(""), []).unwrap();
        assert_eq!(query(Some("a=1"), []).unwrap_err().field.as_deref(), Some("a"));
    }

    #[test]
    fn a_name_survives_its_encoding() {
        let name = SegmentName::new("owner/repo:dir &?#é").unwrap();
        let read = query(Some(&format!("after={}", encoded(&name))), ["after"]).unwrap();
        assert_eq!(read, [Some(name.as_str().to_owned())]);
    }
}
