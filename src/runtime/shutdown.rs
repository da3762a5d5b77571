//! How a process ends: a signal, then unready, then nothing new is taken, then what was taken is finished, then exit.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// The end of the process, seen by everything that must take part in it. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
}

impl Shutdown {
    /// An end that only [`Shutdown::request`] brings: for tests.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An end that SIGTERM or SIGINT brings. A second signal ends the process at once.
    ///
    /// # Errors
    /// The signals could not be listened to.
    pub fn on_signals() -> io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = Self::new();
        let requested = shutdown.clone();
        tokio::spawn(async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!(signal = name, "shutting down");
            requested.request();
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::warn!("a second signal: ending at once");
            std::process::exit(130);
        });
        Ok(shutdown)
    }

    /// Begins the end.
    pub fn request(&self) {
        self.token.cancel();
    }

    /// Whether the end has begun.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until the end begins.
    pub fn requested(&self) -> WaitForCancellationFuture<'_> {
        self.token.cancelled()
    }

    /// The token itself, for what takes one.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }
}
