//! `/openapi.json`, and `/docs` for people: both from the routes' own documentation.

use std::fmt::Write as _;

use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use serde_json::Value;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, Paths, Ref, RefOr,
    Response as ApiResponse, ResponseBuilder,
};

use super::Api;

/// Both documents, made once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Documents {
    json: Bytes,
    page: Bytes,
}

impl Documents {
    pub(crate) fn of(openapi: &OpenApi) -> Self {
        let value = serde_json::to_value(openapi).unwrap_or_default();
        Self {
            json: Bytes::from(value.to_string()),
            page: Bytes::from(page(&value)),
        }
    }
}

/// The document before any route.
pub(crate) fn head() -> OpenApi {
    let token = SecurityScheme::Http(
        HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("A token of the tokens file. Scopes: pairs:write, counts:read, users:read, users:erase, admin. Where the server has no tokens, pairs and counts are open."))
            .build(),
    );
    let tag = |name: &str, text: &str| TagBuilder::new().name(name).description(Some(text)).build();
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Segment Counter")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some("How many users are in a segment right now, exactly."))
                .license(Some(
                    LicenseBuilder::new()
                        .name("Apache-2.0")
                        .identifier(Some("Apache-2.0"))
                        .build(),
                ))
                .build(),
        )
        .tags(Some([
            tag("pairs", "Users seen in segments"),
            tag("counts", "How many users are in a segment"),
            tag("segments", "What segments there are, and their windows"),
            tag("removals", "Taking users out of segments, and erasing them"),
            tag("admin", "Jobs and status"),
            tag("documents", "What there is"),
        ]))
        .components(Some(ComponentsBuilder::new().security_scheme("token", token).build()))
        .build()
}

/// What any operation may answer beside its own: what the layers around it refuse, and what reading a path, a query or a body does.
/// Written once, so that no route can forget one.
pub(crate) fn complete(paths: &mut Paths) {
    let guarded = [
        (StatusCode::UNAUTHORIZED, "The token is missing or not known"),
        (StatusCode::FORBIDDEN, "The token lacks the scope"),
        (
            StatusCode::UNPROCESSABLE_ENTITY,
            "A parameter is not known or cannot be",
        ),
        (StatusCode::INTERNAL_SERVER_ERROR, "A defect; please report it"),
    ];
    let named = [(StatusCode::BAD_REQUEST, "The path cannot be decoded")];
    let reading = [
        (StatusCode::BAD_REQUEST, "The body cannot be read"),
        (StatusCode::REQUEST_TIMEOUT, "The rest of the body did not come"),
        (StatusCode::PAYLOAD_TOO_LARGE, "The body is too large"),
        (
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "The body is of another type or encoding",
        ),
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "Not taken; send it again after Retry-After",
        ),
    ];
    for (path, item) in &mut paths.paths {
        for operation in [&mut item.get, &mut item.put, &mut item.post, &mut item.delete]
            .into_iter()
            .flatten()
        {
            let mut more = Vec::new();
            if path.starts_with("/v1/") {
                more.extend(guarded);
            }
            if path.contains('{') {
                more.extend(named);
            }
            if operation.request_body.is_some() {
                more.extend(reading);
            }
            for (status, description) in more {
                let responses = &mut operation.responses.responses;
                responses
                    .entry(status.as_str().to_owned())
                    .or_insert_with(|| RefOr::T(problem(description)));
            }
        }
    }
}

fn problem(description: &str) -> ApiResponse {
    let schema = Ref::from_schema_name("Problem");
    ResponseBuilder::new()
        .description(description)
        .content(
            "application/problem+json",
            ContentBuilder::new().schema(Some(schema)).build(),
        )
        .build()
}

/// This document
#[utoipa::path(get, path = "/openapi.json", tag = "documents", operation_id = "getOpenApi", security(()),
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json")))]
pub(crate) async fn openapi_json(State(api): State<Api>) -> Response {
    answer(&api.documents().json, HeaderValue::from_static("application/json"))
}

/// The same for people
#[utoipa::path(get, path = "/docs", tag = "documents", operation_id = "getDocs", security(()),
    responses((status = 200, description = "A page", content_type = "text/html")))]
pub(crate) async fn docs(State(api): State<Api>) -> Response {
    answer(
        &api.documents().page,
        HeaderValue::from_static("text/html; charset=utf-8"),
    )
}

fn answer(body: &Bytes, media_type: HeaderValue) -> Response {
    /// The page needs nothing from anywhere, so nothing is allowed.
    const POLICY: HeaderValue = HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'");
    const NO_SNIFFING: (HeaderName, HeaderValue) =
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let mut response = Response::new(axum::body::Body::from(body.clone()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, media_type);
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(NO_SNIFFING.0, NO_SNIFFING.1);
    response
}

fn page(document: &Value) -> String {
    let mut text = String::from(concat!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">",
        "<title>Segment Counter</title><style>",
        "body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}",
        "code,pre{font-family:ui-monospace,monospace;font-size:.9em}h2{margin-top:2.5rem;border-bottom:1px solid #ccc}",
        "h3{margin-bottom:.2rem}table{border-collapse:collapse;margin:.5rem 0}td{padding:.1rem .8rem .1rem 0;vertical-align:top}",
        ".m{display:inline-block;min-width:3.2rem;font-weight:700}pre{overflow:auto;background:#f4f4f4;padding:.6rem}",
        "@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}pre{background:#242424}}</style>",
    ));
    let _ = write!(
        text,
        "<h1>Segment Counter {}</h1>",
        string(&document["info"], "version")
    );
    let _ = write!(
        text,
        "<p>{} The same for machines: <a href=\"/openapi.json\">OpenAPI 3.1</a>.</p>",
        string(&document["info"], "description")
    );
    text.push_str(concat!(
        "<pre>curl -X POST localhost:8080/v1/pairs -H 'content-type: application/json' \\\n",
        "  -d '{\"user_id\":\"u-1\",\"segment\":\"shop/checkout\"}'\n",
        "curl localhost:8080/v1/segments/shop%2Fcheckout/count</pre>",
    ));
    for tag in array(&document["tags"]) {
        let name = tag["name"].as_str().unwrap_or_default();
        let _ = write!(text, "<h2>{}</h2>", string(tag, "description"));
        for (path, item) in document["paths"].as_object().into_iter().flatten() {
            for (method, operation) in item.as_object().into_iter().flatten() {
                if array(&operation["tags"]).iter().any(|one| one == name) {
                    operation_text(&mut text, method, path, operation);
                }
            }
        }
    }
    text
}

fn operation_text(text: &mut String, method: &str, path: &str, operation: &Value) {
    let _ = write!(
        text,
        "<h3><span class=m>{}</span> <code>{}</code></h3>",
        escape(&method.to_uppercase()),
        escape(path)
    );
    let _ = write!(
        text,
        "<p><b>{}.</b> {}</p><table>",
        string(operation, "summary"),
        string(operation, "description")
    );
    for parameter in array(&operation["parameters"]) {
        let _ = write!(
            text,
            "<tr><td><code>{}</code><td>{} ({})",
            string(parameter, "name"),
            string(parameter, "description"),
            string(parameter, "in")
        );
    }
    for (status, response) in operation["responses"].as_object().into_iter().flatten() {
        let _ = write!(
            text,
            "<tr><td>{}<td>{}",
            escape(status),
            string(response, "description")
        );
    }
    let scope = operation["security"][0]["token"][0].as_str();
    let _ = write!(
        text,
        "</table><p>Scope: {}</p>",
        scope.map_or("none".to_owned(), |scope| format!("<code>{}</code>", escape(scope)))
    );
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn string(value: &Value, member: &str) -> String {
    escape(value[member].as_str().unwrap_or_default())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
