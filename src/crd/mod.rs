//! The custom resource `SegmentCounter` v1alpha1: what a user may ask for, and what the operator answers.
//!
//! Only shapes and the rules that the API server itself can check stand here: types, ranges, defaults, CEL. Nothing here talks to
//! anything, and nothing decides: what takes parsing or another object to judge (a cron expression, a Secret) belongs to the
//! operator's `validate`. A field that the operator does not act on is not in the schema.
//!
//! A union is a struct of optional members with a rule that exactly one is set. No member has a default: a member that defaults
//! itself into an object would make switching to its sibling impossible.

// `KubeSchema` repeats each `pub struct` inside a function, where nothing can reach it.
#![allow(unreachable_pub)]

mod api;
mod conditions;
mod counting;
mod definition;
mod images;
mod maintenance;
mod postgres;
mod redis;
mod rules;
mod spec;
mod status;

pub use self::{
    api::{Api, Exposure, ExposureService, OnCacheFailure, OnPostgresFailure, Resources, ServiceType},
    conditions::{ConditionStatus, ConditionType, Reason},
    counting::Counting,
    definition::{DefinitionError, crd, crd_yaml},
    images::{ApiImage, Images, PullPolicy, RedisImage},
    maintenance::{Archive, Maintenance, Refresh},
    postgres::{ExternalPostgres, Postgres},
    redis::{DisabledRedis, ManagedRedis, Redis},
    spec::{SecretRef, SegmentCounter, SegmentCounterSpec},
    status::{ApiStatus, JobStatus, MaintenanceStatus, SegmentCounterStatus},
};
