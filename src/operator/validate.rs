//! From a spec and what was observed to values that cannot be wrong, or to the first thing that is.
//!
//! Pure. What the API server's rules can see is refused by them already; here stands what takes parsing or another object.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::observed::{Observed, SecretData};
use crate::{
    crd::{ConditionType, ExternalPostgres, ManagedRedis, PullPolicy, Reason, SegmentCounter, SegmentCounterSpec},
    runtime::credentials::{CredentialsError, PostgresCredentials},
};

/// The image of the cache where the object names none.
const REDIS_IMAGE: &str = "docker.io/valkey/valkey:8.1";

/// The key of the tokens' Secret, and the name of the file that the API reads.
pub(crate) const TOKENS_KEY: &str = "tokens.yaml";

/// What was proven of an object. It holds no password.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Validated {
    /// Name of the object.
    pub(crate) name: String,
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its uid.
    pub(crate) uid: String,
    /// Generation of the spec.
    pub(crate) generation: i64,
    /// What its children carry. Without `blockOwnerDeletion`, which takes a right that nobody needs.
    pub(crate) owner: OwnerReference,
    /// The spec, with one member in each union.
    pub(crate) spec: SegmentCounterSpec,
    /// Image of the API and its jobs.
    pub(crate) image: String,
    /// Tag of it: the version that runs.
    pub(crate) version: String,
    /// The ledger.
    pub(crate) postgres: PostgresTarget,
    /// The cache; `None`: none.
    pub(crate) redis: Option<RedisTarget>,
    /// Secret with the tokens.
    pub(crate) tokens_secret: Option<String>,
    /// When the images are pulled.
    pub(crate) pull_policy: PullPolicy,
}

/// Where the ledger is. Not how to log in: that is read at each login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PostgresTarget {
    /// Secret with the login.
    pub(crate) secret: String,
    /// Host.
    pub(crate) host: String,
    /// Port.
    pub(crate) port: u16,
    /// Database.
    pub(crate) database: String,
    /// Schema of the tables.
    pub(crate) schema: String,
    /// Connections of each pod.
    pub(crate) max_connections: i32,
    pub(crate) lanes: i32,
}

/// The cache's nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RedisTarget {
    /// Secret with the password, under the key `password`.
    pub(crate) secret: String,
    /// Names of the nodes, as the API reaches them; the port is 6379.
    pub(crate) hosts: Vec<String>,
    /// Image of the server.
    pub(crate) image: String,
    /// Who it runs as.
    pub(crate) uid: i64,
    /// What starts it.
    pub(crate) command: Vec<String>,
    /// Memory for values of each node, in bytes.
    pub(crate) max_memory_bytes: i64,
}

/// What is wrong with an object, or with what it names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub(crate) struct Invalid {
    /// The condition that says so: `Stalled` for the spec itself, `PostgresReady` for its Secret.
    pub(crate) condition: ConditionType,
    /// Why, for programs.
    pub(crate) reason: Reason,
    /// Why, for people. It names fields and keys, never a Secret's values.
    pub(crate) message: String,
}

/// Proves an object.
///
/// # Errors
/// [`Invalid`] is the first thing that is wrong.
pub(crate) fn validate(object: &SegmentCounter, observed: &Observed) -> Result<Validated, Invalid> {
    let meta = &object.metadata;
    let name = known(meta.name.as_ref(), "metadata.name")?;
    let namespace = known(meta.namespace.as_ref(), "metadata.namespace")?;
    let uid = known(meta.uid.as_ref(), "metadata.uid")?;
    let spec = object.spec.clone();

    let maintenance = &spec.maintenance;
    schedule("spec.maintenance.archive.schedule", &maintenance.archive.schedule)?;
    schedule("spec.maintenance.refresh.schedule", &maintenance.refresh.schedule)?;

    let (image, version) = api_image(&spec, observed);
    let redis = match (&spec.redis.managed, &spec.redis.disabled) {
        (Some(managed), None) => {
            if observed.redis_secret.is_some() && observed.redis_password().is_none() {
                return Err(Invalid {
                    condition: ConditionType::Stalled,
                    reason: Reason::SecretKeyMissing,
                    message: format!(
                        "the Secret {name}-redis has no key password: delete it, and the operator makes it anew"
                    ),
                });
            }
            Some(redis_target(&name, &namespace, &spec, managed)?)
        }
        (None, Some(_)) => None,
        _ => {
            return Err(spec_error(
                "spec.redis must have exactly one member: managed or disabled",
            ));
        }
    };
    let external = spec
        .postgres
        .external
        .as_ref()
        .ok_or_else(|| spec_error("spec.postgres must have exactly one member: external"))?;
    let postgres = postgres_target(external, observed.postgres_secret.as_ref())?;

    let tokens_secret = spec.api.tokens_secret_ref.as_ref().map(|secret| secret.name.clone());
    if let Some(secret) = &tokens_secret {
        tokens(secret, observed.tokens_secret.as_ref())?;
    }

    Ok(Validated {
        owner: OwnerReference {
            api_version: "segmentcounter.io/v1alpha1".to_owned(),
            kind: "SegmentCounter".to_owned(),
            name: name.clone(),
            uid: uid.clone(),
            controller: Some(true),
            block_owner_deletion: None,
        },
        generation: meta.generation.unwrap_or_default(),
        pull_policy: spec.images.pull_policy,
        name,
        namespace,
        uid,
        spec,
        image,
        version,
        postgres,
        redis,
        tokens_secret,
    })
}

fn known(value: Option<&String>, field: &str) -> Result<String, Invalid> {
    value.cloned().ok_or_else(|| spec_error(&format!("{field} is absent")))
}

fn spec_error(message: &str) -> Invalid {
    Invalid {
        condition: ConditionType::Stalled,
        reason: Reason::InvalidSpec,
        message: message.to_owned(),
    }
}

/// The shape was checked by the API server; whether there is a minute 99 takes a parser. A time zone is left to the API server, which
/// knows those that its controllers know.
fn schedule(field: &str, schedule: &str) -> Result<(), Invalid> {
    // The schema lists those that Kubernetes knows; the parser knows others.
    if schedule.starts_with('@') {
        return Ok(());
    }
    croner::parser::CronParser::new()
        .parse(schedule)
        .map(drop)
        .map_err(|error| spec_error(&format!("{field}: {error}")))
}

/// The image and its tag. A version of the object's is the tag; else the operator's default image counts as it is, and its tag is the version.
fn api_image(spec: &SegmentCounterSpec, observed: &Observed) -> (String, String) {
    let (repository, tag) = split_tag(&observed.default_image);
    let repository = match &spec.images.api.repository {
        Some(own) => own.clone(),
        None => mirrored(repository, &spec.images.registry),
    };
    let version = match (&spec.version, &spec.images.api.repository, tag) {
        (Some(version), _, _) => version.clone(),
        (None, None, Some(tag)) => tag.to_owned(),
        (None, ..) => observed.operator_version.clone(),
    };
    let separator = if version.starts_with("sha256:") { '@' } else { ':' };
    (format!("{repository}{separator}{version}"), version)
}

/// An image's name and its tag or digest: what follows the last ':' of the last part of the path, or the '@'.
fn split_tag(image: &str) -> (&str, Option<&str>) {
    if let Some((name, digest)) = image.split_once('@') {
        return (name, Some(digest));
    }
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (image, None),
    }
}

/// The same image from another registry: a first part with a dot or a port, or `localhost`, is the registry that is replaced.
fn mirrored(image: &str, registry: &str) -> String {
    if registry.is_empty() {
        return image.to_owned();
    }
    let path = match image.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => path,
        _ => image,
    };
    format!("{registry}/{path}")
}

fn redis_target(
    name: &str,
    namespace: &str,
    spec: &SegmentCounterSpec,
    managed: &ManagedRedis,
) -> Result<RedisTarget, Invalid> {
    let max_memory_bytes = bytes(&managed.max_memory)
        .ok_or_else(|| spec_error("spec.redis.managed.maxMemory must be a whole number of bytes, such as 256Mi"))?;
    let image = match &spec.images.redis.image {
        Some(own) => own.clone(),
        None => mirrored(REDIS_IMAGE, &spec.images.registry),
    };
    Ok(RedisTarget {
        secret: format!("{name}-redis"),
        hosts: (0..managed.nodes)
            .map(|node| format!("{name}-redis-{node}.{name}-redis.{namespace}.svc"))
            .collect(),
        image,
        uid: spec.images.redis.uid,
        command: spec.images.redis.command.clone(),
        max_memory_bytes,
    })
}

/// A quantity that is a whole number of bytes.
fn bytes(quantity: &str) -> Option<i64> {
    const UNITS: [(&str, i64); 10] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("k", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
        ("e6", 1_000_000),
        ("e9", 1_000_000_000),
    ];
    let (digits, unit) = UNITS
        .iter()
        .find_map(|(suffix, unit)| quantity.strip_suffix(suffix).map(|digits| (digits, *unit)))
        .unwrap_or((quantity, 1));
    digits.parse::<i64>().ok()?.checked_mul(unit).filter(|bytes| *bytes > 0)
}

fn postgres_target(external: &ExternalPostgres, secret: Option<&SecretData>) -> Result<PostgresTarget, Invalid> {
    let name = &external.secret_ref.name;
    let refused = |reason, message| Invalid {
        condition: ConditionType::PostgresReady,
        reason,
        message,
    };
    let data = secret.ok_or_else(|| {
        refused(
            Reason::SecretNotFound,
            format!("spec.postgres.external.secretRef names the Secret {name}, which is not there"),
        )
    })?;
    let login = PostgresCredentials::parse(data)
        .map_err(|error: CredentialsError| refused(Reason::SecretKeyMissing, format!("the Secret {name}: {error}")))?;
    Ok(PostgresTarget {
        secret: name.clone(),
        host: login.host,
        port: login.port,
        database: login.database,
        schema: external.schema.clone(),
        max_connections: external.max_connections_per_replica,
        lanes: external.lanes,
    })
}

/// That the Secret holds the file that the API reads; what stands in it the API itself judges, and says.
fn tokens(secret: &str, data: Option<&SecretData>) -> Result<(), Invalid> {
    let refused = |reason, message| Invalid {
        condition: ConditionType::Stalled,
        reason,
        message,
    };
    let field = "spec.api.tokensSecretRef names the Secret";
    match data {
        None => Err(refused(
            Reason::SecretNotFound,
            format!("{field} {secret}, which is not there"),
        )),
        Some(data) if !data.contains_key(TOKENS_KEY) => Err(refused(
            Reason::SecretKeyMissing,
            format!("{field} {secret}, which has no key {TOKENS_KEY}"),
        )),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
