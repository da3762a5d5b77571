//! What every binary needs: telemetry, shutdown, the health and metrics server, configuration, files that reload.
//!
//! Nothing here knows what is counted or reconciled; both binaries build on it.

pub mod config;
pub mod credentials;
pub mod health;
pub mod http;
pub mod secret_dir;
pub mod secrets;
pub mod shutdown;
pub mod telemetry;
