//! `{name}-redis`: the cache's password, and its nodes, which keep nothing that is not in the ledger too.

use k8s_openapi::{
    ByteString,
    api::{
        apps::v1::{StatefulSet, StatefulSetSpec},
        core::v1::{
            Container, EmptyDirVolumeSource, PodTemplateSpec, Probe, ResourceRequirements, Secret, TCPSocketAction,
            Volume,
        },
    },
    apimachinery::pkg::{api::resource::Quantity, util::intstr::IntOrString},
};

use super::{
    api::named_port,
    common::{
        container_security, fingerprint, label_selector, map, meta, mount, pod, pod_meta, pull_policy, secret_volume,
        spread,
    },
};
use crate::operator::validate::{RedisTarget, Validated};

/// The password for the API, and the same as the server's configuration: so it stands on no command line.
pub(super) fn secret(v: &Validated, redis: &RedisTarget, password: &str) -> Secret {
    let file = format!(
        "requirepass {password}\nport 6379\nprotected-mode yes\nsave \"\"\nappendonly no\ndir /data\n\
         maxmemory-policy allkeys-lru\n"
    );
    let data = [("password", password), ("redis.conf", &file)];
    Secret {
        metadata: meta(v, redis.secret.clone(), "redis"),
        data: Some(
            data.map(|(key, value)| (key.to_owned(), ByteString(value.as_bytes().to_vec())))
                .into(),
        ),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}

pub(super) fn nodes(v: &Validated, redis: &RedisTarget, password: &str) -> StatefulSet {
    let mut command = redis.command.clone();
    command.push("/etc/redis/redis.conf".to_owned());
    // An option after the file wins over it, and is no secret: so the Secret need not change with the spec.
    command.extend(["--maxmemory".to_owned(), redis.max_memory_bytes.to_string()]);

    // Values, and a quarter and 32 MiB for the server, its clients' buffers and fragmentation.
    let memory = redis.max_memory_bytes + redis.max_memory_bytes / 4 + (32 << 20);
    let memory = ("memory".to_owned(), Quantity(memory.to_string()));
    let container = Container {
        name: "redis".to_owned(),
        image: Some(redis.image.clone()),
        image_pull_policy: Some(pull_policy(v)),
        command: Some(command),
        ports: Some(vec![named_port("redis", 6379)]),
        liveness_probe: Some(probe(10)),
        readiness_probe: Some(probe(5)),
        resources: Some(ResourceRequirements {
            requests: Some([("cpu".to_owned(), Quantity("50m".to_owned())), memory.clone()].into()),
            limits: Some([memory].into()),
            claims: None,
        }),
        volume_mounts: Some(vec![mount("config", "/etc/redis"), {
            let mut data = mount("data", "/data");
            data.read_only = None;
            data
        }]),
        security_context: Some(container_security()),
        ..Container::default()
    };
    let data = Volume {
        name: "data".to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    };
    let mut spec = pod(v, vec![container], vec![secret_volume("config", &redis.secret), data]);
    spec.termination_grace_period_seconds = Some(5);
    spec.topology_spread_constraints = Some(spread(v, "redis"));
    if let Some(security) = &mut spec.security_context {
        security.run_as_user = Some(redis.uid);
        security.run_as_group = Some(redis.uid);
        security.fs_group = Some(redis.uid);
    }
    let mut pod = pod_meta(v, "redis");
    // The server reads its password when it starts. Salted, so that equal passwords of two objects do not look equal.
    let credentials = fingerprint(&(&v.uid, password));
    pod.annotations = Some(map([("segmentcounter.io/credentials", &credentials)]));
    StatefulSet {
        metadata: meta(v, format!("{}-redis", v.name), "redis"),
        spec: StatefulSetSpec {
            replicas: i32::try_from(redis.hosts.len()).ok(),
            service_name: Some(format!("{}-redis", v.name)),
            selector: label_selector(v, "redis"),
            // Nodes know nothing of one another: none has to wait.
            pod_management_policy: Some("Parallel".to_owned()),
            revision_history_limit: Some(3),
            template: PodTemplateSpec {
                metadata: Some(pod),
                spec: Some(spec),
            },
            ..StatefulSetSpec::default()
        },
        status: None,
    }
}

fn probe(period_seconds: i32) -> Probe {
    Probe {
        tcp_socket: Some(TCPSocketAction {
            port: IntOrString::String("redis".to_owned()),
            host: None,
        }),
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(5),
        ..Probe::default()
    }
}
