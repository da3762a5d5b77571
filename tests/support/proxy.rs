//! A small TCP proxy for tests, in front of a server that shall seem to fail: it forwards, cuts, or swallows what is sent.
//!
//! It runs on a thread of its own, so that a test that blocks does not hold it up.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use tokio::io::{AsyncRead, AsyncReadExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What happens to connections, old and new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Everything passes.
    Forward,
    /// Every connection is closed at once.
    Cut,
    /// Whatever is sent is swallowed, no answer comes, nobody is told.
    BlackHole,
}

/// A proxy in front of one address.
pub struct Proxy {
    address: SocketAddr,
    target: String,
    mode: watch::Sender<Mode>,
    accepted: Arc<AtomicU64>,
    end: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Forwards to the server of a URL such as `postgres://user:secret@127.0.0.1:5432/db` or `redis://127.0.0.1:6379`.
    pub fn in_front_of(url: &str) -> Self {
        let target = authority(url).to_owned();
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        let (mode, seen) = watch::channel(Mode::Forward);
        let (end, accepted) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
        let (ended, count, goal) = (end.clone(), Arc::clone(&accepted), target.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(socket).unwrap();
                tokio::select! {
                    () = ended.cancelled() => {}
                    () = accept(listener, goal, seen, count) => {}
                }
            });
        });
        Self {
            address,
            target,
            mode,
            accepted,
            end,
            thread: Some(thread),
        }
    }

    /// The same URL with the proxy in the server's place.
    pub fn url(&self, of: &str) -> String {
        assert_eq!(authority(of), self.target, "another server's URL");
        of.replacen(&self.target, &self.address.to_string(), 1)
    }

    /// Closes every connection, and every new one at once, until [`Proxy::heal`].
    pub fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
    }

    /// Swallows everything on old and new connections until [`Proxy::heal`]; those that were caught never answer again, as if the machine
    /// behind them had gone and another one had come in its place.
    pub fn black_hole(&self) {
        self.mode.send_replace(Mode::BlackHole);
    }

    /// Forwards new connections again.
    pub fn heal(&self) {
        self.mode.send_replace(Mode::Forward);
    }

    /// How many connections were ever made to it.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.end.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// `host:port` of a URL.
fn authority(url: &str) -> &str {
    let (_, rest) = url.split_once("://").expect("a URL");
    let rest = rest.split(['/', '?']).next().unwrap();
    rest.rsplit_once('@').map_or(rest, |(_, authority)| authority)
}

async fn accept(listener: TcpListener, target: String, mode: watch::Receiver<Mode>, accepted: Arc<AtomicU64>) {
    loop {
        if let Ok((client, _)) = listener.accept().await {
            accepted.fetch_add(1, Ordering::SeqCst);
            let _ = client.set_nodelay(true);
            tokio::spawn(carry(client, target.clone(), mode.clone()));
        }
    }
}

/// One connection, to its end. Returning closes both sides.
async fn carry(mut client: TcpStream, target: String, mut mode: watch::Receiver<Mode>) {
    let now = *mode.borrow_and_update();
    match now {
        Mode::Cut => return,
        Mode::BlackHole => return swallow(&mut client).await,
        Mode::Forward => {}
    }
    let Ok(mut server) = TcpStream::connect(target).await else {
        return;
    };
    let _ = server.set_nodelay(true);
    let changed = async { mode.wait_for(|mode| *mode != Mode::Forward).await.map(|mode| *mode) };
    let found = tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => return,
        found = changed => found,
    };
    if matches!(found, Ok(Mode::BlackHole)) {
        // The server keeps its side while the hole is there, as it would: it has no way to know.
        let healed = mode.wait_for(|mode| *mode != Mode::BlackHole);
        tokio::select! {
            () = swallow(&mut client) => return,
            () = swallow(&mut server) => {}
            _ = healed => {}
        }
        drop(server);
        swallow(&mut client).await;
    }
}

/// Reads until the other side gives up.
async fn swallow(from: &mut (impl AsyncRead + Unpin)) {
    let mut bytes = [0; 4_096];
    while from.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
}
