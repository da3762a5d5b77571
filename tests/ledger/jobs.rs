//! What the jobs do to a ledger, and its schema.

use std::time::Duration;

use segment_counter::ledger::{Job, JobReport, JobResult, LedgerError, Settings, open};
use tokio::task::JoinSet;

use crate::model::SECOND;
use crate::world::{World, after, archive, clock, count, drift, id, pair, removal, settings, start};

pub async fn the_archive_moves_exactly_what_ended_before_now_minus_settle(world: World) {
    let clock = clock();
    let place = world.place();
    let ledger = place.ledger(&settings(60, 60, Some(&clock))).await;
    // A minute apart each: the ends are 23:01:00, 23:02:00 … of the last day of March.
    for minute in 0..40_i64 {
        clock.set(after(start(), minute * 60 * SECOND));
        let pairs: Vec<_> = (0..20)
            .map(|user| pair("s", &format!("m{minute:02}-u{user:02}")))
            .collect();
        ledger.record(&pairs).await.unwrap();
    }
    let segment = id(&ledger, "s").await.0;
    // 23:30:30: what ended before 23:20:30 goes, in whatever batches, into the history of a month that began meanwhile.
    clock.set("2026-03-31T23:30:30Z".parse().unwrap());
    assert_eq!(archive(&ledger, 7).await, 20 * 20);
    assert_eq!(archive(&ledger, 7).await, 0);
    let bound: jiff::Timestamp = "2026-03-31T23:20:30Z".parse().unwrap();
    let history = place.history().await;
    assert_eq!(history.len(), 400);
    assert!(
        history
            .iter()
            .all(|(of, _, end)| *of == segment && *end < bound.as_microsecond())
    );
    let swept = ledger.sweep(30).await.unwrap();
    assert!(swept.counters >= 20, "{swept:?}");
    assert_eq!(drift(&ledger).await, 0);
    // Months later: a month whose partition nobody made ahead; then past retention.
    clock.set("2026-08-15T00:00:00Z".parse().unwrap());
    assert_eq!(archive(&ledger, 1_000).await, 400);
    assert_eq!(place.history().await.len(), 800);
    assert_eq!(count(&ledger, "s").await, 0);
    ledger.sweep(60).await.unwrap();
    assert_eq!(place.history().await.len(), 400, "March's are dropped, August's stay");
    ledger.sweep(365).await.unwrap();
    assert_eq!(place.history().await.len(), 400);
    assert_eq!(ledger.record(&[pair("s", "m00-u00")]).await.unwrap().changed.len(), 1);
}

/// Batches large enough that one which was full is followed by one that does not look ahead: through dense blocks, and out of them.
pub async fn an_archive_of_a_table_full_of_what_ended_moves_nothing_else(world: World) {
    const USERS: usize = 6_000;
    let clock = clock();
    let place = world.place();
    let ledger = place.ledger(&settings(3_600, 60, Some(&clock))).await;
    let user = |n: usize| format!("u{n:05}");
    let record = async |of: &[usize]| {
        let pairs: Vec<_> = of.iter().map(|n| pair("s", &user(*n))).collect();
        for some in pairs.chunks(500) {
            ledger.record(some).await.unwrap();
        }
    };
    let all: Vec<usize> = (0..USERS).collect();
    record(&all).await;
    // All over the table: some are removed and stay away, some are removed and come back, some renew; of the last thousand most do.
    let removed: Vec<usize> = (0..USERS).filter(|n| n % 50 == 7).collect();
    let back: Vec<usize> = (0..USERS).filter(|n| n % 100 == 7).collect();
    let renewed: Vec<usize> = (0..USERS)
        .filter(|n| n % 50 != 7 && (n % 20 == 3 || (*n >= USERS - 1_000 && n % 10 != 0)))
        .collect();
    let removals: Vec<_> = removed.iter().map(|n| removal("s", &user(*n))).collect();
    ledger.remove(&removals).await.unwrap();
    clock.set(after(start(), SECOND));
    record(&back).await;
    clock.set(after(start(), 3_000 * SECOND));
    record(&renewed).await;
    clock.set(after(start(), (3_600 + 60 + 600 + 60) * SECOND));

    let ended = USERS - removed.len() + back.len() - renewed.len();
    assert_eq!(archive(&ledger, 200).await, i64::try_from(ended).unwrap());
    assert_eq!(archive(&ledger, 200).await, 0);
    let mut moved: Vec<String> = place.history().await.into_iter().map(|(_, user, _)| user).collect();
    moved.sort_unstable();
    // Who was removed is in it since then; who came back, twice.
    let mut expected: Vec<usize> = all
        .iter()
        .filter(|n| !renewed.contains(n))
        .chain(&back)
        .copied()
        .collect();
    expected.sort_unstable();
    let expected: Vec<String> = expected.into_iter().map(user).collect();
    assert_eq!(moved, expected);
    let still = i64::try_from(renewed.len()).unwrap();
    assert_eq!((count(&ledger, "s").await, drift(&ledger).await), (still, 0));
    // The marks are there, the memberships that bore them are not.
    assert_eq!(place.rows().await, still + i64::try_from(removed.len()).unwrap());
}

pub async fn one_exclusive_job_runs_at_a_time_and_a_dead_one_is_forgotten(world: World) {
    let clock = clock();
    let ledger = world.place().ledger(&settings(60, 60, Some(&clock))).await;
    assert_eq!(ledger.job_state(Job::Archive).await.unwrap(), Default::default());
    let first = ledger.begin_job(Job::Archive, true).await.unwrap().unwrap();
    assert!(ledger.job_state(Job::Archive).await.unwrap().running);
    assert_eq!(ledger.begin_job(Job::Archive, true).await.unwrap(), None);
    assert!(
        ledger.begin_job(Job::Refresh, true).await.unwrap().is_some(),
        "another kind is free"
    );
    clock.set(after(start(), 50 * SECOND));
    let report = JobReport {
        processed: 7,
        ..JobReport::default()
    };
    ledger.job_progress(first, &report).await.unwrap();
    clock.set(after(start(), 109 * SECOND));
    assert_eq!(
        ledger.begin_job(Job::Archive, true).await.unwrap(),
        None,
        "seen within the minute"
    );
    clock.set(after(start(), 111 * SECOND));
    assert!(!ledger.job_state(Job::Archive).await.unwrap().running);
    let second = ledger.begin_job(Job::Archive, true).await.unwrap().unwrap();
    ledger.end_job(second, JobResult::Succeeded, &report).await.unwrap();
    let ended = after(start(), 111 * SECOND);
    clock.set(after(start(), 211 * SECOND));
    let third = ledger.begin_job(Job::Archive, true).await.unwrap().unwrap();
    ledger
        .end_job(
            third,
            JobResult::Failed("the disk is full".to_owned()),
            &JobReport::default(),
        )
        .await
        .unwrap();
    let state = ledger.job_state(Job::Archive).await.unwrap();
    assert!(!state.running);
    assert_eq!(state.last_end, Some(after(start(), 211 * SECOND)));
    assert_eq!(state.last_result, Some(Err("the disk is full".to_owned())));
    assert_eq!(state.last_success, Some(ended));
    assert_eq!(state.seconds_since_success, Some(100));
}

pub async fn a_sweep_forgets_old_runs_but_never_what_the_state_is_told_from(world: World) {
    let clock = clock();
    let place = world.place();
    let ledger = place.ledger(&settings(60, 60, Some(&clock))).await;
    let day = |days: i64| clock.set(after(start(), days * 86_400 * SECOND));
    let run = async |job: Job, result: Option<JobResult>| {
        let id = ledger.begin_job(job, false).await.unwrap().unwrap();
        if let Some(result) = result {
            ledger.end_job(id, result, &JobReport::default()).await.unwrap();
        }
    };
    let failed = || JobResult::Failed("x".to_owned());
    // A refresh that once succeeded, and the archive: old successes, the last of them, failures since, and one that died.
    run(Job::Refresh, Some(JobResult::Succeeded)).await;
    for n in 0..3 {
        day(n);
        run(Job::Archive, Some(JobResult::Succeeded)).await;
        run(Job::Archive, Some(failed())).await;
        run(Job::Archive, None).await;
    }
    assert_eq!(place.runs().await, 10);
    day(31);
    ledger.sweep(30).await.unwrap();
    // Those of the first two days are past; the refresh's only one is both its newest and its last success.
    assert_eq!(place.runs().await, 4, "the third day's, and the refresh's");
    day(1_000);
    ledger.sweep(30).await.unwrap();
    assert_eq!(
        place.runs().await,
        4,
        "the newest, the last that ended, the last that succeeded"
    );
    let state = ledger.job_state(Job::Archive).await.unwrap();
    assert_eq!(state.last_result, Some(Err("x".to_owned())));
    assert_eq!(state.last_success, Some(after(start(), 2 * 86_400 * SECOND)));
    assert_eq!(
        ledger.job_state(Job::Refresh).await.unwrap().last_success,
        Some(start())
    );
    run(Job::Archive, Some(JobResult::Succeeded)).await;
    ledger.sweep(30).await.unwrap();
    assert_eq!(place.runs().await, 2);
}

pub async fn migrations_may_run_again_and_at_once(world: World) {
    let place = world.place();
    let settings = Settings {
        settle: Duration::from_secs(600),
        ..Settings::default()
    };
    let mut tasks = JoinSet::new();
    for _ in 0..6 {
        let ledger = open(&place.location(), settings.clone()).unwrap();
        tasks.spawn(async move { ledger.migrate().await });
    }
    while let Some(task) = tasks.join_next().await {
        assert!(task.unwrap().unwrap().is_current());
    }
    let ledger = place.ledger(&settings).await;
    ledger.record(&[pair("s", "u")]).await.unwrap();
    assert!(ledger.migrate().await.unwrap().is_current());
    assert_eq!(count(&ledger, "s").await, 1);
}

pub async fn a_ledger_without_its_schema_says_so(world: World) {
    let ledger = open(&world.place().location(), Settings::default()).unwrap();
    let state = ledger.schema().await.unwrap();
    assert_eq!(state.installed, None);
    assert!(!state.is_current());
    for error in [
        ledger.record(&[pair("s", "u")]).await.unwrap_err(),
        ledger.check().await.unwrap_err(),
    ] {
        assert!(matches!(error, LedgerError::Schema(_)), "{error:?}");
    }
    assert!(ledger.migrate().await.unwrap().is_current());
    ledger.record(&[pair("s", "u")]).await.unwrap();
}
