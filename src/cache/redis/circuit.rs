//! Whether a node may be asked now: closed, open until an instant, or half open while one probe tries. Pure but for the monotonic clock.

use std::time::Duration;

use tokio::time::Instant;

use super::super::CacheError;

/// The pause after a first failure; doubled by each further one up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// How soon, at the latest, a node that is back is noticed by those who ask for it.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The state of a node's circuit.
#[derive(Debug)]
pub(super) enum Circuit<C> {
    /// Never connected: the first to come connects, and the others wait for that.
    Unused,
    /// Connected.
    Closed(C),
    /// Failed: asked again after `until`, by one probe.
    Open {
        error: CacheError,
        until: Instant,
        pause: Duration,
    },
    /// Failed, and a probe is under way.
    Probing { error: CacheError, pause: Duration },
}

/// What a caller may do.
pub(super) enum Gate<C> {
    Use(C),
    Connect,
    /// Fail with this error at once; where `probe`, start the probe first.
    Refuse {
        error: CacheError,
        probe: bool,
    },
}

impl<C: Clone> Circuit<C> {
    pub(super) fn enter(&mut self) -> Gate<C> {
        match self {
            Self::Unused => Gate::Connect,
            Self::Closed(connection) => Gate::Use(connection.clone()),
            Self::Probing { error, .. } => Gate::Refuse {
                error: error.clone(),
                probe: false,
            },
            Self::Open { error, until, pause } => {
                let (error, pause) = (error.clone(), *pause);
                let probe = Instant::now() >= *until;
                if probe {
                    *self = Self::Probing {
                        error: error.clone(),
                        pause,
                    };
                }
                Gate::Refuse { error, probe }
            }
        }
    }

    /// A connection attempt ended.
    pub(super) fn connected(&mut self, attempt: Result<C, CacheError>) {
        match attempt {
            Ok(connection) => *self = Self::Closed(connection),
            Err(error) => {
                let pause = match self {
                    Self::Probing { pause, .. } => (*pause * 2).min(LONGEST_PAUSE),
                    _ => FIRST_PAUSE,
                };
                *self = Self::Open {
                    error,
                    until: Instant::now() + pause,
                    pause,
                };
            }
        }
    }

    /// A connection that was in use broke: the next caller probes at once, as the node may only have restarted.
    pub(super) fn broke(&mut self, error: CacheError) {
        *self = Self::Open {
            error,
            until: Instant::now(),
            pause: FIRST_PAUSE,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn away() -> CacheError {
        CacheError::Unreachable("n".to_owned())
    }

    fn refuses(circuit: &mut Circuit<u8>, probing: bool) {
        match circuit.enter() {
            Gate::Refuse { probe, .. } => assert_eq!(probe, probing),
            _ => panic!("the circuit let a call through"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_probe_at_a_time_and_longer_pauses_between_them() {
        let mut circuit = Circuit::Closed(7_u8);
        circuit.broke(away());
        refuses(&mut circuit, true);
        refuses(&mut circuit, false);
        for pause in [100, 200, 400, 800, 1_000, 1_000] {
            circuit.connected(Err(away()));
            tokio::time::advance(Duration::from_millis(pause - 1)).await;
            refuses(&mut circuit, false);
            tokio::time::advance(Duration::from_millis(1)).await;
            refuses(&mut circuit, true);
        }
        circuit.connected(Ok(8));
        assert!(matches!(circuit.enter(), Gate::Use(8)));
    }
}
