//! A listener that serves a router within bounds: how many connections, how long a header may take, how large it may be; and that ends
//! gracefully. Used by the API and by the health server.
//!
//! axum's own `serve` has no bound on a client that never finishes its header, which is why this stands here.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::shutdown::Shutdown;

/// What one listener bears.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once; more wait in the kernel's queue.
    pub connections: usize,
    /// How long a request's header may take, and how long a kept connection may idle.
    pub header_timeout: Duration,
    /// The most bytes of a header, and of what is read ahead of a body.
    pub header_bytes: usize,
    /// The most header fields.
    pub header_fields: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4_096,
            header_timeout: Duration::from_secs(60),
            header_bytes: 32 * 1024,
            header_fields: 64,
        }
    }
}

/// A bound address, ready to serve.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    limits: Limits,
}

impl Listener {
    /// Binds `address`.
    ///
    /// # Errors
    /// What the system said: the address is in use, or may not be used.
    pub async fn bind(address: SocketAddr, limits: Limits) -> io::Result<Self> {
        Ok(Self {
            tcp: TcpListener::bind(address).await?,
            limits,
        })
    }

    /// The address it is bound to: tells the port where 0 was asked for.
    ///
    /// # Errors
    /// What the system said.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Serves until the end is requested; then takes nothing new, finishes what runs, and returns. The caller bounds how long that takes.
    pub async fn serve(self, router: Router, shutdown: Shutdown) {
        let Self { tcp, limits } = self;
        let slots = Arc::new(Semaphore::new(limits.connections));
        let connections = TaskTracker::new();
        loop {
            let accept = async {
                // The slot comes first: a connection that has none is better held in the kernel's queue than accepted and left alone.
                let slot = Arc::clone(&slots).acquire_owned().await;
                (slot, tcp.accept().await)
            };
            let (slot, accepted) = tokio::select! {
                accepted = accept => accepted,
                () = shutdown.requested() => break,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let connection = connection(stream, peer, router.clone(), limits, shutdown.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    // Out of file descriptors, most of the time: connections that end free them.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        drop(tcp);
        connections.close();
        connections.wait().await;
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, router: Router, limits: Limits, shutdown: Shutdown) {
    // Answers are small and somebody waits for each of them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    let service = tower::service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        let router = router.clone();
        async move { Ok::<_, Infallible>(router.oneshot(request).await.unwrap_or_else(|never| match never {})) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits.header_bytes)
        .max_headers(limits.header_fields);
    let mut serving = std::pin::pin!(http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)));
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = shutdown.requested() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}
