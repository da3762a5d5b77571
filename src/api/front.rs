//! What is answered in front of the router: counts that memory knows, single pairs, and the refusal of those that are too many.
//!
//! A refusal must cost far less than what is refused, or a service that is offered more than it can take spends its time on saying no. So it comes
//! before the body is read, and before anything waits.

use axum::body::Body;
use axum::http::{Method, Request};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;

use super::Api;
use super::guard::Guard;
use super::hot::Hot;
use super::pairs;
use super::problem::Problem;
use crate::runtime::http::{Later, Shortcut};

/// The route of [`pairs::send`].
pub(crate) const PAIRS: &str = "/v1/pairs";

pub(crate) struct Front {
    pub(crate) hot: Hot,
    pub(crate) crowd: Crowd,
}

impl Shortcut for Front {
    fn answer(&self, request: &Request<Incoming>) -> Option<Response> {
        match *request.method() {
            Method::GET => self.hot.answer(request),
            Method::POST => self.crowd.refuse(request),
            _ => None,
        }
    }

    /// Whatever is not plainly a pair is the router's, which answers the same way.
    fn takes(&self, request: &Request<Incoming>) -> bool {
        request.method() == Method::POST && request.uri() == PAIRS
    }

    fn take(&self, request: Request<Incoming>) -> Later {
        let api = self.crowd.api.clone();
        self.crowd.guard.around(request, |request| async move {
            let (head, body) = request.into_parts();
            Ok(pairs::answer(&api, &head.headers, Body::new(body))
                .await
                .into_response())
        })
    }
}

/// Single pairs: refused while too many are being recorded. Whoever only sent a header is not counted: it would keep the others out.
pub(crate) struct Crowd {
    pub(crate) api: Api,
    /// The route's own.
    pub(crate) guard: Guard,
}

impl Crowd {
    fn refuse(&self, request: &Request<Incoming>) -> Option<Response> {
        if request.uri().path() != PAIRS {
            return None;
        }
        let refusal = self.api.service().admit_pair().err()?;
        self.guard
            .at_once(request, |_| Some(Problem::from(refusal).into_response()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_route_is_a_documented_one() {
        assert!(crate::api::openapi().paths.paths.contains_key(PAIRS));
    }
}
