//! A listener that serves a router within bounds: how many connections, how long a header may take, how large it may be; and that ends
//! gracefully. Used by the API and by the health server.
//!
//! axum's own `serve` has no bound on a client that never finishes its header, which is why this stands here.

mod patience;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use futures_util::future::{Either, ready};
use futures_util::stream::{FuturesUnordered, StreamExt};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
#[cfg(target_os = "linux")]
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use self::patience::Patience;
use super::shutdown::Shutdown;

/// How long, and how much, a connection that is refused is still read.
const LINGER: Duration = Duration::from_secs(2);
/// The same once the process ends: idle connections must not hold it up.
const LINGER_AT_END: Duration = Duration::from_millis(250);
const LINGER_BYTES: usize = 64 * 1024 * 1024;

/// What one listener bears.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once; more wait in the kernel's queue.
    pub connections: usize,
    /// How long a request's header may take, and how long a kept connection may idle.
    pub header_timeout: Duration,
    /// How long an answer may wait for a client that reads nothing of it. Told to the system, where it is Linux.
    pub unread: Duration,
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
            unread: Duration::from_secs(60),
            header_bytes: 32 * 1024,
            header_fields: 64,
        }
    }
}

/// What answers in front of a router.
pub trait Shortcut: Send + Sync + 'static {
    /// The answer to a request, where it needs no wait and no body; `None` leaves it to the router.
    fn answer(&self, request: &Request<Incoming>) -> Option<Response>;

    /// Whether it is one of a route that is asked so often that the way through the router would be a good part of its answer.
    fn takes(&self, request: &Request<Incoming>) -> bool;

    /// The answer to such a request.
    fn take(&self, request: Request<Incoming>) -> Later;
}

/// An answer that is waited for.
pub type Later = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

/// What a listener serves.
#[derive(Clone)]
pub struct Routes {
    router: Router,
    shortcut: Option<Arc<dyn Shortcut>>,
}

impl Routes {
    /// A router, and what answers in front of it.
    #[must_use]
    pub fn new(router: Router, shortcut: Option<Arc<dyn Shortcut>>) -> Self {
        Self { router, shortcut }
    }

    /// The router alone, which answers everything that what stands in front of it would.
    pub fn into_router(self) -> Router {
        self.router
    }
}

impl From<Router> for Routes {
    fn from(router: Router) -> Self {
        Self::new(router, None)
    }
}

/// As many may wait to be accepted as are served: a crowd that comes at once would otherwise be dropped by the system, and come again seconds later.
///
/// What was sent and is not acknowledged, or waits for room at a client that reads nothing, ends the connection: hyper watches only what it reads, and would
/// keep one for ever that asks and does not take its answers. Every connection has that from its listener.
fn listen(address: SocketAddr, limits: Limits) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // A port that was served a moment ago is free.
    socket.set_reuseaddr(true)?;
    #[cfg(target_os = "linux")]
    if let Err(error) = SockRef::from(&socket).set_tcp_user_timeout(Some(limits.unread)) {
        tracing::warn!(%error, "clients that read nothing of their answers keep their connections: the system takes no TCP_USER_TIMEOUT");
    }
    socket.bind(address)?;
    socket.listen(u32::try_from(limits.connections).unwrap_or(u32::MAX))
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
            tcp: listen(address, limits)?,
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
    pub async fn serve(self, routes: impl Into<Routes>, shutdown: Shutdown) {
        let Self { tcp, limits } = self;
        let routes = routes.into();
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
                Ok((stream, _)) => {
                    let connection = connection(stream, routes.clone(), limits, shutdown.clone());
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

async fn connection(stream: TcpStream, routes: Routes, limits: Limits, shutdown: Shutdown) {
    // Answers are small and somebody waits for each of them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let answer = routes.shortcut.as_ref().and_then(|shortcut| shortcut.answer(&request));
        if let Some(response) = answer {
            return Either::Left(ready(Ok(response)));
        }
        // Boxed, since hyper gives the stream back only of a service whose future may be moved.
        Either::Right(match &routes.shortcut {
            Some(shortcut) if shortcut.takes(&request) => shortcut.take(request),
            _ => Box::pin(routes.router.clone().oneshot(request.map(Body::new))),
        })
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(Patience::default())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits.header_bytes)
        .max_headers(limits.header_fields);
    let mut serving = http.serve_connection(TokioIo::new(stream), service);
    // Asked only when it woke the task: each look at a token takes a lock that all connections share, and this is polled for every request.
    let mut shutting_down = FuturesUnordered::from_iter([shutdown.requested()]);
    let mut told = false;
    let ended = std::future::poll_fn(|context| {
        if !told && shutting_down.poll_next_unpin(context).is_ready() {
            told = true;
            Pin::new(&mut serving).graceful_shutdown();
        }
        serving.poll_without_shutdown(context)
    })
    .await;
    match ended {
        Ok(()) => {
            let patience = if told { LINGER_AT_END } else { LINGER };
            linger(serving.into_parts().io.into_inner(), patience).await;
        }
        Err(error) => tracing::debug!(%error, "a connection broke"),
    }
}

/// Closes a connection so that its last answer arrives. A client that is refused in the middle of its body is still sending; to close at
/// once would answer it with a reset, and the reset would throw the refusal away. So: the end of ours first, then what it still sends is read
/// and dropped, for a while.
async fn linger(mut stream: TcpStream, patience: Duration) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut dropped = vec![0; 16 * 1024];
    let rest = async {
        let mut bytes = 0;
        while bytes < LINGER_BYTES {
            match stream.read(&mut dropped).await {
                Ok(0) | Err(_) => return,
                Ok(more) => bytes += more,
            }
        }
    };
    // Either way the connection ends here.
    let _ = tokio::time::timeout(patience, rest).await;
}
