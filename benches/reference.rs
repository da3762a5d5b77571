//! What stands beside the service: the least that axum can do for the same request. A process of its own, as the service is one.

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use axum::{Json, Router};
use serde::Deserialize;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use crate::support::postgres::execute;

/// The environment variable with the database of the handler that inserts.
pub const DATABASE_URL: &str = "BENCH_DATABASE_URL";
/// The environment variable with what the constant handler answers to a GET.
pub const COUNT: &str = "BENCH_COUNT";

/// As many sessions as the service has by default.
const SESSIONS: u32 = 10;
const RECORDED: &str = r#"{"status":"created","expires_at":"2026-01-31T12:00:00Z"}"#;

/// The one table of the handler that inserts: no counters, so that it does less than the service.
pub async fn prepare(database_url: &str) {
    execute(
        database_url,
        "CREATE TABLE pair (segment text NOT NULL, user_id text NOT NULL, expires_at timestamptz NOT NULL, PRIMARY KEY (segment, user_id))",
    )
    .await;
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pair {
    user_id: String,
    segment: String,
    observed_at: Option<String>,
    ttl_seconds: Option<i64>,
}

#[derive(Clone)]
struct Shared {
    pool: Option<PgPool>,
    count: Bytes,
}

/// Serves until it is killed.
pub async fn serve() {
    let pool = std::env::var(DATABASE_URL).ok().map(|url| {
        let sessions = PgPoolOptions::new()
            .max_connections(SESSIONS)
            .test_before_acquire(false);
        sessions.connect_lazy(&url).expect("the URL of our own database")
    });
    let count = std::env::var(COUNT).unwrap_or_default().into();
    let router = Router::new()
        .route("/constant", get(count_constant).post(parse))
        .route("/inserted", post(insert))
        .route("/one", get(select_one))
        .with_state(Shared { pool, count });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    println!("serving on http://{}", listener.local_addr().expect("an address"));
    let listener = listener.tap_io(|stream| stream.set_nodelay(true).expect("TCP_NODELAY"));
    axum::serve(listener, router).await.expect("a server");
}

async fn count_constant(State(shared): State<Shared>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], shared.count)
}

/// The least that a database can be asked.
async fn select_one(State(shared): State<Shared>) -> Response {
    let one = sqlx::query_scalar::<_, i32>("SELECT 1")
        .fetch_one(shared.pool.as_ref().expect("a database"))
        .await;
    match one {
        Ok(_) => ([(header::CONTENT_TYPE, "application/json")], shared.count).into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

async fn parse(Json(pair): Json<Pair>) -> Response {
    std::hint::black_box(&pair);
    recorded()
}

async fn insert(State(shared): State<Shared>, Json(pair): Json<Pair>) -> Response {
    let inserted = sqlx::query(
        "INSERT INTO pair (segment, user_id, expires_at)
         VALUES ($1, $2, coalesce($3::timestamptz, now()) + interval '1 second' * coalesce($4, 1209600))
         ON CONFLICT (segment, user_id) DO UPDATE SET expires_at = greatest(pair.expires_at, EXCLUDED.expires_at)",
    )
    .bind(pair.segment)
    .bind(pair.user_id)
    .bind(pair.observed_at)
    .bind(pair.ttl_seconds)
    .execute(shared.pool.as_ref().expect("a database"))
    .await;
    match inserted {
        Ok(_) => recorded(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

fn recorded() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], RECORDED).into_response()
}
