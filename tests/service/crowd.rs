//! More single pairs than two flushes hold, over a real socket: they are refused before their bodies are read, and nothing else is.

use std::time::Duration;

use futures_util::future::join_all;
use prometheus_client::registry::Registry;
use segment_counter::api::{self, Options, Tokens};
use segment_counter::runtime::http::{Limits, Listener};
use segment_counter::runtime::shutdown::Shutdown;
use segment_counter::service::ServiceConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::model::{ModelLedger, memory, start};

const FLUSH: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_pairs_beyond_two_flushes_are_refused_before_their_bodies_are_read() {
    let ledger = ModelLedger::new();
    ledger.record_door.close();
    let config = ServiceConfig {
        flush_pairs: FLUSH,
        ..ServiceConfig::default()
    };
    let service = start(&ledger, memory(), config);
    let shutdown = Shutdown::new();
    let listener = Listener::bind(([127, 0, 0, 1], 0).into(), Limits::default())
        .await
        .unwrap();
    let address = listener.address().unwrap();
    let options = Options::new(service, Tokens::open(), shutdown.clone());
    let routes = api::routes(options, &mut Registry::default());
    let server = tokio::spawn(listener.serve(routes, shutdown.clone()));

    let client = reqwest::Client::new();
    let url = format!("http://{address}/v1/pairs");
    let send = |user: usize| {
        let sent = client
            .post(&url)
            .header("content-type", "application/json")
            .body(format!(r#"{{"user_id":"{user}","segment":"s"}}"#))
            .send();
        async move { sent.await.unwrap().status().as_u16() }
    };
    // Who sends a header and no more takes nobody's place.
    let head = "POST /v1/pairs HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: 30\r\n\r\n";
    let mut half_sent = Vec::new();
    for _ in 0..3 * FLUSH {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(head.as_bytes()).await.unwrap();
        half_sent.push(socket);
    }
    sleep(Duration::from_millis(200)).await;
    let under_way: Vec<_> = (0..2 * FLUSH).map(|user| tokio::spawn(send(user))).collect();
    sleep(Duration::from_millis(500)).await;

    // Only a header: who waited for the body would not answer.
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 4_096];
    let read = timeout(Duration::from_secs(5), socket.read(&mut answer))
        .await
        .unwrap()
        .unwrap();
    let answer = String::from_utf8_lossy(&answer[..read]).to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 503 "), "{answer}");
    for part in ["retry-after: 1", "x-request-id: ", "problems/overloaded"] {
        assert!(answer.contains(part), "{part}: {answer}");
    }
    assert_eq!(send(99).await, 503);
    // Many at once have bounds of their own, and so have reads.
    let counted = client
        .get(format!("http://{address}/v1/segments/s/count"))
        .send()
        .await
        .unwrap();
    assert_ne!(counted.status(), 503);

    ledger.record_door.release();
    for status in join_all(under_way).await {
        assert_eq!(status.unwrap(), 200);
    }
    assert_eq!(send(99).await, 200);
    drop(half_sent);
    assert_eq!(ledger.members("s"), 2 * FLUSH + 1);
    shutdown.request();
    server.await.unwrap();
}

/// A client that asks again and again and takes none of its answers holds no connection for ever.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_none_of_its_answers_loses_its_connection() {
    let large = "x".repeat(4 * 1024 * 1024);
    let router = axum::Router::new().route("/", axum::routing::get(move || async move { large }));
    let limits = Limits {
        unread: Duration::from_secs(2),
        ..Limits::default()
    };
    let listener = Listener::bind(([127, 0, 0, 1], 0).into(), limits).await.unwrap();
    let address = listener.address().unwrap();
    let shutdown = Shutdown::new();
    let serving = tokio::spawn(listener.serve(router, shutdown.clone()));
    let mut client = TcpStream::connect(address).await.unwrap();
    for _ in 0..4 {
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    }
    sleep(Duration::from_secs(8)).await;
    // What had been sent comes, and then no end of an answer but the connection's.
    let mut read = Vec::new();
    let broken = client.read_to_end(&mut read).await;
    assert!(read.len() < 16 * 1024 * 1024, "all of the answers came");
    assert!(broken.is_err(), "{broken:?}, {} bytes", read.len());
    shutdown.request();
    timeout(Duration::from_secs(5), serving).await.unwrap().unwrap();
}
