//! The CEL rules, each with the sentence that a user reads when it refuses.
//!
//! A rule may use only what Kubernetes 1.30 knows. It is checked twice in the tests, offline and by a real API server, so it must
//! mean the same to both.

/// A CEL expression and the message of its refusal.
type Rule = (&'static str, &'static str);

/// Children are named after the object with up to 23 characters added, and a Service's name is a DNS-1035 label of at most 63.
pub(super) const NAME: Rule = (
    "self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
    "metadata.name must have at most 40 characters: lower-case letters, digits and '-', beginning with a letter and not ending with '-'",
);

/// Names of other objects.
pub(super) const OBJECT_NAME: Rule = (
    "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",
    "must be the name of an object in this namespace: lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit",
);

/// It becomes the tag of an image and the value of a label.
pub(super) const VERSION: Rule = (
    "self.matches('^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$')",
    "must be an image tag: letters, digits, '_', '.' and '-', beginning and ending with a letter, a digit or '_'",
);

/// So that the ledger never has to keep more buckets for one segment.
pub(super) const WINDOW_BUCKETS: Rule = (
    "self.windowSeconds <= self.resolutionSeconds * 10000000",
    "windowSeconds divided by resolutionSeconds must be at most 10,000,000: choose a coarser resolution or a shorter window",
);

/// A resolution beyond the window would keep everybody longer than asked for by more than the window itself.
pub(super) const RESOLUTION_WITHIN_WINDOW: Rule = (
    "self.resolutionSeconds <= self.windowSeconds",
    "resolutionSeconds must be at most windowSeconds",
);

/// The counter's own window is a window like any other.
pub(super) const WINDOW_WITHIN_MAX_TTL: Rule = (
    "!has(self.maxTtlSeconds) || self.windowSeconds <= self.maxTtlSeconds",
    "windowSeconds must be at most maxTtlSeconds",
);

/// Parsed as the API server parses a pod's.
pub(super) const QUANTITIES: Rule = (
    "self.all(k, isQuantity(string(self[k])) && quantity(string(self[k])).compareTo(quantity('0')) >= 0)",
    "must be quantities that are not negative, such as cpu: 250m or memory: 128Mi",
);

/// Compared as quantities: `1` and `1000m` are the same. What is no quantity is refused by the rule above.
pub(super) const REQUESTS_WITHIN_LIMITS: Rule = (
    "!has(self.requests) || !has(self.limits) || self.requests.all(k, !(k in self.limits) \
     || !isQuantity(string(self.requests[k])) || !isQuantity(string(self.limits[k])) \
     || quantity(string(self.requests[k])).compareTo(quantity(string(self.limits[k]))) <= 0)",
    "a request must be at most the limit of the same resource",
);

pub(super) const POSTGRES_UNION: Rule = ("has(self.external)", "postgres must have exactly one member: external");

pub(super) const REDIS_UNION: Rule = (
    "[has(self.managed), has(self.disabled)].filter(set, set).size() == 1",
    "redis must have exactly one member: managed or disabled",
);

/// Without a server the cache is each pod's memory, which is never away: CacheReady, and with it Ready, could never become True.
pub(super) const CACHE_TO_FAIL_WITHOUT: Rule = (
    "!has(self.api) || !has(self.api.onCacheFailure) || self.api.onCacheFailure != 'Fail' || !has(self.redis.disabled)",
    "api.onCacheFailure Fail needs a cache that can be away: redis must be managed",
);

/// An unquoted PostgreSQL identifier, so that it means the same in every statement and in psql.
pub(super) const SCHEMA_NAME: Rule = (
    "self.matches('^[a-z_][a-z0-9_]*$') && !self.startsWith('pg_') && self != 'information_schema'",
    "must be a PostgreSQL schema name: lower-case letters, digits and '_', not beginning with a digit or 'pg_', and not information_schema",
);

/// Compared with the object as it stands: a lane holds segments. Another ledger has lanes of its own.
pub(super) const LANES: Rule = (
    "self.lanes >= oldSelf.lanes || self.schema != oldSelf.schema || self.secretRef.name != oldSelf.secretRef.name",
    "lanes can be added and not taken away: at least as many as there are",
);

/// Below it a server has no room for its own buffers.
pub(super) const MAX_MEMORY: Rule = (
    "isQuantity(self) && quantity(self).isInteger() && quantity(self).compareTo(quantity('16Mi')) >= 0 \
     && quantity(self).compareTo(quantity('1Ti')) <= 0",
    "must be a whole number of bytes from 16Mi to 1Ti, such as 256Mi or 4Gi",
);

/// Only the shape: what stands in the fields takes a parser, and the operator has it.
pub(super) const SCHEDULE: Rule = (
    "self.matches('^([0-9A-Za-z*,/?-]+ +){4}[0-9A-Za-z*,/?-]+$') || self.matches('^@(hourly|daily|midnight|weekly|monthly|yearly|annually)$')",
    "must be a cron schedule of five fields (minute hour day month weekday), such as '15 2 * * *', or @hourly, @daily, @weekly, @monthly or @yearly",
);

pub(super) const TIME_ZONE: Rule = (
    "self.matches('^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9][A-Za-z0-9_+-]*)*$') && self != 'Local'",
    "must be the name of a time zone, such as Etc/UTC or Europe/Berlin",
);

/// Otherwise the freshness condition would fail while a run that may still take its time is doing well.
pub(super) const STALE_AFTER_TIMEOUT: Rule = (
    "self.timeoutSeconds <= self.staleAfterSeconds",
    "staleAfterSeconds must be at least timeoutSeconds: one run may take that long",
);

pub(super) const REGISTRY: Rule = (
    "self == '' || self.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?(/[a-z0-9]([a-z0-9._-]*[a-z0-9])?)*$')",
    "must be a registry's host, with its port and a path if there are any, such as registry.example.org:5000/mirror, without a scheme or a final '/'",
);

pub(super) const REPOSITORY: Rule = (
    "self.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5}/[a-z0-9]([a-z0-9._-]*[a-z0-9])?)?(/[a-z0-9]([a-z0-9._-]*[a-z0-9])?)*$')",
    "must be an image's name without a tag, such as registry.example.org/team/segment-counter: spec.version is the tag",
);

pub(super) const IMAGE: Rule = (
    "self.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5}/[a-z0-9]([a-z0-9._-]*[a-z0-9])?)?(/[a-z0-9]([a-z0-9._-]*[a-z0-9])?)*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?(@sha256:[a-f0-9]{64})?$')",
    "must be an image's name, with a tag or a digest, such as docker.io/valkey/valkey:8.1",
);
