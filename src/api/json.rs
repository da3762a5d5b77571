//! JSON from clients: parsed where it lies, and when it is wrong, told where and which field.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::error::Category;

use super::problem::{Kind, Problem};

/// The most of a parser's text that is repeated: it may hold the client's own text.
const MAX_DETAIL: usize = 300;

/// Parses one JSON object that fills `bytes`.
///
/// The first parse knows nothing of paths, since nearly all objects are good; only a bad one is parsed again to find the field.
pub(crate) fn object<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Problem> {
    match bytes.trim_ascii_start().first() {
        None => {
            return Err(Problem::new(
                Kind::MalformedJson,
                "the body is empty, and a JSON object is needed",
            ));
        }
        // A derived struct would read itself from an array too.
        Some(b'[') => {
            return Err(Problem::new(Kind::InvalidField, "a JSON object is needed, and this is an array").at(""));
        }
        Some(_) => {}
    }
    serde_json::from_slice(bytes).map_err(|error| explain::<T>(bytes, &error))
}

fn explain<'a, T: Deserialize<'a>>(bytes: &'a [u8], error: &serde_json::Error) -> Problem {
    // A number that is too large for any type is JSON all the same; the parser calls it a mistake of syntax.
    let too_large = error.to_string().starts_with("number out of range");
    if error.classify() != Category::Data && !too_large {
        return Problem::new(Kind::MalformedJson, clip(&error.to_string()))
            .with("line", error.line())
            .with("column", error.column());
    }
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    let path = match serde_path_to_error::deserialize::<_, T>(&mut parser) {
        Err(error) => error.path().to_string(),
        Ok(_) => String::new(),
    };
    let text = error.to_string();
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
    let inside = match path.as_str() {
        "." | "?" => "",
        path => path,
    };
    let quoted = || clip(text.split('`').nth(1).unwrap_or_default());
    if text.starts_with("missing field") {
        let field = quoted();
        let detail = format!("the field {field} is missing");
        Problem::new(Kind::MissingField, detail).at(join(inside, &field))
    } else if text.starts_with("unknown field") {
        // The path ends in the unknown name already, and holds it whole where the text's own quotes would cut it.
        let known = text.rsplit_once(", expected ").map_or("none", |(_, known)| known);
        let field = if inside.is_empty() { quoted() } else { clip(inside) };
        let detail = format!("there is no field {field}; expected {}", known.replace('`', ""));
        Problem::new(Kind::UnknownField, clip(&detail)).at(field)
    } else if text.starts_with("duplicate field") {
        let field = quoted();
        Problem::invalid(join(inside, &field), "is given more than once")
    } else {
        Problem::invalid(inside.to_owned(), clip(text))
    }
}

fn join(parent: &str, field: &str) -> Cow<'static, str> {
    if parent.is_empty() || parent == field {
        field.to_owned().into()
    } else {
        format!("{parent}.{field}").into()
    }
}

/// At most [`MAX_DETAIL`] characters.
pub(crate) fn clip(text: &str) -> String {
    match text.char_indices().nth(MAX_DETAIL) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only parsed")]
    struct Sample<'a> {
        #[serde(borrow)]
        name: Cow<'a, str>,
        #[serde(borrow, default)]
        list: Vec<Cow<'a, str>>,
    }

    #[test]
    fn what_is_wrong_is_told_with_its_field() {
        let long = format!(r#"{{"name":["{}"]}}"#, "x".repeat(1000));
        for (text, kind, field) in [
            ("", Kind::MalformedJson, None),
            ("{", Kind::MalformedJson, None),
            (r#"{"name":"a"} x"#, Kind::MalformedJson, None),
            (r#"["a"]"#, Kind::InvalidField, Some("")),
            ("5", Kind::InvalidField, Some("")),
            ("null", Kind::InvalidField, Some("")),
            ("{}", Kind::MissingField, Some("name")),
            (r#"{"name":5}"#, Kind::InvalidField, Some("name")),
            (r#"{"name":null}"#, Kind::InvalidField, Some("name")),
            (r#"{"name":"a","nam":1}"#, Kind::UnknownField, Some("nam")),
            (r#"{"name":"a","n`a":1}"#, Kind::UnknownField, Some("n`a")),
            (r#"{"name":"a","list":1e400}"#, Kind::InvalidField, Some("list")),
            (r#"{"name":"a","name":"b"}"#, Kind::InvalidField, Some("name")),
            (r#"{"name":"a","list":["b",7]}"#, Kind::InvalidField, Some("list[1]")),
            (long.as_str(), Kind::InvalidField, Some("name")),
        ] {
            let problem = object::<Sample<'_>>(text.as_bytes()).unwrap_err();
            assert_eq!(
                (problem.kind, problem.field.as_deref()),
                (kind, field),
                "{text}: {}",
                problem.detail
            );
            assert!(problem.detail.len() < 400);
        }
    }

    #[test]
    fn text_without_escapes_is_borrowed() {
        let sample: Sample<'_> = object(br#"{"name":"plain"}"#).unwrap();
        assert!(matches!(sample.name, Cow::Borrowed("plain")));
    }
}
