//! Exact counts of the users in a segment, at memory speed: the service, and the Kubernetes operator that runs it.
//!
//! Data goes one way. A pair: [`api`] → [`service`] → [`ledger`] → (committed) → [`cache`] told → answer. A count: [`api`] →
//! [`service`] → [`cache`] → [`ledger`] on a miss. An object: [`operator`] observe → validate → build → apply → prune → status.
//! [`counting`] and [`crd`] know nobody; [`ledger`] and [`cache`] know only [`counting`]; nothing knows the binaries.

pub mod api;
pub mod cache;
pub mod commands;
pub mod counting;
pub mod crd;
pub mod ledger;
pub mod operator;
pub mod runtime;
pub mod service;
