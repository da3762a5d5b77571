//! The Services: `{name}-api`, how the API is reached, and `{name}-redis`, which gives each node of the cache its name.

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::common::{meta, selector};
use crate::{crd::ServiceType, operator::validate::Validated};

fn port(name: &str, port: i32, target: &str) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port,
        target_port: Some(IntOrString::String(target.to_owned())),
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    }
}

pub(super) fn api(v: &Validated) -> Service {
    let exposed = v
        .spec
        .exposure
        .as_ref()
        .and_then(|exposure| exposure.service.clone())
        .unwrap_or_default();
    let mut metadata = meta(v, format!("{}-api", v.name), "api");
    metadata.annotations = Some(exposed.annotations).filter(|annotations| !annotations.is_empty());
    let type_ = match exposed.type_ {
        ServiceType::ClusterIP => "ClusterIP",
        ServiceType::NodePort => "NodePort",
        ServiceType::LoadBalancer => "LoadBalancer",
    };
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(type_.to_owned()),
            selector: Some(selector(v, "api")),
            ports: Some(vec![port("http", 80, "http")]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

pub(super) fn redis(v: &Validated) -> Service {
    Service {
        metadata: meta(v, format!("{}-redis", v.name), "redis"),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            // A node that is not ready must still be found: whether it answers, its clients find out themselves.
            publish_not_ready_addresses: Some(true),
            selector: Some(selector(v, "redis")),
            ports: Some(vec![port("redis", 6379, "redis")]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}
