//! Rules 10 and 11: removals, deleted segments, erased users.

use std::time::Duration;

use segment_counter::counting::{Outcome, UserId, Window};
use segment_counter::ledger::{RemovalOutcome, SharedLedger};

use crate::model::SECOND;
use crate::world::{
    World, after, archive, clock, count, drift, id, name, pair, pair_at, put, removal, settings, start,
};

async fn outcome(ledger: &SharedLedger, pair: segment_counter::counting::Pair) -> Outcome {
    ledger.record(&[pair]).await.unwrap().pairs[0].outcome
}

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

pub async fn rule_10_a_removal_beats_what_was_observed_before_and_nothing_after(world: World) {
    let clock = clock();
    let ledger = world.place().ledger(&settings(3_600, 60, Some(&clock))).await;
    ledger.record(&[pair("s", "u"), pair("s", "other")]).await.unwrap();
    clock.set(after(start(), 10 * SECOND));
    let removed = ledger.remove(&[removal("s", "u")]).await.unwrap();
    assert_eq!(removed.outcomes, [RemovalOutcome::Removed]);
    assert_eq!(removed.changed, [id(&ledger, "s").await]);
    assert_eq!((count(&ledger, "s").await, drift(&ledger).await), (1, 0));

    // Late ones, however long they would last, even at the very instant; then one of a moment later, and one that says nothing.
    let longest = Window::from_seconds(86_400).unwrap();
    for micros in [-SECOND, 9 * SECOND, 10 * SECOND] {
        let mut late = pair_at("s", "u", after(start(), micros));
        late.ttl = Some(longest);
        assert_eq!(outcome(&ledger, late).await, Outcome::Removed, "observed at {micros}");
    }
    assert_eq!(count(&ledger, "s").await, 1);
    assert_eq!(
        outcome(&ledger, pair_at("s", "u", after(start(), 10 * SECOND + 1))).await,
        Outcome::Created
    );
    assert_eq!(count(&ledger, "s").await, 2);
    // The mark outlives the return: what was observed before it is still beaten.
    let mut late = pair_at("s", "u", after(start(), 9 * SECOND));
    late.ttl = Some(longest);
    assert_eq!(outcome(&ledger, late).await, Outcome::Removed);

    ledger.remove(&[removal("s", "u")]).await.unwrap();
    assert_eq!(outcome(&ledger, pair("s", "u")).await, Outcome::Created);
    assert_eq!((count(&ledger, "s").await, drift(&ledger).await), (2, 0));
}

pub async fn rule_10_a_removal_is_remembered_where_nobody_was_and_after_the_archive(world: World) {
    let clock = clock();
    let mut settings = settings(3_600, 60, Some(&clock));
    settings.rules = settings
        .rules
        .with_max_ttl(Window::from_seconds(86_400).unwrap())
        .unwrap();
    let place = world.place();
    let ledger = place.ledger(&settings).await;
    ledger.record(&[pair("s", "back"), pair("s", "once")]).await.unwrap();
    let absent = [removal("s", "never"), removal("none", "u")];
    assert_eq!(
        ledger.remove(&absent).await.unwrap().outcomes,
        [RemovalOutcome::NotMember, RemovalOutcome::NoSegment]
    );
    assert!(ledger.resolve(&[name("none")]).await.unwrap()[0].is_none());
    ledger.remove(&[removal("s", "back")]).await.unwrap();
    clock.set(after(start(), SECOND));
    ledger.record(&[pair("s", "back")]).await.unwrap();

    // All have ended and are archived; the marks stay.
    clock.set(after(start(), 10_000 * SECOND));
    assert_eq!(archive(&ledger, 1).await, 2);
    assert_eq!(archive(&ledger, 1).await, 0);
    let late = |who: &str| {
        let mut late = pair_at("s", who, after(start(), 0));
        late.ttl = Some(Window::from_seconds(86_400).unwrap());
        late
    };
    assert_eq!(outcome(&ledger, late("never")).await, Outcome::Removed);
    assert_eq!(outcome(&ledger, late("back")).await, Outcome::Removed);
    assert_eq!(outcome(&ledger, late("once")).await, Outcome::Created);

    // Until whatever was observed before would have ended: then the archive takes them, and they are in no history.
    clock.set(after(start(), (86_400 + 60 + 600 + 1) * SECOND));
    assert_eq!(archive(&ledger, 100).await, 1);
    assert_eq!(outcome(&ledger, late("never")).await, Outcome::Expired);
    let kept: Vec<String> = place.history().await.into_iter().map(|(_, user, _)| user).collect();
    assert_eq!(kept, ["back", "back", "once", "once"]);
    assert_eq!(place.rows().await, 0);
}

pub async fn rule_10_a_removal_that_the_snapshot_did_not_see_still_beats_a_late_pair(world: World) {
    let place = world.place();
    let settings = settings(3_600, 1, None);
    let (writer, remover) = (place.ledger(&settings).await, place.ledger(&settings).await);
    let second = place.ledger(&settings).await;
    writer.record(&[pair("s", "u")]).await.unwrap();
    let segment = id(&writer, "s").await;
    // Every late pair was observed before every removal, so at the end nobody may be in. Users are new in every round: of those who bear a mark
    // already the snapshot tells.
    let early = after(writer.now().await.unwrap(), -SECOND);
    for round in 0..60_i64 {
        let late: Vec<_> = (0..20).map(|n| pair_at("s", &format!("u{round}-{n}"), early)).collect();
        let removals: Vec<_> = (0..20).rev().map(|n| removal("s", &format!("u{round}-{n}"))).collect();
        let other = late.clone();
        let (recorded, removed, again) =
            tokio::join!(writer.record(&late), remover.remove(&removals), second.record(&other));
        assert_eq!(removed.unwrap().outcomes.len(), 20);
        for one in recorded.unwrap().pairs.into_iter().chain(again.unwrap().pairs) {
            assert!(
                matches!(one.outcome, Outcome::Created | Outcome::Unchanged | Outcome::Removed),
                "{one:?}"
            );
        }
        let counted = writer.count(&[segment]).await.unwrap()[0].members;
        assert_eq!(counted, 1, "in round {round} somebody came back");
    }
    assert_eq!(drift(&writer).await, 0);
}

pub async fn rule_10_a_pair_after_an_acknowledged_removal_always_counts(world: World) {
    let place = world.place();
    let settings = settings(3_600, 60, None);
    let (one, other) = (place.ledger(&settings).await, place.ledger(&settings).await);
    one.record(&[pair("s", "u")]).await.unwrap();
    for round in 0..50 {
        let removed = other.remove(&[removal("s", "u")]).await.unwrap();
        assert_eq!(removed.outcomes, [RemovalOutcome::Removed], "round {round}");
        assert_eq!(count(&one, "s").await, 0);
        assert_eq!(outcome(&one, pair("s", "u")).await, Outcome::Created, "round {round}");
        assert_eq!(count(&other, "s").await, 1);
    }
    assert_eq!(drift(&one).await, 0);
}

pub async fn rule_10_every_change_of_that_kind_raises_the_epoch(world: World) {
    let ledger = world.place().ledger(&settings(3_600, 60, None)).await;
    let mut last = ledger.record(&[pair("s", "u")]).await.unwrap().epoch;
    assert_eq!(ledger.record(&[pair("s", "u2")]).await.unwrap().epoch, last);
    ledger.remove(&[removal("s", "u")]).await.unwrap();
    for change in ["removal", "erasure", "window", "deletion"] {
        let epoch = ledger.record(&[pair("t", "u")]).await.unwrap().epoch;
        assert!(epoch > last, "{change}");
        last = epoch;
        match change {
            "removal" => drop(ledger.erase(&user("u")).await.unwrap()),
            "erasure" => drop(ledger.put_segment(&put("s", Some(60))).await.unwrap()),
            _ => drop(ledger.delete_segment(&name("s")).await.unwrap()),
        }
    }
}

pub async fn rule_11_an_erased_user_is_nowhere_and_late_pairs_stay_out(world: World) {
    let clock = clock();
    let mut settings = settings(3_600, 60, Some(&clock));
    settings.rules = settings
        .rules
        .with_max_ttl(Window::from_seconds(7_200).unwrap())
        .unwrap();
    let place = world.place();
    let ledger = place.ledger(&settings).await;
    ledger.record(&[pair("a", "gone"), pair("a", "stays")]).await.unwrap();
    clock.set(after(start(), 5_000 * SECOND));
    assert_eq!(archive(&ledger, 10).await, 2);
    let pairs = [pair("a", "gone"), pair("b", "gone"), pair("b", "stays")];
    ledger.record(&pairs).await.unwrap();
    ledger.remove(&[removal("b", "gone")]).await.unwrap();

    let erasure = ledger.erase(&user("gone")).await.unwrap();
    // One membership and one mark; one row that the archive made and one that the removal made.
    assert_eq!((erasure.memberships, erasure.history), (2, 2));
    assert_eq!(erasure.changed, [id(&ledger, "a").await]);
    assert!(erasure.receipt.len() >= 32 && !erasure.receipt.contains("gone"));
    assert_eq!((count(&ledger, "a").await, count(&ledger, "b").await), (0, 1));
    assert_eq!(drift(&ledger).await, 0);
    assert!(!place.mentions("gone").await);

    let at = |micros| pair_at("a", "gone", after(start(), 5_000 * SECOND + micros));
    assert_eq!(outcome(&ledger, at(-SECOND)).await, Outcome::Erased);
    assert_eq!(outcome(&ledger, at(0)).await, Outcome::Erased);
    assert!(!place.mentions("gone").await);
    // A user who comes back is a user like any other.
    assert_eq!(outcome(&ledger, at(1)).await, Outcome::Created);
    ledger.erase(&user("gone")).await.unwrap();
    assert_eq!(outcome(&ledger, pair("a", "gone")).await, Outcome::Created);
    assert_eq!(count(&ledger, "a").await, 1);

    // The suppression goes when nothing can come any more that it would keep out.
    assert_eq!(place.suppressions().await, 1);
    clock.set(erasure.suppressed_until - Duration::from_secs(1));
    ledger.sweep(30).await.unwrap();
    assert_eq!(place.suppressions().await, 1);
    assert_eq!(outcome(&ledger, at(0)).await, Outcome::Expired);
    clock.set(erasure.suppressed_until);
    ledger.sweep(30).await.unwrap();
    assert_eq!(place.suppressions().await, 0);
}

pub async fn rule_11_what_an_erasure_keeps_out_stays_out_after_another_on_a_clock_that_stepped_back(world: World) {
    let clock = clock();
    let place = world.place();
    let ledger = place.ledger(&settings(3_600, 60, Some(&clock))).await;
    clock.set(after(start(), 100 * SECOND));
    let first = ledger.erase(&user("gone")).await.unwrap();
    clock.set(start());
    let second = ledger.erase(&user("gone")).await.unwrap();
    assert_eq!(second.erased_at, first.erased_at);
    assert_eq!(second.suppressed_until, first.suppressed_until);
    let at = |micros| pair_at("s", "gone", after(start(), micros));
    assert_eq!(outcome(&ledger, at(0)).await, Outcome::Erased);
    assert_eq!(outcome(&ledger, at(100 * SECOND)).await, Outcome::Erased);
    assert_eq!(outcome(&ledger, at(100 * SECOND + 1)).await, Outcome::Created);
}

pub async fn rule_11_what_a_removal_keeps_out_stays_out_after_an_erasure_on_a_clock_that_stepped_back(world: World) {
    let clock = clock();
    let place = world.place();
    let ledger = place.ledger(&settings(3_600, 60, Some(&clock))).await;
    ledger.record(&[pair("s", "gone")]).await.unwrap();
    clock.set(after(start(), 100 * SECOND));
    ledger.remove(&[removal("s", "gone")]).await.unwrap();
    clock.set(start());
    let erased = ledger.erase(&user("gone")).await.unwrap();
    assert_eq!(erased.erased_at, after(start(), 100 * SECOND));
    let at = |micros| pair_at("s", "gone", after(start(), micros));
    assert_eq!(outcome(&ledger, at(50 * SECOND)).await, Outcome::Erased);
    assert_eq!(outcome(&ledger, at(100 * SECOND)).await, Outcome::Erased);
    assert_eq!(outcome(&ledger, at(100 * SECOND + 1)).await, Outcome::Created);
}

/// Of PostgreSQL's: SQLite's erasure is one transaction.
pub async fn rule_11_a_removal_ends_what_an_erasure_that_broke_off_left(world: World) {
    if world.kind == crate::world::Kind::Sqlite {
        return;
    }
    let place = world.place();
    let ledger = place.ledger(&settings(3_600, 60, None)).await;
    ledger
        .record(&[pair("s", "u"), pair("s", "other"), pair("t", "u")])
        .await
        .unwrap();
    // The first step of an erasure, and none of those that follow.
    let began = "INSERT INTO {base}.suppression (user_hash, receipt, suppressed_until)
                 SELECT sha256(key || convert_to('u', 'UTF8')), gen_random_uuid(), now() + interval '1 day' FROM {base}.suppression_key
                     ON CONFLICT DO NOTHING";
    place.tamper(began).await;
    assert_eq!(outcome(&ledger, pair("s", "u")).await, Outcome::Erased);
    let removals = [removal("s", "u"), removal("s", "other"), removal("s", "nobody")];
    let removed = ledger.remove(&removals).await.unwrap();
    assert_eq!(
        removed.outcomes,
        [
            RemovalOutcome::Removed,
            RemovalOutcome::Removed,
            RemovalOutcome::NotMember
        ]
    );
    assert_eq!((count(&ledger, "s").await, count(&ledger, "t").await), (0, 1));
    assert_eq!(drift(&ledger).await, 0);
    let history = place.history().await;
    assert_eq!(history.iter().filter(|(_, user, _)| user == "u").count(), 1);
    // Where it got as far as the rows, no mark is made anew.
    ledger.erase(&user("u")).await.unwrap();
    place.tamper("UPDATE {base}.suppression SET erased_at = NULL").await;
    assert_eq!(
        ledger.remove(&[removal("s", "u")]).await.unwrap().outcomes,
        [RemovalOutcome::NotMember]
    );
    assert!(!place.mentions("u").await);
    assert_eq!((count(&ledger, "s").await, count(&ledger, "t").await), (0, 0));
}

pub async fn rule_11_an_erasure_waits_for_writers_and_leaves_nothing_behind_among_them(world: World) {
    let place = world.place();
    let settings = settings(3_600, 1, None);
    let ledger = place.ledger(&settings).await;
    let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut tasks = tokio::task::JoinSet::new();
    let early = after(ledger.now().await.unwrap(), -SECOND);
    for writer in 0..3_u32 {
        let (ledger, over) = (place.ledger(&settings).await, std::sync::Arc::clone(&over));
        tasks.spawn(async move {
            let mut longer = 3_600;
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                // Every batch renews everybody, so that it writes where an erasure has just deleted.
                longer += 1;
                let ttl = Some(Window::from_seconds(longer).unwrap());
                // All observed before the erasure: once it is acknowledged none may be there, whoever was under way meanwhile.
                let pairs: Vec<_> = (0..60)
                    .map(|n| pair_at(&format!("s{}", (n + writer) % 7), &format!("u{}", n % 20), early))
                    .map(|pair| segment_counter::counting::Pair { ttl, ..pair })
                    .collect();
                ledger.record(&pairs).await.unwrap();
            }
        });
    }
    for n in 0..20 {
        let who = format!("u{n}");
        ledger.erase(&user(&who)).await.unwrap();
        assert!(!place.mentions(&who).await, "{who} is still there");
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!place.mentions(&who).await, "{who} came back");
    }
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    for n in 0..7 {
        assert_eq!(count(&ledger, &format!("s{n}")).await, 0);
    }
    assert_eq!(drift(&ledger).await, 0);
}

pub async fn a_deleted_segment_is_gone_at_once_and_its_rows_with_the_next_sweep(world: World) {
    let clock = clock();
    let place = world.place();
    let settings = settings(3_600, 60, Some(&clock));
    let (ledger, other) = (place.ledger(&settings).await, place.ledger(&settings).await);
    let pairs: Vec<_> = (0..50).map(|n| pair("s", &format!("u{n}"))).collect();
    ledger.record(&pairs).await.unwrap();
    ledger.record(&[pair("t", "u")]).await.unwrap();
    let old = id(&other, "s").await;
    ledger.recount(&[old]).await.unwrap();

    assert_eq!(ledger.delete_segment(&name("s")).await.unwrap(), Some(old));
    assert_eq!(ledger.delete_segment(&name("s")).await.unwrap(), None);
    assert!(other.segment(&name("s")).await.unwrap().is_none());
    let counted = other.count(&[old]).await.unwrap()[0];
    assert_eq!((counted.members, counted.exists), (0, false));

    // Another process still holds the old number: its pairs make the segment anew, empty but for them.
    assert_eq!(outcome(&other, pair("s", "u1")).await, Outcome::Created);
    let new = id(&ledger, "s").await;
    assert!(new != old);
    assert_eq!((count(&ledger, "s").await, count(&ledger, "t").await), (1, 1));

    clock.set(after(start(), 601 * SECOND));
    ledger.sweep(30).await.unwrap();
    assert_eq!(place.rows().await, 2);
    assert_eq!(place.history().await.len(), 0);
    assert_eq!((count(&ledger, "s").await, drift(&ledger).await), (1, 0));
}
