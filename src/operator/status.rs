//! What is told of an object: a pure function of the object, of what the API server answered to the apply, and of the probe.

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::{Deployment, StatefulSet},
    batch::v1::Job,
};

use super::{
    observed::Observed,
    validate::{Invalid, Validated},
};
use crate::crd::Reason;

/// How a reconcile went.
pub(crate) struct Outcome<'a> {
    /// Whether the object asks for something possible.
    pub(crate) validated: Result<&'a Validated, &'a Invalid>,
    /// What the API server answered; `None`: nothing was applied.
    pub(crate) applied: Option<Result<Applied, ApplyError>>,
    /// What was seen.
    pub(crate) observed: &'a Observed,
    /// The instant of this reconcile.
    pub(crate) now: Timestamp,
}

/// The children as the API server answered them; `None`: not applied yet, such as a Deployment that waits for its migration.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Applied {
    /// The API.
    pub(crate) deployment: Option<Deployment>,
    /// The migration.
    pub(crate) migrate: Option<Job>,
    /// The cache.
    pub(crate) redis: Option<StatefulSet>,
}

/// Why a child could not be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {name}: {message}")]
pub(crate) struct ApplyError {
    /// `ApplyFailed`, `Forbidden` or `NameConflict`.
    pub(crate) reason: Reason,
    /// Kind of the child.
    pub(crate) kind: String,
    /// Name of the child.
    pub(crate) name: String,
    /// What the API server said.
    pub(crate) message: String,
}
