//! Random cases: how a property is run, and the walk through everything that may happen to a ledger.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use segment_counter::counting::{UserId, Window};
use segment_counter::ledger::{SharedLedger, TestClock};

use crate::model::{Model, SECOND, Sketch, answers, sketch};
use crate::world::{World, after, archive, clock, drift, name, put, removal, settings};

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
    let now = clock.micros();
    let names: Vec<_> = model.segments.keys().map(|segment| name(segment)).collect();
    let ids: Vec<_> = ledger
        .resolve(&names)
        .await
        .unwrap()
        .into_iter()
        .map(|id| id.expect("it exists"))
        .collect();
    let counts = ledger.count(&ids).await.unwrap();
    let page = ledger.segments(None, 1_000).await.unwrap();
    assert_eq!(page.segments.len(), names.len());
    for ((name, count), listed) in names.iter().zip(&counts).zip(&page.segments) {
        assert_eq!(count.as_of.as_microsecond(), now);
        assert_eq!(
            count.members,
            model.count(name.as_str(), now),
            "{name} at {}",
            count.as_of
        );
        assert_eq!((&listed.name, listed.members), (name, count.members));
    }
}

#[derive(Debug, Clone)]
enum Step {
    Record(Vec<Sketch>),
    /// Microseconds forward.
    Wait(i64),
    /// To the edge of the earliest bucket to come, and this many microseconds past it.
    Edge(i64),
    /// Microseconds back, by less than the clocks of a failover may differ.
    Back(i64),
    Put(u8, Option<i64>),
    Remove(Vec<(u8, u8)>),
    Delete(u8),
    Erase(u8),
    Archive(u32),
    Sweep,
    Recount,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => proptest::collection::vec(sketch(), 1..16).prop_map(Step::Record),
        2 => (0_i64..9_000 * SECOND).prop_map(Step::Wait),
        2 => (-1_i64..2).prop_map(Step::Edge),
        1 => (1_i64..299 * SECOND).prop_map(Step::Back),
        2 => proptest::collection::vec((0_u8..5, 0_u8..6), 1..6).prop_map(Step::Remove),
        1 => (0_u8..4).prop_map(Step::Delete),
        1 => (0_u8..6).prop_map(Step::Erase),
        1 => (0_u8..4, proptest::option::of(1_i64..20_000)).prop_map(|(segment, window)| Step::Put(segment, window)),
        1 => (1_u32..6).prop_map(Step::Archive),
        1 => Just(Step::Sweep),
        1 => Just(Step::Recount),
    ];
    proptest::collection::vec(step, 5..40)
}

pub async fn whatever_happens_every_answer_is_the_models(world: World) {
    property(16, &steps(), |steps| {
        wait(async {
            let clock = clock();
            let mut settings = settings(5_400, 60, Some(&clock));
            // Short enough that removals and erasures are forgotten within the walk.
            settings.rules = settings
                .rules
                .with_max_ttl(Window::from_seconds(30_000).unwrap())
                .unwrap();
            let ledger = world.place().ledger(&settings).await;
            let mut model = Model::new(settings.rules);
            let mut latest = clock.micros();
            for step in steps {
                walk(step, &ledger, &mut model, &clock, latest).await;
                latest = latest.max(clock.micros());
                agree(&ledger, &model, &clock).await;
            }
            assert_eq!(drift(&ledger).await, 0);
            ledger.close().await;
        });
    });
}

/// `latest`: the latest instant that the clock has stood at.
async fn walk(step: Step, ledger: &SharedLedger, model: &mut Model, clock: &TestClock, latest: i64) {
    let now = clock.micros();
    let set = |micros: i64| clock.set(after(jiff::Timestamp::UNIX_EPOCH, micros));
    match step {
        Step::Record(sketches) => {
            let pairs: Vec<_> = sketches.iter().map(|sketch| sketch.at(now)).collect();
            let recorded = ledger.record(&pairs).await.unwrap();
            assert_eq!(answers(&recorded.pairs), model.record(&pairs, now));
        }
        Step::Wait(micros) => set(now + micros),
        Step::Edge(past) => {
            if let Some(edge) = model.ends().into_iter().find(|end| *end > now + 1) {
                set(edge + past);
            }
        }
        Step::Back(micros) => set((now - micros).max(latest - 299 * SECOND)),
        Step::Remove(members) => {
            let removals: Vec<_> = members
                .iter()
                .map(|(segment, user)| removal(&format!("s{segment}"), &format!("u{user}")))
                .collect();
            let removed = ledger.remove(&removals).await.unwrap();
            assert_eq!(removed.at.as_microsecond(), now);
            let mut before: BTreeMap<(u8, u8), _> = BTreeMap::new();
            for (member, outcome) in members.into_iter().zip(removed.outcomes) {
                // Named twice, it was in the segment just before for both.
                let expected = *before
                    .entry(member)
                    .or_insert_with(|| model.remove(&format!("s{}", member.0), &format!("u{}", member.1), now));
                assert_eq!(outcome, expected);
            }
        }
        Step::Delete(segment) => {
            let segment = format!("s{segment}");
            let deleted = ledger.delete_segment(&name(&segment)).await.unwrap();
            assert_eq!(deleted.is_some(), model.delete_segment(&segment));
        }
        Step::Erase(user) => {
            let user = format!("u{user}");
            let erasure = ledger.erase(&UserId::new(user.as_str()).unwrap()).await.unwrap();
            assert_eq!(erasure.erased_at.as_microsecond(), now);
            model.erase(&user, now);
        }
        Step::Put(segment, window) => {
            let segment = format!("s{segment}");
            let answer = ledger.put_segment(&put(&segment, window)).await.unwrap();
            assert_eq!(answer.created, !model.segments.contains_key(&segment));
            model
                .segments
                .insert(segment, window.map(|seconds| Window::from_seconds(seconds).unwrap()));
        }
        Step::Archive(limit) => {
            archive(ledger, limit).await;
        }
        Step::Sweep => {
            ledger.sweep(30).await.unwrap();
        }
        Step::Recount => assert_eq!(drift(ledger).await, 0),
    }
}
