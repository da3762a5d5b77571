//! What runs and ends: `{name}-migrate-…`, `{name}-archive` and `{name}-refresh`.

use k8s_openapi::{
    api::{
        batch::v1::{CronJob, CronJobSpec, Job, JobSpec, JobTemplateSpec},
        core::v1::{PodSpec, PodTemplateSpec, ResourceRequirements},
    },
    apimachinery::pkg::api::resource::Quantity,
};

use super::common::{env, fingerprint, labels, meta, pod, pod_meta, program};
use crate::operator::validate::Validated;

/// A Job's pods cannot be changed: a new image, more lanes or another ledger is a Job of another name, and the old one is pruned. A changed
/// password is none of these, since it is read from the Secret at each attempt.
pub(super) fn migrate(v: &Validated) -> Job {
    Job {
        metadata: meta(v, migration_name(v), "migrate"),
        spec: Some(migration(v)),
        status: None,
    }
}

/// One that is cut off begins anew, so this is longer than an index of a large table takes.
const MIGRATION_SECONDS: i64 = 6 * 3_600;

pub(super) fn migration_name(v: &Validated) -> String {
    let postgres = &v.postgres;
    let ledger = (
        &postgres.host,
        postgres.port,
        &postgres.database,
        &postgres.schema,
        postgres.lanes,
    );
    format!("{}-migrate-{}", v.name, fingerprint(&(migration(v), ledger)))
}

fn migration(v: &Validated) -> JobSpec {
    job(v, "migrate", MIGRATION_SECONDS, 10)
}

pub(super) fn archive(v: &Validated) -> CronJob {
    let wanted = &v.spec.maintenance.archive;
    cron_job(
        v,
        "archive",
        &wanted.schedule,
        &wanted.time_zone,
        wanted.timeout_seconds,
    )
}

pub(super) fn refresh(v: &Validated) -> CronJob {
    let wanted = &v.spec.maintenance.refresh;
    cron_job(
        v,
        "refresh",
        &wanted.schedule,
        &wanted.time_zone,
        wanted.timeout_seconds,
    )
}

fn cron_job(v: &Validated, command: &str, schedule: &str, time_zone: &str, timeout_seconds: i32) -> CronJob {
    let mut spec = job(v, command, i64::from(timeout_seconds) + 60, 2);
    if let Some(container) = template(&mut spec).and_then(|pod| pod.containers.first_mut()) {
        let timeout = env("SEGMENT_COUNTER_TIMEOUT_SECONDS", &timeout_seconds.to_string());
        container.env.get_or_insert_default().push(timeout);
    }
    CronJob {
        metadata: meta(v, format!("{}-{command}", v.name), command),
        spec: CronJobSpec {
            schedule: schedule.to_owned(),
            time_zone: Some(time_zone.to_owned()),
            // Any number at once would be safe; one is enough.
            concurrency_policy: Some("Forbid".to_owned()),
            // Without it a controller that was away for a hundred runs stops for good.
            starting_deadline_seconds: Some(300),
            successful_jobs_history_limit: Some(1),
            failed_jobs_history_limit: Some(2),
            suspend: Some(false),
            job_template: JobTemplateSpec {
                metadata: Some(pod_meta(v, command)),
                spec: Some(spec),
            },
        },
        status: None,
    }
}

fn template(spec: &mut JobSpec) -> Option<&mut PodSpec> {
    spec.template.spec.as_mut()
}

fn job(v: &Validated, command: &str, deadline_seconds: i64, retries: i32) -> JobSpec {
    let (mut container, volumes) = program(v, command);
    container.resources = Some(ResourceRequirements {
        requests: Some(
            [("cpu", "50m"), ("memory", "64Mi")]
                .map(|(resource, amount)| (resource.to_owned(), Quantity(amount.to_owned())))
                .into(),
        ),
        ..ResourceRequirements::default()
    });
    let mut pod = pod(v, vec![container], volumes);
    pod.restart_policy = Some("Never".to_owned());
    let mut metadata = pod_meta(v, command);
    metadata.labels = Some(labels(v, command));
    JobSpec {
        active_deadline_seconds: Some(deadline_seconds),
        backoff_limit: Some(retries),
        template: PodTemplateSpec {
            metadata: Some(metadata),
            spec: Some(pod),
        },
        ..JobSpec::default()
    }
}
