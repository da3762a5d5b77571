//! The rules of counting, one after another, with a clock that the suite moves.

use std::collections::BTreeMap;

use proptest::prelude::*;
use segment_counter::counting::{Outcome, Refusal, Resolution, Rules, Window, expires_at};
use segment_counter::ledger::{Settings, SharedLedger};

use crate::model::{Model, SECOND, answers, sketches};
use crate::random::{agree, property, wait};
use crate::world::{World, after, archive, clock, count, drift, id, name, pair, pair_at, put, settings, start};

pub async fn rule_1_a_membership_ends_at_its_window_rounded_up_to_the_resolution(world: World) {
    let clock = clock();
    let strategy = (
        1_i64..5_000_000,
        prop_oneof![Just(1_i64), Just(7), Just(60), Just(3_600), Just(86_400), 1_i64..86_400],
        proptest::option::of(1_i64..5_000_000),
        proptest::collection::vec(
            (
                -5_000_000 * SECOND..300 * SECOND,
                proptest::option::of(1_i64..5_000_000),
            ),
            1..40,
        ),
    );
    property(12, &strategy, |(window, resolution, own, pairs)| {
        wait(async {
            let settings = settings(window, resolution, Some(&clock));
            let ledger = world.place().ledger(&settings).await;
            ledger.put_segment(&put("s", own)).await.unwrap();
            let pairs: Vec<_> = pairs
                .iter()
                .enumerate()
                .map(|(user, (offset, ttl))| {
                    let mut pair = pair_at("s", &format!("u{user}"), after(start(), *offset));
                    pair.ttl = ttl.map(|seconds| Window::from_seconds(seconds).unwrap());
                    pair
                })
                .collect();
            let recorded = ledger.record(&pairs).await.unwrap();
            for (pair, recorded) in pairs.iter().zip(&recorded.pairs) {
                let window = pair.ttl.map_or(own.unwrap_or(window), Window::seconds);
                // The formula of the crate, and the same without it.
                let due = pair.observed_micros().unwrap() + window * SECOND;
                let end = recorded.expires_at.unwrap().as_microsecond();
                assert_eq!(
                    end,
                    expires_at(
                        pair.observed_micros().unwrap(),
                        Window::from_seconds(window).unwrap(),
                        Resolution::from_seconds(resolution).unwrap()
                    )
                );
                assert!(end >= due && end - due < resolution * SECOND && end % (resolution * SECOND) == 0);
            }
            ledger.close().await;
        });
    });
}

pub async fn rule_2_pairs_may_be_retried_replayed_and_reordered(world: World) {
    let strategy = (sketches(), proptest::collection::vec(0_usize..24, 0..24), 1_usize..9);
    property(10, &strategy, |(sketches, replays, batch)| {
        wait(async {
            let clock = clock();
            let settings = settings(7_200, 60, Some(&clock));
            let now = clock.micros();
            let mut model = Model::new(settings.rules);
            let pairs: Vec<_> = sketches.iter().map(|sketch| sketch.at(now)).collect();
            model.record(&pairs, now);
            // Backwards, some of them again, cut in another way.
            let mut shuffled: Vec<_> = pairs.iter().rev().cloned().collect();
            for replay in replays {
                shuffled.insert(replay % shuffled.len(), pairs[replay % pairs.len()].clone());
            }
            let ledger = world.place().ledger(&settings).await;
            for batch in shuffled.chunks(batch) {
                ledger.record(batch).await.unwrap();
            }
            agree(&ledger, &model, &clock).await;
            for end in model.ends() {
                clock.set(after(jiff::Timestamp::UNIX_EPOCH, end));
                agree(&ledger, &model, &clock).await;
            }
            assert_eq!(drift(&ledger).await, 0);
            ledger.close().await;
        });
    });
}

pub async fn rule_3_a_user_is_in_a_segment_until_the_very_instant_it_ends_and_no_job_is_needed(world: World) {
    property(8, &(sketches(), 1_i64..90_000), |(sketches, window)| {
        wait(async {
            let clock = clock();
            let settings = settings(window, 60, Some(&clock));
            let ledger = world.place().ledger(&settings).await;
            let mut model = Model::new(settings.rules);
            let pairs: Vec<_> = sketches.iter().map(|sketch| sketch.at(clock.micros())).collect();
            ledger.record(&pairs).await.unwrap();
            model.record(&pairs, clock.micros());
            for end in model.ends() {
                for instant in [end - 1, end, end + 1] {
                    clock.set(after(jiff::Timestamp::UNIX_EPOCH, instant));
                    agree(&ledger, &model, &clock).await;
                }
            }
            clock.set(after(start(), 40_000_000 * SECOND));
            agree(&ledger, &model, &clock).await;
            ledger.close().await;
        });
    });
}

pub async fn rule_3_a_changed_window_holds_for_pairs_from_then_on(world: World) {
    let clock = clock();
    let settings = settings(3_600, 60, Some(&clock));
    let place = world.place();
    let (one, other) = (place.ledger(&settings).await, place.ledger(&settings).await);
    let ends = async |ledger: &SharedLedger, user: &str| {
        ledger.record(&[pair("s", user)]).await.unwrap().pairs[0]
            .expires_at
            .unwrap()
    };
    let hour: jiff::Timestamp = "2026-04-01T00:00:00Z".parse().unwrap();
    assert_eq!(ends(&one, "before").await, hour);
    assert_eq!(ends(&other, "before").await, hour);
    let answer = one.put_segment(&put("s", Some(60))).await.unwrap();
    assert!(!answer.created);
    assert_eq!(
        (answer.segment.window.map(Window::seconds), answer.segment.members),
        (Some(60), 1)
    );
    // Another replica that knew the segment before it was changed.
    assert_eq!(ends(&other, "after").await, "2026-03-31T23:01:00Z".parse().unwrap());
    // A shorter window takes nothing away from who is in already.
    assert_eq!(ends(&other, "before").await, hour);
    one.put_segment(&put("s", None)).await.unwrap();
    assert_eq!(ends(&other, "after").await, hour);
    assert_eq!(drift(&one).await, 0);
}

pub async fn rule_8_the_ledgers_clock_is_the_databases_and_may_step_back(world: World) {
    // Without the suite's clock an answer's instant lies between two looks at the database's own.
    let ledger = world.place().ledger(&settings(60, 1, None)).await;
    let before = ledger.now().await.unwrap();
    let at = ledger.record(&[pair("s", "u")]).await.unwrap().at;
    let as_of = ledger.count(&[id(&ledger, "s").await]).await.unwrap()[0].as_of;
    let later = ledger.now().await.unwrap();
    assert!(
        before <= at && at <= as_of && as_of <= later,
        "{before} {at} {as_of} {later}"
    );
    ledger.close().await;

    // Steps of less than settle / 2, as of a failover, between batches, archive passes and sweeps.
    let step = (sketches(), -295_i64..1_200, any::<bool>());
    property(8, &proptest::collection::vec(step, 2..10), |steps| {
        wait(async {
            let clock = clock();
            let settings = settings(1_200, 60, Some(&clock));
            let ledger = world.place().ledger(&settings).await;
            let mut model = Model::new(settings.rules);
            let mut latest = clock.micros();
            for (sketches, seconds, clean) in steps {
                let now = (clock.micros() + seconds * SECOND).max(latest - 295 * SECOND);
                latest = latest.max(now);
                clock.set(after(jiff::Timestamp::UNIX_EPOCH, now));
                let pairs: Vec<_> = sketches.iter().map(|sketch| sketch.at(now)).collect();
                let recorded = ledger.record(&pairs).await.unwrap();
                assert_eq!(recorded.at.as_microsecond(), now);
                assert_eq!(answers(&recorded.pairs), model.record(&pairs, now));
                if clean {
                    archive(&ledger, 3).await;
                    ledger.sweep(1).await.unwrap();
                }
                agree(&ledger, &model, &clock).await;
                assert_eq!(drift(&ledger).await, 0);
            }
            ledger.close().await;
        });
    });
}

pub async fn rule_9_outcomes_are_exact(world: World) {
    let clock = clock();
    let now = start();
    let ledger = world.place().ledger(&settings(3_600, 60, Some(&clock))).await;
    let outcomes = async |pairs: &[_]| {
        let recorded = ledger.record(pairs).await.unwrap();
        recorded.pairs.iter().map(|one| one.outcome).collect::<Vec<_>>()
    };
    use Outcome::{Created, Expired, Refused, Renewed, Unchanged};
    let future = Refused(Refusal::ObservedInFuture);
    // In one batch: the one that ends last takes the outcome; of equals the first.
    let batch = [
        pair_at("s", "a", after(now, -600 * SECOND)),
        pair("s", "a"),
        pair("s", "a"),
        pair_at("s", "b", after(now, 300 * SECOND)),
        pair_at("s", "c", after(now, 300 * SECOND + 1)),
        pair_at("s", "d", after(now, -3_600 * SECOND)),
        pair_at("s", "e", after(now, -3_600 * SECOND - 59_500_000)),
    ];
    assert_eq!(
        outcomes(&batch).await,
        [Unchanged, Created, Unchanged, Created, future, Created, Expired]
    );
    assert_eq!(
        outcomes(&batch).await,
        [Unchanged, Unchanged, Unchanged, Unchanged, future, Unchanged, Expired]
    );
    assert_eq!(count(&ledger, "s").await, 3);
    clock.set(after(now, 60 * SECOND));
    assert_eq!(outcomes(&[pair("s", "a"), pair("s", "d")]).await, [Renewed, Created]);
    // Gone, and back: created again, archived in between or not.
    for cleaned in [false, true] {
        let later = after(jiff::Timestamp::UNIX_EPOCH, clock.micros() + 10_000 * SECOND);
        clock.set(later);
        assert_eq!(count(&ledger, "s").await, 0);
        if cleaned {
            assert!(archive(&ledger, 1).await > 0);
            ledger.sweep(365).await.unwrap();
        }
        assert_eq!(outcomes(&[pair("s", "a"), pair("s", "b")]).await, [Created, Created]);
        assert_eq!(count(&ledger, "s").await, 2);
        assert_eq!(drift(&ledger).await, 0);
    }
}

pub async fn rule_12_a_segment_exists_from_its_first_valid_pair_or_its_put(world: World) {
    let clock = clock();
    let ledger = world.place().ledger(&settings(3_600, 60, Some(&clock))).await;
    let pairs = [
        pair("taken", "u"),
        pair_at("ignored", "u", after(start(), -90_000 * SECOND)),
        pair_at("refused", "u", after(start(), 301 * SECOND)),
    ];
    let recorded = ledger.record(&pairs).await.unwrap();
    assert_eq!(recorded.changed, [id(&ledger, "taken").await]);
    let put = ledger.put_segment(&put("put", None)).await.unwrap();
    assert!(put.created && put.segment.members == 0);
    let names = ["taken", "ignored", "refused", "put", "never"].map(name);
    let ids = ledger.resolve(&names).await.unwrap();
    assert_eq!(
        ids.iter().map(Option::is_some).collect::<Vec<_>>(),
        [true, true, false, true, false]
    );
    assert_eq!(ledger.segment(&names[1]).await.unwrap().unwrap().members, 0);
    assert_eq!(ledger.segment(&names[2]).await.unwrap(), None);
    assert_eq!(ledger.segments(None, 10).await.unwrap().segments.len(), 3);
    clock.set(after(start(), 2 * SECOND));
    assert_eq!(
        ledger.record(&pairs[2..]).await.unwrap().pairs[0].outcome,
        Outcome::Created
    );
}

pub async fn rule_12_pairs_create_no_more_segments_than_the_limit(world: World) {
    let clock = clock();
    let settings = Settings {
        max_segments_from_pairs: 2,
        ..settings(3_600, 60, Some(&clock))
    };
    let ledger = world.place().ledger(&settings).await;
    ledger.put_segment(&put("put", None)).await.unwrap();
    let pairs = ["c", "put", "a", "b", "c"].map(|segment| pair(segment, "u"));
    let outcomes =
        |recorded: &segment_counter::ledger::Recorded| recorded.pairs.iter().map(|one| one.outcome).collect::<Vec<_>>();
    let limit = Outcome::Refused(Refusal::SegmentLimit);
    let recorded = ledger.record(&pairs).await.unwrap();
    assert_eq!(
        recorded
            .pairs
            .iter()
            .filter(|one| one.outcome == Outcome::Created)
            .count(),
        3,
        "{recorded:?}"
    );
    assert_eq!(ledger.segments(None, 10).await.unwrap().segments.len(), 3);
    // Those that stand go on; a PUT is never limited, and makes room for nobody but its own.
    assert_eq!(outcomes(&ledger.record(&[pair("new", "u")]).await.unwrap()), [limit]);
    ledger.put_segment(&put("new", None)).await.unwrap();
    assert_eq!(
        outcomes(&ledger.record(&[pair("new", "u")]).await.unwrap()),
        [Outcome::Created]
    );
}

pub async fn pairs_from_the_far_past_are_expired_and_spoil_no_batch(world: World) {
    let clock = clock();
    let ledger = world.place().ledger(&settings(3_600, 60, Some(&clock))).await;
    let far = [
        "-009999-01-02T01:59:59Z",
        "-004800-01-01T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "1969-12-31T23:59:59.5Z",
    ];
    let mut pairs: Vec<_> = far.iter().map(|at| pair_at("s", "old", at.parse().unwrap())).collect();
    pairs.push(pair("s", "new"));
    let mut model = Model::new(ledger.settings().rules);
    let recorded = ledger.record(&pairs).await.unwrap();
    assert_eq!(answers(&recorded.pairs), model.record(&pairs, clock.micros()));
    assert_eq!(count(&ledger, "s").await, 1);
    let future = pair_at("s", "x", "9999-12-30T00:00:00Z".parse().unwrap());
    let recorded = ledger.record(&[future, pair("s", "y")]).await.unwrap();
    assert_eq!(recorded.pairs[0].outcome, Outcome::Refused(Refusal::ObservedInFuture));
    assert_eq!(recorded.pairs[1].outcome, Outcome::Created);
    assert_eq!(ledger.record(&[]).await.unwrap().pairs, []);
    assert_eq!(ledger.count(&[]).await.unwrap(), []);
}

pub async fn segments_are_listed_by_name_in_pages(world: World) {
    let ledger = world.place().ledger(&settings(3_600, 60, None)).await;
    let names = [
        "Z",
        "a",
        "a/b",
        "owner/repo:dir",
        "é",
        "'; DROP TABLE segment; --",
        "\"q\\",
    ];
    let mut expected = BTreeMap::new();
    for (index, segment) in names.iter().enumerate() {
        let users: Vec<_> = (0..index).map(|user| pair(segment, &format!("\"u'\\{user}"))).collect();
        ledger.put_segment(&put(segment, None)).await.unwrap();
        ledger.record(&users).await.unwrap();
        expected.insert((*segment).to_owned(), i64::try_from(index).unwrap());
    }
    let (mut listed, mut last) = (Vec::new(), None);
    loop {
        let page = ledger.segments(last.as_ref(), 3).await.unwrap();
        listed.extend(
            page.segments
                .iter()
                .map(|one| (one.name.as_str().to_owned(), one.members)),
        );
        last = page.segments.last().map(|one| one.name.clone());
        if !page.more {
            break;
        }
    }
    assert_eq!(listed, expected.into_iter().collect::<Vec<_>>());
    let _: Rules = ledger.settings().rules;
}

pub async fn a_batch_of_more_than_was_agreed_is_refused_as_a_whole(world: World) {
    let settings = Settings {
        max_batch: 3,
        ..settings(3_600, 60, None)
    };
    let ledger = world.place().ledger(&settings).await;
    let pairs: Vec<_> = (0..4).map(|user| pair("s", &user.to_string())).collect();
    let error = ledger.record(&pairs).await.unwrap_err();
    assert!(error.to_string().contains("at most 3"), "{error}");
    assert_eq!(
        ledger.resolve(&[name("s")]).await.unwrap(),
        [None],
        "nothing of it is recorded"
    );
    ledger.record(&pairs[..3]).await.unwrap();
    assert_eq!(count(&ledger, "s").await, 3);
}
