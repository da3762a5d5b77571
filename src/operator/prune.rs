//! Deletes children that the object no longer asks for: those with its labels and its uid whose name is not among the wanted.
//! Never a Secret, and never a volume: credentials and data are not deleted because a field changed.

use k8s_openapi::api::{apps::v1::StatefulSet, batch::v1::Job, core::v1::Service};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams},
};

use super::{
    apply::{Child, MANAGER, owned, refused},
    build::Children,
    status::ApplyError,
    validate::Validated,
};

/// Prunes after a complete apply. Only kinds whose presence depends on the spec are looked at.
///
/// # Errors
/// [`ApplyError`] of the first that could not be listed or deleted.
pub(crate) async fn prune(client: &Client, v: &Validated, children: &Children) -> Result<(), ApplyError> {
    let mut services = vec![children.api_service.name_any()];
    services.extend(children.redis_service.iter().map(ResourceExt::name_any));
    let sets: Vec<_> = children.redis.iter().map(ResourceExt::name_any).collect();
    kind::<Service>(client, v, &services).await?;
    kind::<StatefulSet>(client, v, &sets).await?;
    kind::<Job>(client, v, &[children.migrate.name_any()]).await
}

async fn kind<K: Child>(client: &Client, v: &Validated, wanted: &[String]) -> Result<(), ApplyError> {
    let api: Api<K> = Api::namespaced(client.clone(), &v.namespace);
    let labels = format!(
        "app.kubernetes.io/managed-by={MANAGER},app.kubernetes.io/instance={}",
        v.name
    );
    let listed = api.list(&ListParams::default().labels(&labels)).await;
    let listed = listed.map_err(|error| ApplyError::new::<K>(String::new(), &error))?;
    for child in listed {
        if !owned(&child, &v.uid) || wanted.contains(&child.name_any()) {
            continue;
        }
        match api.delete(&child.name_any(), &DeleteParams::background()).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => return Err(refused(&child, &error)),
            Ok(_) => {}
        }
    }
    Ok(())
}
