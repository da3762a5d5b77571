//! Runs a phase: many tasks at once, each with a ledger of its own where the place allows it, and notes when each call began and ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use segment_counter::counting::{Pair, UserId};
use segment_counter::ledger::{LedgerError, MoveError, PostgresLedger, Recording, RemovalOutcome, SharedLedger};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::run::Failure;
use super::site::{Site, let_go, patiently};
use super::steps::{Chore, Member, Phase, REMOVERS, WRITERS};
use crate::world::{name, put, removal};

/// Longer than any phase takes that is not stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// A call, and where its begin and its end stand in the order of all.
#[derive(Debug)]
pub struct Log {
    pub begin: u64,
    pub end: u64,
    pub done: Done,
}

#[derive(Debug)]
pub enum Done {
    Recorded(Vec<Pair>, Vec<Recording>),
    Removed(Vec<(String, String)>, Vec<RemovalOutcome>),
    /// As of which instant, by the answer.
    Erased(String, i64),
    Put(String, Option<i64>),
    /// Whether there was one.
    Deleted(String, bool),
    Archived,
    Swept,
    Recounted,
    /// Whether it was: it may have lived there already, or not at all.
    Moved(bool),
}

#[derive(Debug)]
enum Task {
    Record(Vec<Pair>),
    Remove(Vec<Member>),
    Erase(u8),
    Put(u8, Option<i64>),
    Delete(u8),
    Keep(Chore),
    Move(u8, u8, Arc<PostgresLedger>),
}

/// What every task of a phase shares: the next place in the order, and the start.
#[derive(Clone)]
struct Shared {
    order: Arc<AtomicU64>,
    start: Arc<Barrier>,
}

impl Shared {
    fn next(&self) -> u64 {
        self.order.fetch_add(1, Ordering::SeqCst)
    }
}

/// A call that did not succeed.
#[derive(Debug, thiserror::Error)]
#[error("{error} at {call}")]
pub struct Failed {
    pub error: LedgerError,
    call: String,
}

/// Everything that the phase did. An error of any call is the phase's: all are to succeed.
pub async fn run(phase: &Phase, site: &mut Site) -> Result<Vec<Log>, Failure> {
    let now = site.clock.micros();
    let mut lists: Vec<(usize, Vec<Task>)> = Vec::new();
    for (number, batches) in phase.writers.iter().enumerate() {
        let pairs = |batch: &Vec<_>| {
            batch
                .iter()
                .map(|sketch: &crate::model::Sketch| sketch.at(now))
                .collect()
        };
        lists.push((
            1 + number,
            batches.iter().map(|batch| Task::Record(pairs(batch))).collect(),
        ));
    }
    for (number, batches) in phase.removers.iter().enumerate() {
        let tasks = batches.iter().map(|batch| Task::Remove(batch.clone())).collect();
        lists.push((1 + WRITERS + number, tasks));
    }
    let others = 1 + WRITERS + REMOVERS;
    let changes = phase
        .changer
        .iter()
        .map(|(segment, window)| Task::Put(*segment, *window));
    lists.push((others, phase.eraser.iter().map(|user| Task::Erase(*user)).collect()));
    lists.push((others + 1, changes.collect()));
    lists.push((
        others + 2,
        phase.keeper.iter().map(|chore| Task::Keep(*chore)).collect(),
    ));
    lists.push((
        others + 3,
        phase.deleter.iter().map(|segment| Task::Delete(*segment)).collect(),
    ));
    if let Some(mover) = site.mover() {
        let moves = phase
            .mover
            .iter()
            .map(|(segment, lane)| Task::Move(*segment, *lane, mover.clone()));
        lists.push((others + 4, moves.collect()));
    }
    lists.retain(|(_, tasks)| !tasks.is_empty());

    // Whoever has no connection yet gets one now, one after another: so many logins at once would take longer than a call may.
    for (number, _) in &lists {
        let ledger = site.ledger(*number);
        patiently(async || ledger.now().await).await;
    }
    let held = match phase.held {
        Some(member) => site.hold(member).await,
        None => None,
    };
    let shared = Shared {
        order: Arc::default(),
        start: Arc::new(Barrier::new(lists.len())),
    };
    let mut running = JoinSet::new();
    for (number, tasks) in lists {
        running.spawn(one_after_another(tasks, site.ledger(number), shared.clone()));
    }
    if let Some(held) = held {
        let_go(held).await;
    }
    let mut logs = Vec::new();
    let mut failure = None;
    while let Some(ended) = tokio::time::timeout(PATIENCE, running.join_next())
        .await
        .map_err(|_| format!("stuck for {} s", PATIENCE.as_secs()))?
    {
        match ended? {
            Ok(log) => logs.extend(log),
            Err(error) => failure = Some(error),
        }
    }
    logs.sort_unstable_by_key(|log| log.begin);
    failure.map_or(Ok(logs), |failed: Failed| Err(failed.into()))
}

async fn one_after_another(tasks: Vec<Task>, ledger: SharedLedger, shared: Shared) -> Result<Vec<Log>, Failed> {
    let mut logs = Vec::new();
    shared.start.wait().await;
    for task in tasks {
        let begin = shared.next();
        let call = format!("{task:?}");
        let done = one(task, &ledger).await.map_err(|error| Failed { error, call })?;
        logs.push(Log {
            begin,
            end: shared.next(),
            done,
        });
    }
    Ok(logs)
}

async fn one(task: Task, ledger: &SharedLedger) -> Result<Done, LedgerError> {
    Ok(match task {
        Task::Record(pairs) => {
            let recorded = ledger.record(&pairs).await?;
            Done::Recorded(pairs, recorded.pairs)
        }
        Task::Remove(members) => {
            let members: Vec<_> = members
                .iter()
                .map(|(segment, user)| (format!("s{segment}"), format!("u{user}")))
                .collect();
            let removals: Vec<_> = members.iter().map(|(segment, user)| removal(segment, user)).collect();
            let removed = ledger.remove(&removals).await?;
            Done::Removed(members, removed.outcomes)
        }
        Task::Erase(user) => {
            let user = UserId::new(format!("u{user}")).unwrap();
            let erasure = ledger.erase(&user).await?;
            Done::Erased(user.as_str().to_owned(), erasure.erased_at.as_microsecond())
        }
        Task::Put(segment, window) => {
            let segment = format!("s{segment}");
            let answer = ledger.put_segment(&put(&segment, window)).await?;
            assert_eq!(answer.segment.name, name(&segment));
            Done::Put(segment, window)
        }
        Task::Delete(segment) => {
            let segment = format!("s{segment}");
            let deleted = ledger.delete_segment(&name(&segment)).await?;
            Done::Deleted(segment, deleted.is_some())
        }
        Task::Move(segment, lane, mover) => {
            let segment = format!("s{segment}");
            match mover.move_segment(&name(&segment), i32::from(lane), &|_| {}).await {
                Ok(moved) => Done::Moved(moved),
                // A sweep looks for moves that broke off: not beside one.
                Err(MoveError::NoSegment | MoveError::Busy) => Done::Moved(false),
                Err(MoveError::Ledger(error)) => return Err(error),
                Err(error) => return Err(LedgerError::Internal(error.to_string())),
            }
        }
        Task::Keep(Chore::Archive(limit)) => {
            let mut batch = ledger.archive_batch(None, limit).await?;
            while let Some(next) = batch.next {
                batch = ledger.archive_batch(Some(next), limit).await?;
            }
            Done::Archived
        }
        Task::Keep(Chore::Sweep) => {
            ledger.sweep(30).await?;
            Done::Swept
        }
        Task::Keep(Chore::Recount) => {
            let all = ledger.least_recently_recounted(1_000).await?;
            for found in ledger.recount(&all).await? {
                if found.drift != 0 {
                    return Err(LedgerError::Internal(format!(
                        "a recount among writers found {found:?}"
                    )));
                }
            }
            Done::Recounted
        }
    })
}
