//! What the operator counts of itself.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NamespaceLabel {
    namespace: String,
}

/// The operator's own metrics. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Metrics {
    reconciles: Family<ResultLabel, Counter>,
    probes: Family<ResultLabel, Counter>,
    objects: Family<NamespaceLabel, Gauge>,
    /// 1 while this process leads.
    pub(crate) leading: Gauge,
}

impl Metrics {
    /// Registers them.
    pub(crate) fn registered(registry: &mut Registry) -> Self {
        let all = Self::default();
        let r = registry.sub_registry_with_prefix("segment_counter_operator");
        r.register("reconciles", "Reconciles, by result", all.reconciles.clone());
        r.register("probes", "Logins to Postgres, by result", all.probes.clone());
        r.register(
            "objects",
            "Objects that are looked after, by watched namespace (empty: all)",
            all.objects.clone(),
        );
        r.register("leading", "1 while this process leads", all.leading.clone());
        all
    }

    /// Counts a reconcile.
    pub(crate) fn reconciled(&self, ok: bool) {
        let result = if ok { "ok" } else { "error" };
        self.reconciles.get_or_create(&ResultLabel { result }).inc();
    }

    /// How many objects a controller looks after.
    pub(crate) fn objects(&self, namespace: &str, count: usize) {
        let namespace = namespace.to_owned();
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.objects.get_or_create(&NamespaceLabel { namespace }).set(count);
    }

    /// Counts a login.
    pub(crate) fn probed(&self, result: &'static str) {
        self.probes.get_or_create(&ResultLabel { result }).inc();
    }
}
