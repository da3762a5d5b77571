//! `{name}-api`, the ServiceAccount: without any right, and its token in no pod.

use k8s_openapi::api::core::v1::ServiceAccount;

use super::common::meta;
use crate::operator::validate::Validated;

pub(super) fn service_account(v: &Validated) -> ServiceAccount {
    ServiceAccount {
        metadata: meta(v, format!("{}-api", v.name), "api"),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}
