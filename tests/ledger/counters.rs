//! The counters: what a count adds up, what a sweep takes out of them, what a recount mends.

use std::time::Duration;

use segment_counter::counting::{Pair, SegmentId, UserId, Window};
use segment_counter::ledger::{Job, LedgerError, Settings, SharedLedger};

use crate::model::SECOND;
use crate::world::{Kind, Place, World, after, clock, count, drift, id, name, pair, pair_at, removal, settings, start};

pub async fn a_recount_mends_what_differs_and_says_so(world: World) {
    let clock = clock();
    let place = world.place();
    let ledger = place.ledger(&settings(36_000, 60, Some(&clock))).await;
    let pairs: Vec<_> = (0..30_i64)
        .map(|n| pair_at("s", &format!("u{n}"), after(start(), -n * 900 * SECOND)))
        .collect();
    ledger.record(&pairs).await.unwrap();
    ledger.record(&[pair("other", "u")]).await.unwrap();
    let segment = id(&ledger, "s").await;
    assert_eq!(ledger.recount(&[segment]).await.unwrap()[0].drift, 0);
    place
        .tamper("UPDATE {lane}.segment_expiry SET members = members + 2")
        .await;
    place.tamper("DELETE FROM {lane}.segment_total").await;
    let found = ledger.recount(&[segment]).await.unwrap()[0];
    assert!(found.drift > 0);
    assert_eq!(found.members, 30);
    assert_eq!(ledger.recount(&[segment]).await.unwrap()[0].drift, 0);
    assert_eq!(count(&ledger, "s").await, 30);
    // The one that was never recounted comes first.
    let other = id(&ledger, "other").await;
    assert_eq!(ledger.least_recently_recounted(1).await.unwrap(), [other]);
    assert!(ledger.recount(&[other]).await.unwrap()[0].drift > 0);
    clock.set(after(start(), 36_001 * SECOND));
    assert_eq!(
        ledger.job_state(Job::Refresh).await.unwrap().oldest_recount_seconds,
        Some(36_001)
    );
    assert_eq!(ledger.recount(&[segment]).await.unwrap()[0].members, 0);
    assert_eq!(ledger.least_recently_recounted(9).await.unwrap(), [other, segment]);
}

pub async fn a_count_is_the_same_however_late_the_sweep_comes(world: World) {
    let clock = clock();
    let place = world.place();
    let ledger = place.ledger(&settings(36_000, 60, Some(&clock))).await;
    // One leaves in each of 300 minutes; every third comes back in the minute after, when nobody subtracts from the old bucket or the new one lies
    // beside it.
    let pairs: Vec<_> = (0..300_i64)
        .map(|n| pair_at("s", &format!("u{n}"), after(start(), (n - 599) * 60 * SECOND)))
        .collect();
    let recorded = ledger.record(&pairs).await.unwrap();
    let ends: Vec<_> = recorded.pairs.iter().map(|pair| pair.expires_at.unwrap()).collect();
    let (mut members, mut back) = (300, 0);
    for (minute, end) in (1..).zip(&ends) {
        clock.set(*end);
        members -= 1;
        if minute % 3 == 0 {
            ledger.record(&[pair("s", &format!("u{}", minute - 1))]).await.unwrap();
            back += 1;
        }
        assert_eq!(count(&ledger, "s").await, members + back, "minute {minute}");
        // Late, later, and at last.
        if [20, 21, 150, 300].contains(&minute) {
            assert!(ledger.sweep(30).await.unwrap().counters > 0, "minute {minute}");
            assert_eq!(count(&ledger, "s").await, members + back, "swept at minute {minute}");
            assert_eq!(ledger.sweep(30).await.unwrap().counters, 0);
            assert_eq!(drift(&ledger).await, 0, "minute {minute}");
        }
    }
    assert_eq!((members, back), (0, 100));
    // What ended within the settle time is still there to be subtracted. Of the five that a clock finds again that steps back, two came back.
    clock.set(ends[294]);
    assert_eq!((count(&ledger, "s").await, drift(&ledger).await), (3 + back, 0));
}

/// Counts until so many totals have been moved on: no count waits for that, nor does it where somebody else is writing.
async fn totals_are_ahead(place: &Place, ledger: &SharedLedger, segments: &[SegmentId], ahead: i64) {
    for _ in 0..200 {
        if place.totals_ahead().await == ahead {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        ledger.count(segments).await.unwrap();
    }
    assert_eq!(place.totals_ahead().await, ahead);
}

pub async fn where_nobody_sweeps_a_count_moves_its_total_on(world: World) {
    let clock = clock();
    let place = world.place();
    let ledger = place.ledger(&settings(36_000, 60, Some(&clock))).await;
    let pairs: Vec<_> = (0..100_i64)
        .map(|n| pair_at("s", &format!("u{n}"), after(start(), -n * 60 * SECOND)))
        .chain([pair("stays", "u")])
        .collect();
    ledger.record(&pairs).await.unwrap();
    let both = [id(&ledger, "stays").await, id(&ledger, "s").await];
    for (minutes_left, ahead) in [(66, 0), (41, 1), (30, 1)] {
        clock.set(after(start(), (36_000 - 60 * minutes_left) * SECOND));
        for _ in 0..2 {
            let counted = ledger.count(&both).await.unwrap();
            let counted: Vec<_> = counted.iter().map(|one| one.members).collect();
            assert_eq!(counted, [1, minutes_left + 1]);
            totals_are_ahead(&place, &ledger, &both, ahead).await;
        }
    }
    assert_eq!(drift(&ledger).await, 0);
}

pub async fn a_clock_that_was_ahead_for_a_moment_spoils_no_count(world: World) {
    let clock = clock();
    let place = world.place();
    let ledger = place.ledger(&settings(6_000, 60, Some(&clock))).await;
    let pairs: Vec<_> = (0..40_i64)
        .map(|n| pair_at("s", &format!("u{n}"), after(start(), -n * 60 * SECOND)))
        .collect();
    let recorded = ledger.record(&pairs).await.unwrap();
    let mut ends: Vec<_> = recorded.pairs.iter().map(|pair| pair.expires_at.unwrap()).collect();
    clock.set(after(start(), 90_000 * SECOND));
    assert_eq!(count(&ledger, "s").await, 0);
    totals_are_ahead(&place, &ledger, &[id(&ledger, "s").await], 1).await;
    clock.set(start());
    assert_eq!((count(&ledger, "s").await, drift(&ledger).await), (40, 0));
    // Members who leave before the instant that the total is of, and one who leaves after it.
    let later = pair_at("s", "later", start());
    let long = Pair {
        ttl: Some(Window::from_seconds(172_800).unwrap()),
        ..pair_at("s", "long", start())
    };
    let more = ledger.record(&[later, long]).await.unwrap();
    ends.extend(more.pairs.iter().map(|pair| pair.expires_at.unwrap()));
    // One who was to leave before it is renewed to leave after it: nothing but where a bucket lies is changed.
    let renewed = Pair {
        ttl: Some(Window::from_seconds(172_800).unwrap()),
        ..pair_at("s", "u1", start())
    };
    let renewed = ledger.record(&[renewed]).await.unwrap();
    ends[1] = renewed.pairs[0].expires_at.unwrap();
    ledger.remove(&[removal("s", "u0")]).await.unwrap();
    ends.remove(0);
    for seconds in [0, 3_700, 5_000, 6_060, 89_000, 90_000, 100_000, 172_860] {
        let now = after(start(), seconds * SECOND);
        clock.set(now);
        let members = i64::try_from(ends.iter().filter(|end| **end > now).count()).unwrap();
        assert_eq!(
            (count(&ledger, "s").await, drift(&ledger).await),
            (members, 0),
            "after {seconds} s"
        );
    }
}

pub async fn processes_with_other_settle_times_count_the_same(world: World) {
    let clock = clock();
    let place = world.place();
    // Statements of both may take as long: behind a pooler, sessions cannot differ in that.
    let settled_after = |seconds| Settings {
        settle: Duration::from_secs(seconds),
        ..settings(3_600, 60, Some(&clock))
    };
    let (slow, quick) = (settled_after(1_800), settled_after(300));
    let (slow, quick) = (place.ledger(&slow).await, place.ledger(&quick).await);
    let names = ["back", "removed", "erased", "gone", "stays"];
    let pairs: Vec<_> = names[..4].iter().map(|user| pair("s", user)).collect();
    let end = slow.record(&pairs).await.unwrap().pairs[0].expires_at.unwrap();
    clock.set(after(start(), 3_000 * SECOND));
    slow.record(&[pair("s", "stays"), pair("other", "back")]).await.unwrap();
    // They ended so lately that the one still moves their bucket, and so long ago that the other has taken it out of the total.
    clock.set(after(end, 400 * SECOND));
    assert_eq!(quick.sweep(30).await.unwrap().counters, 1);
    slow.record(&[pair("s", "back")]).await.unwrap();
    assert_eq!((count(&slow, "s").await, drift(&slow).await), (2, 0));
    slow.remove(&[removal("s", "removed")]).await.unwrap();
    assert_eq!((count(&slow, "s").await, drift(&slow).await), (2, 0));
    slow.erase(&UserId::new("erased").unwrap()).await.unwrap();
    assert_eq!((count(&slow, "s").await, drift(&slow).await), (2, 0));
    slow.record(&[pair("s", "gone"), pair("s", "new"), pair("other", "new")])
        .await
        .unwrap();
    assert_eq!(
        (
            count(&quick, "s").await,
            count(&quick, "other").await,
            drift(&quick).await
        ),
        (4, 2, 0)
    );
    quick.sweep(30).await.unwrap();
    assert_eq!((count(&slow, "s").await, drift(&slow).await), (4, 0));
}

pub async fn a_total_of_an_instant_that_is_to_come_is_mended(world: World) {
    let clock = clock();
    let place = world.place();
    let ledger = place.ledger(&settings(3_600, 60, Some(&clock))).await;
    ledger.record(&[pair("s", "u"), pair("s", "v")]).await.unwrap();
    let later: Vec<_> = (0..5)
        .map(|n| pair_at("s", &format!("w{n}"), after(start(), 240 * SECOND)))
        .collect();
    ledger.record(&later).await.unwrap();
    clock.set(after(start(), (3_600 + 60 + 600 + 60) * SECOND));
    assert!(ledger.sweep(30).await.unwrap().counters > 0);
    // Further back than anything promises: the two are members again, and what was swept does not know.
    clock.set(start());
    let segment = id(&ledger, "s").await;
    assert!(ledger.recount(&[segment]).await.unwrap()[0].drift > 0);
    ledger.record(&[pair("s", "u"), pair("s", "x")]).await.unwrap();
    ledger.remove(&[removal("s", "x")]).await.unwrap();
    for minute in [0, 61, 64, 65, 80] {
        clock.set(after(start(), minute * 60 * SECOND));
        let expected = [(61, 7), (65, 5), (80, 0)]
            .iter()
            .find(|(until, _)| minute < *until)
            .map_or(0, |(_, members)| *members);
        assert_eq!(
            (count(&ledger, "s").await, drift(&ledger).await),
            (expected, 0),
            "minute {minute}"
        );
    }
}

pub async fn a_recount_of_many_finds_the_one_whose_counters_differ_whatever_they_add_up_to(world: World) {
    let clock = clock();
    let place = world.place();
    let ledger = place.ledger(&settings(360_000, 60, Some(&clock))).await;
    // All that there are, then few among many: the one is read whole, the other by key.
    for (names, others) in [(["a", "b", "c", "d"], 0), (["e", "f", "g", "h"], 20)] {
        let lone: Vec<_> = (0..others)
            .map(|n| pair_at(&format!("lone-{n}"), "u", start()))
            .collect();
        ledger.record(&lone).await.unwrap();
        let pairs: Vec<_> = names
            .iter()
            .flat_map(|segment| {
                (0..40_i64).map(|n| pair_at(segment, &format!("u{n}"), after(start(), -n * 900 * SECOND)))
            })
            .collect();
        ledger.record(&pairs).await.unwrap();
        // By the server's statistics it is known how much there is to read.
        place.tamper("ANALYZE {lane}.membership").await;
        let mut ids = Vec::new();
        for segment in names {
            ids.push(id(&ledger, segment).await);
        }
        let drifts = async || -> Vec<i64> {
            let found = ledger.recount(&ids).await.unwrap();
            assert_eq!(found.iter().map(|one| one.segment).collect::<Vec<_>>(), ids);
            assert!(found.iter().all(|one| one.members == 40), "{found:?}");
            found.iter().map(|one| one.drift).collect()
        };
        assert_eq!(drifts().await, [0; 4]);
        // One more here and one less there: the sums stay as they are.
        for (change, which) in [("+", "max"), ("-", "min")] {
            place
                .tamper(&format!(
                    "UPDATE {{lane}}.segment_expiry SET members = members {change} 1
                      WHERE segment_id = {0} AND expires_at = (SELECT {which}(expires_at) FROM {{lane}}.segment_expiry WHERE segment_id = {0})",
                    ids[2].0
                ))
                .await;
        }
        assert_eq!(drifts().await, [0, 0, 2, 0]);
        assert_eq!(drifts().await, [0; 4], "mended");
        place
            .tamper(&format!(
                "UPDATE {{lane}}.segment_total SET members = members + 3 WHERE segment_id = {}",
                ids[2].0
            ))
            .await;
        assert_eq!(drifts().await, [0, 0, 3, 0]);
        assert_eq!(drifts().await, [0; 4], "the total mended");
        // A counter of something that nobody is in.
        place
            .tamper(&format!(
                "DELETE FROM {{lane}}.membership WHERE segment_id = {} AND user_id = 'u7'",
                ids[1].0
            ))
            .await;
        let found = ledger.recount(&ids).await.unwrap();
        assert_eq!(
            found.iter().map(|one| one.members).collect::<Vec<_>>(),
            [40, 39, 40, 40]
        );
        assert!(found[1].drift > 0, "{found:?}");
        assert_eq!(
            ledger
                .recount(&ids)
                .await
                .unwrap()
                .iter()
                .map(|one| one.drift)
                .sum::<i64>(),
            0
        );
    }
}

/// What made the schema of the version before of this one's, a statement after another. `{lane}.` is a lane's schema.
fn as_it_was_before(kind: Kind) -> Vec<&'static str> {
    let mut statements = vec![
        "ALTER TABLE {lane}.segment_expiry RENAME TO segment_bucket",
        "DROP TABLE {lane}.segment_total",
    ];
    statements.extend(match kind {
        Kind::Sqlite => [
            "CREATE TABLE {lane}.segment_span (
               segment_id INTEGER NOT NULL, span_end INTEGER NOT NULL, members INTEGER NOT NULL, PRIMARY KEY (segment_id, span_end)
             ) STRICT, WITHOUT ROWID",
            "DELETE FROM {lane}._sqlx_migrations WHERE version = 3",
        ]
        .as_slice(),
        _ => &[
            "ALTER INDEX {lane}.segment_expiry_pkey RENAME TO segment_bucket_pkey",
            "CREATE TABLE {lane}.segment_span (
               segment_id bigint NOT NULL, span_end timestamptz NOT NULL, members bigint NOT NULL, PRIMARY KEY (segment_id, span_end))",
            "GRANT SELECT, UPDATE ON {lane}.segment_span TO PUBLIC",
            "DELETE FROM {lane}._sqlx_migrations WHERE version = 2",
        ],
    });
    if kind == Kind::Citus {
        statements.extend([
            "CREATE FUNCTION {lane}.sweep_segment_bucket(timestamptz, bigint, bigint) RETURNS SETOF integer LANGUAGE sql AS 'SELECT 1'",
            "SELECT create_distributed_function('{lane}.sweep_segment_bucket(timestamptz, bigint, bigint)', colocate_with := '{lane}.membership')",
            "UPDATE {base}.distribution SET version = 2",
        ]);
    }
    statements
}

pub async fn a_ledger_of_the_version_before_counts_the_same_once_it_is_migrated(world: World) {
    let clock = clock();
    let place = world.place();
    let settings = settings(3_600, 60, Some(&clock));
    let ledger = place.ledger(&settings).await;
    let pairs: Vec<_> = (0..60_i64)
        .map(|n| pair_at("s", &format!("u{n}"), after(start(), -n * 50 * SECOND)))
        .chain((0..5_i64).map(|n| pair("other", &format!("u{n}"))))
        .collect();
    let recorded = ledger.record(&pairs).await.unwrap();
    let ends: Vec<_> = recorded.pairs.iter().map(|pair| pair.expires_at.unwrap()).collect();
    let expected = |at| i64::try_from(ends[..60].iter().filter(|end| **end > at).count()).unwrap();
    // Some have ended, so long ago that they are swept, and not so long ago.
    clock.set(after(start(), 1_500 * SECOND));
    ledger.sweep(30).await.unwrap();
    let now = after(start(), 2_000 * SECOND);
    clock.set(now);
    assert_eq!((count(&ledger, "s").await, drift(&ledger).await), (expected(now), 0));
    for statement in as_it_was_before(world.kind) {
        place.tamper(statement).await;
    }
    ledger.close().await;

    let ledger = place.open(&settings);
    assert!(!ledger.schema().await.unwrap().is_current());
    assert!(matches!(ledger.check().await.unwrap_err(), LedgerError::Schema(_)));
    assert!(ledger.migrate().await.unwrap().is_current());
    if world.kind != Kind::Sqlite {
        let granted = "SELECT count(*) FROM pg_class c, aclexplode(c.relacl) a WHERE c.oid = '{lane}.segment_total'::regclass AND a.grantee = 0";
        assert_eq!(place.number(granted).await, 2 * i64::from(world.kind.lanes()));
    }
    for minutes in [0, 1, 10, 25] {
        let now = after(start(), (2_000 + minutes * 60) * SECOND);
        clock.set(now);
        let members = expected(now);
        assert_eq!(
            (count(&ledger, "s").await, drift(&ledger).await),
            (members, 0),
            "after {minutes} minutes"
        );
        ledger.sweep(30).await.unwrap();
        assert_eq!(
            (count(&ledger, "s").await, drift(&ledger).await),
            (members, 0),
            "swept after {minutes} minutes"
        );
        assert_eq!(count(&ledger, "other").await, 5);
    }
}

pub async fn a_recount_of_a_deleted_segment_finds_nothing(world: World) {
    let place = world.place();
    let ledger = place.ledger(&settings(3_600, 60, None)).await;
    ledger.record(&[pair("s", "u1"), pair("s", "u2")]).await.unwrap();
    let deleted = ledger.delete_segment(&name("s")).await.unwrap().unwrap();
    // The sweep has cleared away its memberships, and not yet its counters.
    place.tamper("DELETE FROM {lane}.membership").await;
    let recounted = ledger.recount(&[deleted]).await.unwrap()[0];
    assert_eq!((recounted.members, recounted.drift), (0, 0));
}
