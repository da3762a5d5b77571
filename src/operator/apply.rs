//! Brings the children about by server-side apply, in the order of [`Children`], and gives back what the API server answered.
//!
//! What neither was changed here nor there since the last apply is not applied again. Nothing is decided here but the order: an API of
//! another version, or on another ledger, waits until its migration is done, and the jobs with it.

use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    fmt::Debug,
    hash::{Hash, Hasher},
};

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::Deployment,
        batch::v1::{Job, JobCondition},
        core::v1::Secret,
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    build::{Children, MIGRATION},
    observed::Observed,
    status::{Applied, ApplyError},
    validate::Validated,
};
use crate::crd::Reason;

/// Who owns the fields that are applied.
pub(crate) const MANAGER: &str = "segment-counter-operator";

/// A kind of child.
pub(crate) trait Child:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + Send
    + 'static
{
}
impl<K> Child for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
        + Send
        + 'static
{
}

/// What was wanted and what stood there after the last apply of each child, as hashes.
pub(crate) type Marks = BTreeMap<String, u64>;

/// Applies the children. `marks` is this object's memory between calls.
///
/// # Errors
/// [`ApplyError`] of the first child that was refused; those before it stand.
pub(crate) async fn apply(
    client: &Client,
    v: &Validated,
    children: &Children,
    observed: &Observed,
    marks: &mut Marks,
) -> Result<Applied, ApplyError> {
    let mut one = One { client, v, marks };
    one.apply(&children.service_account).await?;
    if let (Some(secret), None) = (&children.redis_secret, &observed.redis_secret) {
        one.create(secret).await?;
    }
    one.apply(&children.config_map).await?;
    one.apply(&children.api_service).await?;
    if let Some(service) = &children.redis_service {
        one.apply(service).await?;
    }
    let redis = match &children.redis {
        Some(redis) => Some(one.apply(redis).await?),
        None => None,
    };

    let standing = one.get(&children.api).await?;
    let migrated = standing
        .as_ref()
        .is_some_and(|standing| migration(standing) == migration(&children.api));
    let schema_current = matches!(&observed.probe.postgres, Some(Ok(facts)) if facts.schema.is_current());
    let migrate = one
        .migrate(&children.migrate, migrated && schema_current, observed)
        .await?;
    let complete = migrate.as_ref().and_then(|job| ended(job, "Complete")).is_some();
    if !migrated && !complete {
        return Ok(Applied {
            deployment: standing,
            migrate,
            redis,
            complete: false,
        });
    }
    let deployment = one.apply_over(&children.api, standing).await?;
    one.apply(&children.pdb).await?;
    one.apply(&children.archive).await?;
    one.apply(&children.refresh).await?;
    Ok(Applied {
        deployment: Some(deployment),
        migrate,
        redis,
        complete: true,
    })
}

/// The migration after which a Deployment was applied.
fn migration(deployment: &Deployment) -> Option<&String> {
    deployment.metadata.annotations.as_ref()?.get(MIGRATION)
}

/// How a Job ended, if it ended this way (`Complete` or `Failed`).
pub(super) fn ended<'a>(job: &'a Job, how: &str) -> Option<&'a JobCondition> {
    let mut conditions = job.status.as_ref()?.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == how && condition.status == "True")
}

struct One<'a> {
    client: &'a Client,
    v: &'a Validated,
    marks: &'a mut Marks,
}

impl One<'_> {
    fn api<K: Child>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.v.namespace)
    }

    async fn get<K: Child>(&self, wanted: &K) -> Result<Option<K>, ApplyError> {
        let name = wanted.name_any();
        let standing = self.api::<K>().get_opt(&name).await.map_err(|e| refused(wanted, &e))?;
        match standing {
            Some(other) if !owned(&other, &self.v.uid) => Err(ApplyError {
                reason: Reason::NameConflict,
                passing: false,
                kind: K::kind(&()).into_owned(),
                name,
                message: "exists, and belongs to somebody else".to_owned(),
            }),
            standing => Ok(standing),
        }
    }

    /// Applies one child, unless it was applied like this and stands as it stood then.
    async fn apply<K: Child>(&mut self, wanted: &K) -> Result<K, ApplyError> {
        let standing = self.get(wanted).await?;
        self.apply_over(wanted, standing).await
    }

    /// The same where it is known already what stands.
    async fn apply_over<K: Child>(&mut self, wanted: &K, standing: Option<K>) -> Result<K, ApplyError> {
        let key = format!("{}/{}", K::kind(&()), wanted.name_any());
        if let Some(standing) = standing
            && self.marks.get(&key) == Some(&mark(wanted, &standing))
        {
            return Ok(standing);
        }
        let params = PatchParams::apply(MANAGER).force();
        let applied = self
            .api::<K>()
            .patch(&wanted.name_any(), &params, &Patch::Apply(wanted))
            .await
            .map_err(|error| refused(wanted, &error))?;
        self.marks.insert(key, mark(wanted, &applied));
        Ok(applied)
    }

    /// Credentials are made once: what stands is never overwritten.
    async fn create(&self, secret: &Secret) -> Result<(), ApplyError> {
        match self.api::<Secret>().create(&PostParams::default(), secret).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
            Err(error) => Err(refused(secret, &error)),
            Ok(_) => Ok(()),
        }
    }

    /// A Job runs once. One that is gone because it ended long ago is not run again where the ledger says that nothing is left to do; one
    /// that failed makes room for another try as soon as the ledger can be logged in to.
    async fn migrate(&mut self, wanted: &Job, done: bool, observed: &Observed) -> Result<Option<Job>, ApplyError> {
        match self.get(wanted).await? {
            Some(job) if ended(&job, "Failed").is_some() => {
                if matches!(observed.probe.postgres, Some(Ok(_))) {
                    self.api::<Job>()
                        .delete(&wanted.name_any(), &DeleteParams::background())
                        .await
                        .map_err(|error| refused(wanted, &error))?;
                }
                Ok(Some(job))
            }
            Some(job) => Ok(Some(job)),
            None if done => Ok(None),
            None => self.apply_over(wanted, None).await.map(Some),
        }
    }
}

/// Whether this object is the controller of a child.
pub(crate) fn owned<K: Resource>(child: &K, uid: &str) -> bool {
    child.owner_references().iter().any(|owner| owner.uid == uid)
}

/// What is wanted, and of what stands that which only a change of it moves: the generation where the kind has one (a status moves the
/// resource version), else the resource version.
fn mark<K: Child>(wanted: &K, standing: &K) -> u64 {
    let meta = standing.meta();
    let mut hasher = DefaultHasher::new();
    serde_json::to_string(wanted).unwrap_or_default().hash(&mut hasher);
    match meta.generation {
        Some(generation) => generation.hash(&mut hasher),
        None => meta.resource_version.hash(&mut hasher),
    }
    meta.uid.hash(&mut hasher);
    meta.labels.hash(&mut hasher);
    hasher.finish()
}

pub(crate) fn refused<K: Child>(child: &K, error: &kube::Error) -> ApplyError {
    ApplyError::new::<K>(child.name_any(), error)
}

impl ApplyError {
    /// Of a child, or of all of its kind where `name` is empty.
    pub(crate) fn new<K: Child>(name: String, error: &kube::Error) -> Self {
        let (reason, passing) = match error {
            kube::Error::Api(status) if status.is_forbidden() => (Reason::Forbidden, false),
            // 409: another writer was faster; 429: later.
            kube::Error::Api(status) => (
                Reason::ApplyFailed,
                !(400..500).contains(&status.code) || [409, 429].contains(&status.code),
            ),
            _ => (Reason::ApplyFailed, true),
        };
        Self {
            reason,
            passing,
            kind: K::kind(&()).into_owned(),
            name,
            message: error.to_string(),
        }
    }
}
