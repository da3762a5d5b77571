//! What an object becomes: a pure function from what was proven to the children, one file a kind.
//!
//! The same input gives the same bytes, and nothing here can fail, ask or look at a clock: what may be wrong was found by `validate`.

use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    batch::v1::{CronJob, Job},
    core::v1::{ConfigMap, Secret, Service, ServiceAccount},
    policy::v1::PodDisruptionBudget,
};

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
