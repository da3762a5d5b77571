//! When each object's Postgres and cache are logged in to, apart from the reconcile, which is woken only when a result changes: nothing in
//! Kubernetes tells that a password was mended in the database.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use kube::{ResourceExt, runtime::reflector::ObjectRef};
use rand::RngExt;
use tokio::{
    sync::Semaphore,
    time::{MissedTickBehavior, interval},
};

use super::{
    controller::{Guarded, Wake},
    login,
    observe::Context,
    observed::{Place, Probe},
    status::is_stale,
    validate::validate,
};
use crate::{
    crd::SegmentCounter,
    ledger::{JobState, LedgerError},
};

/// How often it is looked who is due.
const TICK: Duration = Duration::from_millis(500);
/// Between two probes of one object, with up to 4 s of jitter.
const EVERY: Duration = Duration::from_secs(13);
/// The same while its ledger waits for a migration that may end any moment.
const SOON: Duration = Duration::from_secs(2);
/// Logins at once: a few servers that do not answer must not hold up the others.
const AT_ONCE: usize = 16;

/// Probes every object of `objects` for ever, a new one at once.
pub(crate) async fn run(context: Arc<Context>, objects: impl Fn() -> Vec<Arc<Guarded>>, wake: Wake) {
    let places = Semaphore::new(AT_ONCE);
    let mut looks = FuturesUnordered::new();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                let all = objects();
                let uids: HashSet<_> = all.iter().filter_map(|object| object.uid()).collect();
                context.memories.keep(&uids);
                for object in all {
                    let due = object.uid().is_some_and(|uid| context.memories.with(&uid, |memory| memory.due.take()));
                    if due {
                        let (context, places) = (&context, &places);
                        looks.push(async move {
                            // Closed never.
                            let _place = places.acquire().await;
                            look(context, &object).await.then(|| ObjectRef::from_obj(&*object))
                        });
                    }
                }
            }
            Some(changed) = looks.next(), if !looks.is_empty() => {
                if let Some(object) = changed {
                    let _ = wake.send(object);
                }
            }
        }
    }
}

/// Probes one; true when what was found is not what was found before.
async fn look(context: &Context, object: &Guarded) -> bool {
    let uid = object.uid().unwrap_or_default();
    let found = match &object.0 {
        Ok(decoded) => probe(context, decoded).await,
        Err(_) => None,
    };
    let Some((decoded, probe, invalid)) = found else {
        context.memories.with(&uid, |memory| memory.due.ended(EVERY));
        return false;
    };
    let waits = matches!(&probe.postgres, Some(Ok(facts)) if !facts.schema.is_current());
    context.memories.with(&uid, |memory| {
        // A server that was there and did not answer once is asked again before anybody is alarmed.
        let missed = !memory.missed && misses(&memory.probe, &probe);
        memory.missed = missed;
        memory.due.ended(if missed || waits {
            SOON
        } else {
            EVERY + Duration::from_millis(rand::rng().random_range(0..4_000))
        });
        if missed {
            return false;
        }
        let changed = still(&memory.probe, decoded) != still(&probe, decoded) || memory.invalid != invalid;
        memory.probe = probe;
        memory.invalid = invalid;
        changed
    })
}

/// Whether a server that let us in before was not reached now. One that refuses us was reached.
fn misses(before: &Probe, now: &Probe) -> bool {
    if before.place != now.place {
        return false;
    }
    let ledger = matches!(
        (&before.postgres, &now.postgres),
        (
            Some(Ok(_)),
            Some(Err(LedgerError::Unreachable(_) | LedgerError::Timeout(_)))
        )
    );
    let mut nodes = before.redis.iter().zip(&now.redis);
    ledger || nodes.any(|((_, before), (_, now))| matches!((before, now), (Some(Ok(())), Some(Err(_)))))
}

/// What the logins give, or why there is nothing to log in to; `None`: that could not be found out.
async fn probe<'a>(context: &Context, object: &'a SegmentCounter) -> Option<(&'a SegmentCounter, Probe, String)> {
    let observed = match context.observe(object).await {
        Ok(observed) => observed,
        Err(error) => {
            tracing::warn!(%error, name = object.name_any(), "what a probe needs could not be read");
            return None;
        }
    };
    let v = match validate(object, &observed) {
        Ok(v) => v,
        // That this changed wakes the reconcile all the same.
        Err(invalid) => return Some((object, Probe::default(), invalid.to_string())),
    };
    let (postgres, redis) = tokio::join!(login::postgres(&v, &observed), login::redis(&v, &observed));
    context
        .metrics
        .probed(postgres.as_ref().map_or_else(LedgerError::class, |_| "ok"));
    let probe = Probe {
        place: Place::of(&v),
        postgres: Some(postgres),
        redis,
    };
    Some((object, probe, String::new()))
}

/// Without what moves at every look, and with what it moves past: that a job's last success has grown too old.
fn still(probe: &Probe, object: &SegmentCounter) -> (Probe, [bool; 2]) {
    let quiet = |job: &JobState| JobState {
        seconds_since_success: None,
        oldest_recount_seconds: None,
        ..job.clone()
    };
    let mut probe = probe.clone();
    let mut stale = [false; 2];
    if let Some(Ok(facts)) = &mut probe.postgres {
        let maintenance = &object.spec.maintenance;
        stale = [
            is_stale(&facts.archive, maintenance.archive.stale_after_seconds),
            is_stale(&facts.refresh, maintenance.refresh.stale_after_seconds),
        ];
        facts.archive = quiet(&facts.archive);
        facts.refresh = quiet(&facts.refresh);
    }
    (probe, stale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::{fixtures, observed::PostgresFacts};

    #[test]
    fn a_server_that_does_not_answer_is_a_miss_only_where_it_did_before_and_a_refusal_never_is() {
        let probe = |postgres, redis| Probe {
            postgres: Some(postgres),
            redis: vec![("node-0".to_owned(), Some(redis))],
            ..Probe::default()
        };
        let facts = || Ok(fixtures::facts());
        let away = || Err(LedgerError::Unreachable(String::new()));
        let refused = || Err(LedgerError::AuthenticationFailed(String::new()));
        let silent = || Err("no answer in time".to_owned());
        assert!(misses(&probe(facts(), Ok(())), &probe(away(), Ok(()))));
        assert!(misses(&probe(facts(), Ok(())), &probe(facts(), silent())));
        assert!(!misses(&probe(facts(), Ok(())), &probe(refused(), Ok(()))));
        assert!(!misses(&probe(away(), silent()), &probe(away(), silent())));
        assert!(!misses(&Probe::default(), &probe(away(), silent())));
    }

    #[test]
    fn an_age_that_grows_wakes_nobody_until_it_is_too_old() {
        let object = fixtures::minimal().0;
        let aged = |seconds| {
            let refresh = JobState {
                seconds_since_success: Some(seconds),
                ..JobState::default()
            };
            let facts = PostgresFacts {
                refresh,
                ..fixtures::facts()
            };
            let probe = Probe {
                postgres: Some(Ok(facts)),
                ..Probe::default()
            };
            still(&probe, &object)
        };
        assert_eq!(aged(1), aged(900));
        assert_ne!(aged(900), aged(901));
        assert_eq!(aged(901), aged(100_000));
    }
}
