//! HTTP: one file a resource, problem details, OpenAPI, tokens.
