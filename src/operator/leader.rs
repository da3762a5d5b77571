//! Who acts: the holder of one Lease. Whether a holder is gone is judged by how long its Lease has not changed while we looked, so that
//! the clocks of two machines are never compared.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::time::{Instant, sleep, timeout};

use super::controller::now;

const NAME: &str = "segment-counter-operator";
const DURATION: Duration = Duration::from_secs(15);
const DEADLINE: Duration = Duration::from_secs(10);
const EVERY: Duration = Duration::from_secs(3);

/// The Lease, and who asks for it.
pub(crate) struct Leader {
    leases: Api<Lease>,
    me: String,
}

impl Leader {
    pub(crate) fn new(client: Client, namespace: &str, me: String) -> Self {
        Self {
            leases: Api::namespaced(client, namespace),
            me,
        }
    }

    /// Returns once this process leads.
    pub(crate) async fn acquire(&self) {
        let mut seen: Option<(Option<String>, Instant)> = None;
        loop {
            match self.try_acquire(&mut seen).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "the lease could not be asked for"),
            }
            sleep(EVERY).await;
        }
    }

    async fn try_acquire(&self, seen: &mut Option<(Option<String>, Instant)>) -> Result<bool, kube::Error> {
        let Some(lease) = self.leases.get_opt(NAME).await? else {
            return self.won(self.leases.create(&PostParams::default(), &self.lease(None)).await);
        };
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
        let free = holder.is_none_or(|holder| holder.is_empty() || holder == self.me);
        let version = lease.metadata.resource_version.clone();
        let dead = match seen {
            Some((last, since)) if *last == version => since.elapsed() > DURATION,
            _ => {
                *seen = Some((version.clone(), Instant::now()));
                false
            }
        };
        if !free && !dead {
            return Ok(false);
        }
        self.won(
            self.leases
                .replace(NAME, &PostParams::default(), &self.lease(version))
                .await,
        )
    }

    fn won(&self, written: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
        match written {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Renews until the lease is lost: whoever acts must stop at once then.
    pub(crate) async fn hold(&self) {
        let mut renewed = Instant::now();
        loop {
            sleep(EVERY).await;
            match timeout(EVERY, self.renew()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => return,
                Ok(Err(error)) => tracing::warn!(%error, "the lease could not be renewed"),
                Err(_) => tracing::warn!("the lease could not be renewed in time"),
            }
            if renewed.elapsed() > DEADLINE {
                return;
            }
        }
    }

    async fn renew(&self) -> Result<bool, kube::Error> {
        let lease = self.leases.get(NAME).await?;
        let mine = lease.spec.and_then(|spec| spec.holder_identity).as_ref() == Some(&self.me);
        if !mine {
            return Ok(false);
        }
        let next = self.lease(lease.metadata.resource_version);
        self.won(self.leases.replace(NAME, &PostParams::default(), &next).await)
    }

    /// Lets the next one lead without waiting.
    pub(crate) async fn release(&self) {
        let Ok(lease) = self.leases.get(NAME).await else { return };
        let mut next = self.lease(lease.metadata.resource_version);
        if let Some(spec) = &mut next.spec
            && lease.spec.and_then(|spec| spec.holder_identity).as_ref() == Some(&self.me)
        {
            spec.holder_identity = Some(String::new());
            let _ = self.leases.replace(NAME, &PostParams::default(), &next).await;
        }
    }

    fn lease(&self, resource_version: Option<String>) -> Lease {
        Lease {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                resource_version,
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.me.clone()),
                lease_duration_seconds: Some(15),
                renew_time: Some(MicroTime(now())),
                ..LeaseSpec::default()
            }),
        }
    }
}
