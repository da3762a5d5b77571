//! Group commit: who shares a commit, who is refused, and that nothing taken is lost.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use segment_counter::counting::Outcome;
use segment_counter::ledger::LedgerError;
use segment_counter::service::{Service, ServiceConfig, ServiceError};
use tokio::task::yield_now;
use tokio::time::Instant;

use crate::model::{ModelLedger, memory, pair, start};

fn sizes(ledger: &ModelLedger) -> Vec<usize> {
    ledger.batches.lock().unwrap().iter().map(Vec::len).collect()
}

/// Lets every task that can run do so.
async fn settle() {
    for _ in 0..50 {
        yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lone_pair_waits_for_nothing() {
    let ledger = ModelLedger::new();
    let service = start(&ledger, memory(), ServiceConfig::default());
    let started = Instant::now();
    for user in 0..3 {
        assert_eq!(service.record(pair(user, "s")).await.unwrap().outcome, Outcome::Created);
    }
    assert_eq!(started.elapsed(), Duration::ZERO);
    assert_eq!(sizes(&ledger), [1, 1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_crowd_shares_commits_and_each_gets_its_own_answer_after_them() {
    let ledger = ModelLedger::new();
    *ledger.record_delay.lock().unwrap() = Duration::from_millis(10);
    let service = start(&ledger, memory(), ServiceConfig::default());
    let started = Instant::now();
    let answers = join_all((0..1_200).map(|user| service.record(pair(user, &format!("s{}", user % 7))))).await;
    for (user, answer) in answers.into_iter().enumerate() {
        let answer = answer.unwrap();
        assert_eq!(answer.outcome, Outcome::Created);
        assert_eq!(answer.expires_at.unwrap().as_second(), i64::try_from(user).unwrap());
    }
    let sizes = sizes(&ledger);
    assert!(sizes.len() <= 4 && sizes.iter().all(|size| *size <= 500), "{sizes:?}");
    assert!(started.elapsed() >= Duration::from_millis(30));
    assert_eq!(ledger.most_at_once.load(Ordering::SeqCst), 7, "one flush at a time");
}

#[tokio::test(start_paused = true)]
async fn the_same_pair_in_one_flush_is_answered_for_each_request() {
    let ledger = ModelLedger::new();
    ledger.record_door.close();
    let service = start(&ledger, memory(), ServiceConfig::default());
    let answers = join_all((0..3).map(|_| service.record(pair(1, "s"))));
    let (answers, ()) = tokio::join!(answers, async {
        settle().await;
        ledger.record_door.release();
    });
    assert_eq!(
        answers
            .into_iter()
            .filter(|a| a.as_ref().unwrap().outcome == Outcome::Created)
            .count(),
        1
    );
    assert_eq!(ledger.members("s"), 1);
}

#[tokio::test(start_paused = true)]
async fn beyond_the_queue_a_pair_is_refused_and_nothing_of_it_is_taken() {
    let ledger = ModelLedger::new();
    ledger.record_door.close();
    let service = start(
        &ledger,
        memory(),
        ServiceConfig {
            queue_pairs: 10,
            ..ServiceConfig::default()
        },
    );
    // One is in the flush that the door holds.
    let first = tokio::spawn({
        let service = Arc::clone(&service);
        async move { service.record(pair(1_000, "s")).await }
    });
    settle().await;
    let crowd = join_all((0..25).map(|user| service.record(pair(user, "s"))));
    let (answers, ()) = tokio::join!(crowd, async {
        settle().await;
        ledger.record_door.release();
    });
    first.await.unwrap().unwrap();
    let refused = answers
        .iter()
        .filter(|answer| matches!(answer, Err(ServiceError::Overloaded { .. })))
        .count();
    assert_eq!(
        (answers.iter().filter(|answer| answer.is_ok()).count(), refused),
        (10, 15)
    );
    assert_eq!(ledger.members("s"), 11);
    // Once the queue has drained it takes again.
    service.record(pair(2_000, "s")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_pair_that_would_wait_too_long_is_told_when_to_come_again() {
    let ledger = ModelLedger::new();
    *ledger.record_delay.lock().unwrap() = Duration::from_millis(100);
    let service = start(
        &ledger,
        memory(),
        ServiceConfig {
            flush_pairs: 10,
            queue_wait: Duration::from_millis(250),
            ..ServiceConfig::default()
        },
    );
    // Nothing is known before the first flush.
    service.record(pair(1_000, "s")).await.unwrap();
    let begun = Instant::now();
    let answers = join_all((0..200).map(|user| service.record(pair(user, "s")))).await;
    assert!(begun.elapsed() <= Duration::from_millis(250), "{:?}", begun.elapsed());
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 20);
    let refused = Err(ServiceError::Overloaded {
        retry_after: Duration::from_secs(1),
    });
    assert_eq!(answers.iter().filter(|answer| **answer == refused).count(), 180);
    assert_eq!(ledger.members("s"), 21);
}

#[tokio::test(start_paused = true)]
async fn however_slow_the_ledger_is_its_flushes_are_full() {
    let ledger = ModelLedger::new();
    *ledger.record_delay.lock().unwrap() = Duration::from_secs(5);
    let service = start(
        &ledger,
        memory(),
        ServiceConfig {
            flush_pairs: 10,
            ..ServiceConfig::default()
        },
    );
    service.record(pair(1_000, "s")).await.unwrap();
    let first = spawn_record(&service, 2_000);
    settle().await;
    let answers = join_all((0..25).map(|user| service.record(pair(user, "s")))).await;
    first.await.unwrap().unwrap();
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 10);
    assert_eq!(sizes(&ledger), [1, 1, 10]);
    // The flush under way has just begun and takes as long as one before it; then comes the one that is full, then the refused one's own.
    let refused = answers.into_iter().find_map(Result::err).unwrap();
    assert_eq!(
        refused,
        ServiceError::Overloaded {
            retry_after: Duration::from_secs(15)
        }
    );
}

#[tokio::test(start_paused = true)]
async fn a_stop_answers_everything_that_was_taken_and_takes_nothing_more() {
    let ledger = ModelLedger::new();
    ledger.record_door.close();
    let service = start(&ledger, memory(), ServiceConfig::default());
    let singles: Vec<_> = (0..700).map(|user| spawn_record(&service, user)).collect();
    let batch = tokio::spawn({
        let service = Arc::clone(&service);
        async move {
            service
                .record_many((1_000..3_000).map(|user| pair(user, "batch")).collect())
                .await
        }
    });
    settle().await;
    let stop = tokio::spawn({
        let service = Arc::clone(&service);
        async move { service.shutdown().await }
    });
    settle().await;
    assert_eq!(service.record(pair(9_000, "s")).await, Err(ServiceError::ShuttingDown));
    assert_eq!(
        service.record_many(vec![pair(9_001, "s")]).await,
        Err(ServiceError::ShuttingDown)
    );
    assert!(!stop.is_finished() && !ledger.closed.load(Ordering::SeqCst));
    ledger.record_door.release();
    for single in singles {
        assert_eq!(single.await.unwrap().unwrap().outcome, Outcome::Created);
    }
    assert_eq!(batch.await.unwrap().unwrap().len(), 2_000);
    stop.await.unwrap();
    assert_eq!((ledger.members("s"), ledger.members("batch")), (700, 2_000));
    assert!(ledger.closed.load(Ordering::SeqCst));
}

fn spawn_record(
    service: &Arc<Service>,
    user: i32,
) -> tokio::task::JoinHandle<Result<segment_counter::ledger::Recording, ServiceError>> {
    let service = Arc::clone(service);
    tokio::spawn(async move { service.record(pair(user, "s")).await })
}

#[tokio::test(start_paused = true)]
async fn an_error_reaches_everyone_in_the_flush_and_the_next_flush_goes_through() {
    let ledger = ModelLedger::new();
    let service = start(&ledger, memory(), ServiceConfig::default());
    let away = LedgerError::Unreachable("away".to_owned());
    ledger.fail(Some(away.clone()));
    for answer in join_all((0..20).map(|user| service.record(pair(user, "s")))).await {
        assert_eq!(answer, Err(ServiceError::Ledger(away.clone())));
    }
    assert!(
        service
            .record_many(vec![pair(1, "s")])
            .await
            .unwrap_err()
            .is_transient()
    );
    ledger.fail(None);
    service.record(pair(1, "s")).await.unwrap();
    assert_eq!(service.record_many(vec![pair(2, "s")]).await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_flush_is_an_error_and_not_the_end() {
    let ledger = ModelLedger::new();
    let service = start(&ledger, memory(), ServiceConfig::default());
    ledger.panics.store(true, Ordering::SeqCst);
    let internal =
        |answer: Result<_, ServiceError>| matches!(answer, Err(ServiceError::Ledger(LedgerError::Internal(_))));
    assert!(internal(service.record(pair(1, "s")).await.map(|_| ())));
    assert!(internal(service.record_many(vec![pair(1, "s")]).await.map(|_| ())));
    ledger.panics.store(false, Ordering::SeqCst);
    service.record(pair(1, "s")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_batch_goes_in_chunks_and_answers_in_its_order() {
    let ledger = ModelLedger::new();
    let service = start(&ledger, memory(), ServiceConfig::default());
    let answers = service
        .record_many((0..1_750).map(|user| pair(user, "s")).collect())
        .await
        .unwrap();
    let users: Vec<i64> = answers
        .iter()
        .map(|answer| answer.expires_at.unwrap().as_second())
        .collect();
    assert_eq!(users, (0..1_750).collect::<Vec<i64>>());
    assert_eq!(sizes(&ledger), [500, 500, 500, 250]);
    assert!(service.record_many(Vec::new()).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn few_batches_write_at_once_and_what_may_wait_is_bounded() {
    let ledger = ModelLedger::new();
    *ledger.record_delay.lock().unwrap() = Duration::from_millis(10);
    let service = start(
        &ledger,
        memory(),
        ServiceConfig {
            batch_queue_pairs: 1_000,
            batch_writers: 2,
            ..ServiceConfig::default()
        },
    );
    let batches = (0..8).map(|batch| {
        let segment = format!("s{batch}");
        service.record_many((0..200).map(|user| pair(user, &segment)).collect())
    });
    let answers = join_all(batches).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 5);
    assert!(
        answers
            .iter()
            .filter(|a| a.is_err())
            .all(|a| matches!(a, Err(ServiceError::Overloaded { .. })))
    );
    assert_eq!(ledger.most_at_once.load(Ordering::SeqCst), 2);
    // What was refused left no reservation behind; a batch above the bound passes when it is alone.
    assert_eq!(
        service
            .record_many((0..3_000).map(|user| pair(user, "s")).collect())
            .await
            .unwrap()
            .len(),
        3_000
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_takes_nothing_with_it() {
    let ledger = ModelLedger::new();
    ledger.record_door.close();
    let service = start(&ledger, memory(), ServiceConfig::default());
    let gone = spawn_record(&service, 1);
    let gone_batch = tokio::spawn({
        let service = Arc::clone(&service);
        async move {
            service
                .record_many((0..1_000).map(|user| pair(user, "batch")).collect())
                .await
        }
    });
    settle().await;
    gone.abort();
    gone_batch.abort();
    settle().await;
    ledger.record_door.release();
    service.record(pair(2, "s")).await.unwrap();
    settle().await;
    assert_eq!((ledger.members("s"), ledger.members("batch")), (2, 500));
    service.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_segment_always_goes_through_the_same_of_many_flushers() {
    let ledger = ModelLedger::new();
    *ledger.record_delay.lock().unwrap() = Duration::from_millis(1);
    let service = start(
        &ledger,
        memory(),
        ServiceConfig {
            flushers: 4,
            ..ServiceConfig::default()
        },
    );
    let all = join_all((0..400).map(|user| service.record(pair(user, &format!("s{}", user % 10))))).await;
    assert!(all.iter().all(Result::is_ok));
    assert!(!ledger.met.load(Ordering::SeqCst), "two flushes held the same segment");
    let used: usize = ledger.most_at_once.load(Ordering::SeqCst);
    assert_eq!(used, 10, "all flushers at once");
}
