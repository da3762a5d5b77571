//! Random cases: how a property is run, and how a ledger is compared with the model.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use segment_counter::ledger::{SharedLedger, TestClock};

use crate::model::Model;
use crate::world::name;

/// Runs a property over a few random cases; a failure prints the smallest case that shows it.
pub fn property<S: Strategy>(cases: u32, strategy: &S, check: impl Fn(S::Value)) {
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 60,
        ..Config::default()
    };
    let result = TestRunner::new(config).run(strategy, |value| {
        check(value);
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

/// Waits for a future inside a property, which is no future itself.
pub fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(future))
}

/// Every count, alone, together and in the list, is the model's.
pub async fn agree(ledger: &SharedLedger, model: &Model, clock: &TestClock) {
    disagreement(ledger, model, clock.micros()).await.unwrap();
}

/// The same; an error says what differs.
pub async fn disagreement(
    ledger: &SharedLedger,
    model: &Model,
    now: i64,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let names: Vec<_> = model.segments.keys().map(|segment| name(segment)).collect();
    let ids = ledger.resolve(&names).await?;
    let ids = ids.into_iter().collect::<Option<Vec<_>>>();
    let ids = ids.ok_or_else(|| format!("one of {names:?} does not exist"))?;
    let counts = ledger.count(&ids).await?;
    let page = ledger.segments(None, 1_000).await?;
    let listed: Vec<_> = page.segments.iter().map(|one| (&one.name, one.members)).collect();
    let counted: Vec<_> = names.iter().zip(counts.iter().map(|count| count.members)).collect();
    let expected: Vec<_> = names
        .iter()
        .map(|name| (name, model.count(name.as_str(), now)))
        .collect();
    if counted != expected || listed != expected {
        return Err(format!("at {now} counted {counted:?}, listed {listed:?}, and the model has {expected:?}").into());
    }
    match counts.iter().find(|count| count.as_of.as_microsecond() != now) {
        Some(count) => Err(format!("counted at {} and not at {now}", count.as_of).into()),
        None => Ok(()),
    }
}
