//! Archive and refresh: totals, progress, limits, failures and how they end up in the ledger.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use segment_counter::ledger::{Job, JobReport, JobResult, LedgerError};
use segment_counter::service::{
    ArchiveOptions, Metrics, Progress, RefreshOptions, Service, ServiceConfig, ServiceError,
};
use tokio::time::sleep;

use crate::model::{ModelLedger, memory, name, start};
use crate::watched::WatchedCache;

type Seen = Arc<Mutex<Vec<JobReport>>>;

fn watch() -> (Progress, Seen) {
    let seen = Seen::default();
    let sink = Arc::clone(&seen);
    (
        Arc::new(move |report: &JobReport| sink.lock().unwrap().push(report.clone())),
        seen,
    )
}

#[tokio::test(start_paused = true)]
async fn an_archive_goes_on_until_the_pass_ends_then_sweeps_and_notes_its_totals() {
    let ledger = ModelLedger::new();
    *ledger.to_archive.lock().unwrap() = vec![10, 0, 5];
    let service = start(&ledger, memory(), ServiceConfig::default());
    let (progress, seen) = watch();
    let report = service.archive(ArchiveOptions::default(), progress).await.unwrap();
    let totals = JobReport {
        processed: 15,
        drift: 0,
        counters_cleared: 3,
        partitions_dropped: 1,
    };
    assert_eq!(report, totals);
    assert_eq!(*ledger.job_ends.lock().unwrap(), [(JobResult::Succeeded, totals)]);
    let moved: Vec<i64> = seen.lock().unwrap().iter().map(|report| report.processed).collect();
    assert_eq!(moved, [10, 10, 15, 15]);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_takes_long_says_that_it_lives() {
    let ledger = ModelLedger::new();
    *ledger.to_archive.lock().unwrap() = vec![1, 1];
    *ledger.archive_delay.lock().unwrap() = Duration::from_secs(60);
    let service = start(&ledger, memory(), ServiceConfig::default());
    service.archive(ArchiveOptions::default(), watch().0).await.unwrap();
    assert!(ledger.heartbeats.load(Ordering::SeqCst) >= 6, "every 20 s for 120 s");
}

#[tokio::test(start_paused = true)]
async fn an_archive_that_does_not_end_in_time_has_failed_and_says_how_far_it_came() {
    let ledger = ModelLedger::new();
    *ledger.to_archive.lock().unwrap() = vec![7; 100];
    *ledger.archive_delay.lock().unwrap() = Duration::from_secs(1);
    let service = start(&ledger, memory(), ServiceConfig::default());
    let options = ArchiveOptions {
        timeout: Duration::from_secs(10),
        ..ArchiveOptions::default()
    };
    let error = service.archive(options, watch().0).await.unwrap_err();
    assert!(
        matches!(error, ServiceError::Unfinished(_)) && error.to_string().contains("70 memberships"),
        "{error}"
    );
    let ends = ledger.job_ends.lock().unwrap();
    assert!(
        matches!(&ends[0], (JobResult::Failed(text), report) if *text == error.to_string() && report.processed == 70)
    );
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_a_job_between_two_steps() {
    let ledger = ModelLedger::new();
    *ledger.to_archive.lock().unwrap() = vec![7; 100];
    *ledger.archive_delay.lock().unwrap() = Duration::from_secs(1);
    let service = start(&ledger, memory(), ServiceConfig::default());
    let options = ArchiveOptions::default();
    let stop = options.stop.clone();
    let (done, ()) = tokio::join!(service.archive(options, watch().0), async {
        sleep(Duration::from_millis(2_500)).await;
        stop.cancel();
    });
    assert!(matches!(done, Err(ServiceError::Unfinished(_))));
    assert_eq!(ledger.job_ends.lock().unwrap()[0].1.processed, 21);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_noted_and_returned() {
    let ledger = ModelLedger::new();
    *ledger.to_archive.lock().unwrap() = vec![1; 10];
    *ledger.archive_delay.lock().unwrap() = Duration::from_secs(1);
    let service = start(&ledger, memory(), ServiceConfig::default());
    let broken = LedgerError::Internal("broken".to_owned());
    let (done, ()) = tokio::join!(service.archive(ArchiveOptions::default(), watch().0), async {
        sleep(Duration::from_millis(3_500)).await;
        ledger.fail(Some(broken.clone()));
    });
    assert_eq!(done, Err(ServiceError::Ledger(broken.clone())));
    let ends = ledger.job_ends.lock().unwrap();
    assert_eq!(ends[0].0, JobResult::Failed(broken.to_string()));
    assert_eq!(ends[0].1.processed, 3);
}

#[tokio::test(start_paused = true)]
async fn an_exclusive_run_is_refused_while_another_runs() {
    let ledger = ModelLedger::new();
    ledger.job_running.store(true, Ordering::SeqCst);
    let service = start(&ledger, memory(), ServiceConfig::default());
    let archive = ArchiveOptions {
        exclusive: true,
        ..ArchiveOptions::default()
    };
    let refresh = RefreshOptions {
        exclusive: true,
        ..RefreshOptions::default()
    };
    assert_eq!(
        service.archive(archive, watch().0).await,
        Err(ServiceError::AlreadyRunning(Job::Archive))
    );
    assert_eq!(
        service.refresh(refresh, watch().0).await,
        Err(ServiceError::AlreadyRunning(Job::Refresh))
    );
    assert!(ledger.job_ends.lock().unwrap().is_empty());
    assert!(
        service.archive(ArchiveOptions::default(), watch().0).await.is_ok(),
        "any number at once is safe"
    );
}

async fn segments(ledger: &ModelLedger, count: usize) {
    for segment in 0..count {
        for user in 0..=segment % 3 {
            ledger.written_elsewhere(user, &format!("s{segment}")).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_recounts_every_segment_once_and_warms_the_cache() {
    let (ledger, cache) = (ModelLedger::new(), WatchedCache::new());
    segments(&ledger, 250).await;
    let service = start(&ledger, cache.clone(), ServiceConfig::default());
    let report = service.refresh(RefreshOptions::default(), watch().0).await.unwrap();
    assert_eq!((report.processed, report.drift), (250, 0));
    assert_eq!(
        cache.stores.lock().unwrap().iter().filter(|stored| **stored).count(),
        250
    );
    let answer = service.count(&name("s2"), None).await.unwrap().unwrap();
    assert_eq!((answer.count, ledger.statements()), (3, 0), "from the cache");
}

#[tokio::test(start_paused = true)]
async fn a_refresh_ends_with_its_budget_and_the_next_one_goes_on() {
    let ledger = ModelLedger::new();
    segments(&ledger, 200).await;
    *ledger.typical_members.lock().unwrap() = Some(125_000);
    *ledger.recount_delay.lock().unwrap() = Duration::from_millis(150);
    let service = start(&ledger, memory(), ServiceConfig::default());
    let run = || {
        service.refresh(
            RefreshOptions {
                budget: Duration::from_secs(6),
                ..Default::default()
            },
            watch().0,
        )
    };
    let first = run().await.unwrap().processed;
    // A group that holds its snapshot for too long is followed by smaller ones.
    let sizes = std::mem::take(&mut *ledger.recounts.lock().unwrap());
    assert_eq!(sizes[..4], [8, 8, 4, 2]);
    assert!(sizes[4..].iter().all(|size| *size <= 4), "{sizes:?}");
    let second = run().await.unwrap().processed;
    // Two groups at once, each segment 150 ms.
    for done in [first, second] {
        assert!((70..=90).contains(&done), "{done}");
    }
    let recounted: BTreeSet<_> = ledger.recounted().into_iter().collect();
    assert_eq!(i64::try_from(recounted.len()).unwrap(), first + second, "none twice");
    let ends = ledger.job_ends.lock().unwrap();
    assert!(ends.iter().all(|(result, _)| *result == JobResult::Succeeded));
}

#[tokio::test(start_paused = true)]
async fn a_refresh_of_small_segments_takes_many_at_once() {
    let ledger = ModelLedger::new();
    segments(&ledger, 2_500).await;
    let service = start(&ledger, memory(), ServiceConfig::default());
    assert_eq!(
        service
            .refresh(RefreshOptions::default(), watch().0)
            .await
            .unwrap()
            .processed,
        2_500
    );
    let sizes = ledger.recounts.lock().unwrap().clone();
    assert_eq!(
        (sizes[0], sizes.iter().max()),
        (32, Some(&500)),
        "nothing is known of them"
    );
    *ledger.typical_members.lock().unwrap() = Some(20);
    ledger.recounts.lock().unwrap().clear();
    service.refresh(RefreshOptions::default(), watch().0).await.unwrap();
    assert_eq!(*ledger.recounts.lock().unwrap(), [500; 5]);
}

#[tokio::test(start_paused = true)]
async fn a_small_ledger_is_recounted_whole() {
    let ledger = ModelLedger::new();
    segments(&ledger, 900).await;
    let service = start(&ledger, memory(), ServiceConfig::default());
    for (typical, sizes) in [(3_000, [900].as_slice()), (5_000, &[200, 200, 400, 100])] {
        *ledger.typical_members.lock().unwrap() = Some(typical);
        service.refresh(RefreshOptions::default(), watch().0).await.unwrap();
        assert_eq!(*ledger.recounts.lock().unwrap(), sizes, "{typical} members each");
        ledger.recounts.lock().unwrap().clear();
    }
}

#[tokio::test(start_paused = true)]
async fn a_group_that_takes_longer_than_a_statement_may_is_recounted_in_smaller_ones() {
    let ledger = ModelLedger::new();
    segments(&ledger, 40).await;
    *ledger.typical_members.lock().unwrap() = Some(10_000);
    *ledger.recount_delay.lock().unwrap() = Duration::from_secs(20);
    let service = start(&ledger, memory(), ServiceConfig::default());
    let options = RefreshOptions {
        budget: Duration::from_secs(3_600),
        ..Default::default()
    };
    let report = service.refresh(options, watch().0).await.unwrap();
    assert_eq!((report.processed, ledger.recounted().len()), (40, 40));
    let sizes = ledger.recounts.lock().unwrap().clone();
    assert_eq!(sizes[..3], [40, 10, 10]);
}

#[tokio::test(start_paused = true)]
async fn drift_is_loud() {
    let ledger = ModelLedger::new();
    segments(&ledger, 3).await;
    ledger.drift.lock().unwrap().insert(ledger.id("s1"), 4);
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let service = Service::start(ledger.clone(), memory(), metrics, ServiceConfig::default());
    let report = service.refresh(RefreshOptions::default(), watch().0).await.unwrap();
    assert_eq!((report.processed, report.drift), (3, 4));
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    assert!(text.contains("segment_counter_drift_members_total 4"), "{text}");
    assert!(text.contains("segment_counter_recounts_total 3"));
    assert!(!text.contains("s1"), "no segment in a metric");
}
