//! Asks for what the watch of an object does not hold: the Secrets that it names, and, while they do not come up, its pods.

use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{Api, Client, ResourceExt, api::ListParams, runtime::events::Recorder};

use super::{
    apply::MANAGER,
    memory::Memories,
    metrics::Metrics,
    observed::{Observed, SecretData},
    trouble::{Troubles, troubles},
};
use crate::crd::SegmentCounter;

/// What every reconcile of one controller shares.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) recorder: Recorder,
    pub(crate) metrics: Metrics,
    pub(crate) default_image: String,
    pub(crate) memories: Memories,
}

impl Context {
    /// What the object names, and what the prober last learnt.
    pub(crate) async fn observe(&self, object: &SegmentCounter) -> Result<Observed, kube::Error> {
        let namespace = object.namespace().unwrap_or_default();
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &namespace);
        let postgres_secret = match &object.spec.postgres.external {
            Some(external) => data(&secrets, &external.secret_ref.name).await?,
            None => None,
        };
        let tokens_secret = match &object.spec.api.tokens_secret_ref {
            Some(tokens) => data(&secrets, &tokens.name).await?,
            None => None,
        };
        let redis_secret = match &object.spec.redis.managed {
            Some(_) => data(&secrets, &format!("{}-redis", object.name_any())).await?,
            None => None,
        };
        Ok(Observed {
            postgres_secret,
            tokens_secret,
            redis_secret,
            default_image: self.default_image.clone(),
            operator_version: env!("CARGO_PKG_VERSION").to_owned(),
            probe: self
                .memories
                .with(&object.uid().unwrap_or_default(), |memory| memory.probe.clone()),
        })
    }

    /// Why the object's pods do not come up. Asked only while they do not: pods are not watched. What cannot be asked is left untold.
    pub(crate) async fn troubles(&self, object: &SegmentCounter) -> Troubles {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &object.namespace().unwrap_or_default());
        let labels = format!(
            "app.kubernetes.io/managed-by={MANAGER},app.kubernetes.io/instance={}",
            object.name_any()
        );
        match pods.list(&ListParams::default().labels(&labels)).await {
            Ok(pods) => troubles(&pods.items),
            Err(error) => {
                tracing::warn!(%error, "why pods do not come up could not be asked");
                Troubles::new()
            }
        }
    }
}

async fn data(secrets: &Api<Secret>, name: &str) -> Result<Option<SecretData>, kube::Error> {
    let secret = secrets.get_opt(name).await?;
    Ok(secret.map(|secret| {
        let data = secret.data.unwrap_or_default();
        data.into_iter().map(|(key, value)| (key, value.0)).collect()
    }))
}
