//! The reconcile: observe → validate → build → apply → prune → status.

mod apply;
mod build;
mod controller;
#[cfg(test)]
mod conversations;
mod events;
#[cfg(test)]
mod fixtures;
mod leader;
mod login;
mod memory;
mod metrics;
mod observe;
mod observed;
mod prober;
mod prune;
mod run;
mod status;
mod trouble;
mod validate;

pub use run::{Options, RunError, run};
