//! What was seen of the world before anything is decided: Secrets that the object names, and what the prober last learnt.
//!
//! Plain data: nothing here asks for anything, and nothing here decides. Secrets stand here and must not be printed, so nothing
//! here has a derived `Debug` that would show them.

use std::{collections::BTreeMap, fmt};

use super::validate::Validated;
use crate::ledger::{JobState, LedgerError, SchemaState};

/// A Secret's data, by key.
pub(crate) type SecretData = BTreeMap<String, Vec<u8>>;

/// What was seen.
#[derive(Clone, Default)]
pub(crate) struct Observed {
    /// The Secret that `spec.postgres.external` names; `None`: it is not there.
    pub(crate) postgres_secret: Option<SecretData>,
    /// The Secret with the tokens; `None`: the object names none, or it is not there.
    pub(crate) tokens_secret: Option<SecretData>,
    /// The cache's own Secret; `None`: it was not made yet.
    pub(crate) redis_secret: Option<SecretData>,
    /// The image of the API where the object names none: a repository with a tag or a digest.
    pub(crate) default_image: String,
    /// This operator's own version.
    pub(crate) operator_version: String,
    /// What the prober last learnt.
    pub(crate) probe: Probe,
}

impl Observed {
    /// The cache's password; `None`: it was not made yet, or somebody broke the Secret.
    pub(crate) fn redis_password(&self) -> Option<String> {
        let password = self.redis_secret.as_ref()?.get("password")?;
        String::from_utf8(password.clone()).ok()
    }
}

impl fmt::Debug for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observed")
            .field(
                "postgres_secret",
                &self.postgres_secret.as_ref().map(|data| data.keys()),
            )
            .field("tokens_secret", &self.tokens_secret.as_ref().map(|data| data.keys()))
            .field("redis_secret", &self.redis_secret.as_ref().map(|data| data.keys()))
            .field("default_image", &self.default_image)
            .field("operator_version", &self.operator_version)
            .field("probe", &self.probe)
            .finish()
    }
}

/// What the logins to an object's servers gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Probe {
    /// Where these logins were tried.
    pub(crate) place: Place,
    /// The ledger; `None`: never tried.
    pub(crate) postgres: Option<Result<PostgresFacts, LedgerError>>,
    /// Each node of the cache by its name, in order; `None`: never tried. An error is told in words that hold no secret.
    pub(crate) redis: Vec<(String, Option<Result<(), String>>)>,
}

/// The servers behind an object. What was learnt at one place says nothing of another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    postgres: Option<(String, u16, String, String)>,
    redis: Vec<String>,
}

impl Place {
    /// Where this object's servers are. Not by which Secret or user: a login that changed is told by the next probe, a moment later, and
    /// until then the old one still says more than nothing.
    pub(crate) fn of(v: &Validated) -> Self {
        let postgres = &v.postgres;
        Self {
            postgres: Some((
                postgres.host.clone(),
                postgres.port,
                postgres.database.clone(),
                postgres.schema.clone(),
            )),
            redis: v.redis.iter().flat_map(|redis| redis.hosts.clone()).collect(),
        }
    }
}

/// What a ledger that was logged in to says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PostgresFacts {
    /// Its schema, against what this version needs.
    pub(crate) schema: SchemaState,
    /// What the archive last did.
    pub(crate) archive: JobState,
    /// What the refresh last did.
    pub(crate) refresh: JobState,
    /// The server's version, for people.
    pub(crate) server_version: String,
}
