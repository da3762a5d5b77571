//! Counts that memory can answer at once, in front of the router.
//!
//! Nearly all requests are such counts, and what the router, the extractors and the boxes around a route cost would be a good part of one. Whatever
//! is not plainly one of them (a query, a condition, a body, a wrong name, a count that must be fetched) is the router's, which answers
//! these the same way; so nothing is refused here.

use axum::http::{HeaderMap, Method, Request, header};
use axum::response::Response;
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;

use super::Api;
use super::counts;
use super::guard::Guard;
use super::name::is_encoded;
use crate::counting::SegmentName;

/// The route of [`counts::one`].
pub(crate) const ROUTE: &str = "/v1/segments/{segment}/count";
const BEFORE: &str = "/v1/segments/";
const AFTER: &str = "/count";

pub(crate) struct Hot {
    pub(crate) api: Api,
    /// The route's own.
    pub(crate) guard: Guard,
}

impl Hot {
    pub(crate) fn answer(&self, request: &Request<Incoming>) -> Option<Response> {
        if request.method() != Method::GET || request.uri().query().is_some() || !is_plain(request.headers()) {
            return None;
        }
        let name = name(request.uri().path())?;
        self.guard.at_once(request, |now| {
            let answer = self.api.service().count_at_once(&name, now)?;
            Some(counts::answered(&self.api, answer))
        })
    }
}

/// Nothing that would change the answer, and no body.
fn is_plain(headers: &HeaderMap) -> bool {
    // Looked through once, since a look-up hashes each name that is asked for.
    headers.keys().all(|name| {
        *name != header::IF_NONE_MATCH && *name != header::TRANSFER_ENCODING && *name != header::CONTENT_LENGTH
    })
}

fn name(path: &str) -> Option<SegmentName> {
    let encoded = path.strip_prefix(BEFORE)?.strip_suffix(AFTER)?;
    if encoded.contains('/') {
        return None;
    }
    // Most names have nothing to decode.
    if !encoded.contains('%') {
        return SegmentName::new(encoded).ok();
    }
    if !is_encoded(encoded) {
        return None;
    }
    SegmentName::new(percent_decode_str(encoded).decode_utf8().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_route_is_one_of_the_documented_ones() {
        assert_eq!(ROUTE, format!("{BEFORE}{{segment}}{AFTER}"));
        assert!(crate::api::openapi().paths.paths.contains_key(ROUTE));
    }

    #[test]
    fn only_a_well_encoded_name_between_the_two_ends_is_taken() {
        let taken = |path: &str| name(path).map(|name| name.as_str().to_owned());
        assert_eq!(taken("/v1/segments/a/count").as_deref(), Some("a"));
        assert_eq!(
            taken("/v1/segments/owner%2Frepo:dir/count").as_deref(),
            Some("owner/repo:dir")
        );
        for left in [
            "/v1/segments//count",
            "/v1/segments/a/b/count",
            "/v1/segments/a/count/",
            "/v1/segments/a",
            "/v1/segments/count",
            "/v1/segments/a%2/count",
            "/v1/segments/%ff/count",
            "/v1/segments/%00/count",
            "/v1/counts",
        ] {
            assert_eq!(taken(left), None, "{left}");
        }
    }
}
