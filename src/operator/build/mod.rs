//! What an object becomes: a pure function from what was proven to the children, one file a kind.
//!
//! The same input gives the same bytes, and nothing here can fail, ask or look at a clock: what may be wrong was found by `validate`.

mod account;
mod api;
mod common;
mod config;
mod jobs;
mod redis;
mod service;
#[cfg(test)]
mod tests;

use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    batch::v1::{CronJob, Job},
    core::v1::{ConfigMap, Secret, Service, ServiceAccount},
    policy::v1::PodDisruptionBudget,
};

use super::validate::Validated;

/// The children, in the order in which they are applied.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Children {
    /// Whom the pods run as: without any right, and without a token.
    pub(crate) service_account: ServiceAccount,
    /// The cache's password: created if absent, never overwritten.
    pub(crate) redis_secret: Option<Secret>,
    /// The settings of the API and its jobs.
    pub(crate) config_map: ConfigMap,
    /// How the API is reached.
    pub(crate) api_service: Service,
    /// The names of the cache's nodes.
    pub(crate) redis_service: Option<Service>,
    /// The cache's nodes.
    pub(crate) redis: Option<StatefulSet>,
    /// Brings the ledger's schema to this version: done before the API of this version rolls.
    pub(crate) migrate: Job,
    /// The API.
    pub(crate) api: Deployment,
    /// Keeps a drain from taking all of the API at once.
    pub(crate) pdb: PodDisruptionBudget,
    /// The archive.
    pub(crate) archive: CronJob,
    /// The refresh.
    pub(crate) refresh: CronJob,
}

/// The annotation of a Deployment that names the migration after which it may be applied: done before its pods roll.
pub(crate) const MIGRATION: &str = "segmentcounter.io/migration";

/// Builds the children. `redis_password` is what the cache's Secret holds, or will if it is not there yet: random, of letters and digits;
/// made by the caller, so that nothing here is.
pub(crate) fn children(v: &Validated, redis_password: &str) -> Children {
    Children {
        service_account: account::service_account(v),
        redis_secret: v.redis.as_ref().map(|target| redis::secret(v, target, redis_password)),
        config_map: config::config_map(v),
        api_service: service::api(v),
        redis_service: v.redis.as_ref().map(|_| service::redis(v)),
        redis: v.redis.as_ref().map(|target| redis::nodes(v, target, redis_password)),
        migrate: jobs::migrate(v),
        api: api::deployment(v),
        pdb: api::budget(v),
        archive: jobs::archive(v),
        refresh: jobs::refresh(v),
    }
}
