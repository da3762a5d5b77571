//! The model as a ledger.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use segment_counter::counting::{Pair, Removal, SegmentId, SegmentName, UserId};
use segment_counter::ledger::{
    ArchiveBatch, ArchiveCursor, Count, Erasure, Extent, Job, JobId, JobReport, JobResult, JobState, Ledger,
    LedgerError, NewSegment, PutSegment, Recorded, Recount, RemovalOutcome, Removed, SchemaState, SegmentInfo,
    SegmentPage, Settings, Swept,
};
use tokio::time::sleep;

use super::ModelLedger;

/// What a statement over several segments may take.
const STATEMENT: Duration = Duration::from_secs(30);

#[async_trait]
impl Ledger for ModelLedger {
    fn kind(&self) -> &'static str {
        "model"
    }

    fn settings(&self) -> &Settings {
        &self.settings
    }

    async fn record(&self, pairs: &[Pair]) -> Result<Recorded, LedgerError> {
        let segments: BTreeSet<SegmentName> = pairs.iter().map(|pair| pair.segment.clone()).collect();
        self.batches.lock().unwrap().push(pairs.to_vec());
        {
            let mut recording = self.recording.lock().unwrap();
            self.met.fetch_or(
                segments.iter().any(|segment| recording.contains(segment)),
                Ordering::SeqCst,
            );
            recording.extend(segments.iter().cloned());
        }
        let at_once = self.recording.lock().unwrap().len();
        self.most_at_once.fetch_max(at_once, Ordering::SeqCst);
        let delay = *self.record_delay.lock().unwrap();
        if !delay.is_zero() {
            sleep(delay).await;
        }
        self.record_door.pass().await;
        self.recording
            .lock()
            .unwrap()
            .retain(|segment| !segments.contains(segment));
        self.check()?;
        assert!(!self.panics.load(Ordering::SeqCst), "a defect");
        let recorded = self.write(pairs);
        self.answer_door.pass().await;
        Ok(recorded)
    }

    async fn resolve(&self, names: &[SegmentName]) -> Result<Vec<Option<SegmentId>>, LedgerError> {
        self.resolves.fetch_add(1, Ordering::SeqCst);
        self.check()?;
        let ids = {
            let state = self.state.lock().unwrap();
            names.iter().map(|name| state.ids.get(name).copied()).collect()
        };
        self.resolve_door.pass().await;
        Ok(ids)
    }

    async fn remove(&self, removals: &[Removal]) -> Result<Removed, LedgerError> {
        Self::check(self)?;
        let at_once = self.removing.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_removing.fetch_max(at_once, Ordering::SeqCst);
        let delay = *self.remove_delay.lock().unwrap();
        if !delay.is_zero() {
            sleep(delay).await;
        }
        self.removing.fetch_sub(1, Ordering::SeqCst);
        let mut state = self.state.lock().unwrap();
        let mut changed = BTreeSet::new();
        let outcome = |removal: &Removal| {
            let Some(id) = state.ids.get(&removal.segment).copied() else {
                return RemovalOutcome::NoSegment;
            };
            if state.members.entry(id).or_default().remove(&removal.user) {
                changed.insert(id);
                RemovalOutcome::Removed
            } else {
                RemovalOutcome::NotMember
            }
        };
        let outcomes = removals.iter().map(outcome).collect();
        state.epoch += 1;
        Ok(Removed {
            at: self.instant(),
            outcomes,
            changed: changed.into_iter().collect(),
        })
    }

    async fn delete_segment(&self, name: &SegmentName) -> Result<Option<SegmentId>, LedgerError> {
        Self::check(self)?;
        let mut state = self.state.lock().unwrap();
        let id = state.ids.remove(name);
        if let Some(id) = id {
            state.members.remove(&id);
            state.epoch += 1;
        }
        Ok(id)
    }

    async fn erase(&self, user: &UserId) -> Result<Erasure, LedgerError> {
        Self::check(self)?;
        let mut state = self.state.lock().unwrap();
        let mut changed = Vec::new();
        for (id, members) in &mut state.members {
            if members.remove(user) {
                changed.push(*id);
            }
        }
        state.epoch += 1;
        Ok(Erasure {
            receipt: "receipt".to_owned(),
            erased_at: self.instant(),
            suppressed_until: self.instant(),
            memberships: i64::try_from(changed.len()).unwrap(),
            history: 0,
            changed,
        })
    }

    async fn count(&self, segments: &[SegmentId]) -> Result<Vec<Count>, LedgerError> {
        self.statements.lock().unwrap().push(segments.to_vec());
        let as_of = self.instant();
        let counts = {
            let state = self.state.lock().unwrap();
            let members = |id| i64::try_from(state.members.get(id).map_or(0, BTreeSet::len)).unwrap();
            segments
                .iter()
                .map(|id| Count {
                    segment: *id,
                    members: members(id),
                    as_of,
                    exists: state.members.contains_key(id),
                })
                .collect()
        };
        let delay = *self.count_delay.lock().unwrap();
        if !delay.is_zero() {
            sleep(delay).await;
        }
        self.count_door.pass().await;
        self.check()?;
        if segments.iter().any(|id| self.lane_of_id(*id) == 1) {
            let delay = *self.apart_delay.lock().unwrap();
            sleep(delay).await;
            return Err(LedgerError::Unreachable("that lane's machine is away".to_owned()));
        }
        Ok(counts)
    }

    fn lane_of_id(&self, segment: SegmentId) -> usize {
        usize::from(self.apart.lock().unwrap().contains(&segment))
    }

    async fn put_segment(&self, segment: &NewSegment) -> Result<PutSegment, LedgerError> {
        let mut state = self.state.lock().unwrap();
        let next = state.next();
        let created = !state.ids.contains_key(&segment.name);
        let id = *state.ids.entry(segment.name.clone()).or_insert(next);
        state.members.entry(id).or_default();
        let segment = SegmentInfo {
            id,
            name: segment.name.clone(),
            window: segment.window,
            description: None,
            created_at: self.instant(),
            members: 0,
        };
        Ok(PutSegment { created, segment })
    }

    async fn segment(&self, _: &SegmentName) -> Result<Option<SegmentInfo>, LedgerError> {
        Ok(None)
    }

    async fn segments(&self, _: Option<&SegmentName>, _: u32) -> Result<SegmentPage, LedgerError> {
        Ok(SegmentPage {
            as_of: self.instant(),
            segments: Vec::new(),
            more: false,
        })
    }

    async fn migrate(&self) -> Result<SchemaState, LedgerError> {
        self.schema().await
    }

    async fn schema(&self) -> Result<SchemaState, LedgerError> {
        Ok(SchemaState {
            installed: Some(1),
            expected: 1,
        })
    }

    async fn check(&self) -> Result<(), LedgerError> {
        Self::check(self)
    }

    async fn archive_batch(&self, cursor: Option<ArchiveCursor>, _: u32) -> Result<ArchiveBatch, LedgerError> {
        let delay = *self.archive_delay.lock().unwrap();
        sleep(delay).await;
        Self::check(self)?;
        let position = cursor.map_or(0, |cursor| cursor.position);
        let batches = self.to_archive.lock().unwrap();
        let at = usize::try_from(position).unwrap();
        let next = (at + 1 < batches.len()).then_some(ArchiveCursor {
            lane: 0,
            position: position + 1,
            full: 0,
        });
        Ok(ArchiveBatch {
            moved: batches.get(at).copied().unwrap_or(0),
            next,
        })
    }

    async fn sweep(&self, _: u32) -> Result<Swept, LedgerError> {
        Self::check(self)?;
        Ok(Swept {
            counters: 3,
            partitions: 1,
        })
    }

    async fn identity(&self) -> Result<String, LedgerError> {
        Ok("0".repeat(16))
    }

    async fn least_recently_recounted(&self, limit: u32) -> Result<Vec<SegmentId>, LedgerError> {
        Self::check(self)?;
        let state = self.state.lock().unwrap();
        let last = |id: &SegmentId| state.recounted.iter().rposition(|done| done == id);
        let mut ids: Vec<SegmentId> = state.members.keys().copied().collect();
        ids.sort_by_key(|id| (last(id), *id));
        ids.truncate(usize::try_from(limit).unwrap());
        Ok(ids)
    }

    async fn extent(&self) -> Result<Option<Extent>, LedgerError> {
        let segments = self.state.lock().unwrap().members.len() as u64;
        let typical = *self.typical_members.lock().unwrap();
        Ok(typical.map(|typical| Extent {
            segments,
            members: segments * typical,
        }))
    }

    async fn recount(&self, segments: &[SegmentId]) -> Result<Vec<Recount>, LedgerError> {
        let as_of = self.instant();
        self.recounts.lock().unwrap().push(segments.len());
        // A ledger that is slow is so for each.
        let delay = *self.recount_delay.lock().unwrap() * u32::try_from(segments.len()).unwrap();
        sleep(delay.min(STATEMENT)).await;
        Self::check(self)?;
        if delay > STATEMENT && segments.len() > 1 {
            return Err(LedgerError::Timeout("it takes too long".to_owned()));
        }
        let mut state = self.state.lock().unwrap();
        state.recounted.extend(segments);
        let drifts = self.drift.lock().unwrap();
        let recount = |segment: &SegmentId| Recount {
            segment: *segment,
            members: i64::try_from(state.members[segment].len()).unwrap(),
            drift: drifts.get(segment).copied().unwrap_or(0),
            as_of,
        };
        Ok(segments.iter().map(recount).collect())
    }

    async fn begin_job(&self, _: Job, exclusive: bool) -> Result<Option<JobId>, LedgerError> {
        if exclusive && self.job_running.load(Ordering::SeqCst) {
            return Ok(None);
        }
        self.job_running.store(true, Ordering::SeqCst);
        Ok(Some(JobId(1)))
    }

    async fn job_progress(&self, _: JobId, _: &JobReport) -> Result<(), LedgerError> {
        self.heartbeats.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn end_job(&self, _: JobId, result: JobResult, report: &JobReport) -> Result<(), LedgerError> {
        self.job_running.store(false, Ordering::SeqCst);
        self.job_ends.lock().unwrap().push((result, report.clone()));
        Ok(())
    }

    async fn job_state(&self, _: Job) -> Result<JobState, LedgerError> {
        Ok(JobState::default())
    }

    async fn now(&self) -> Result<Timestamp, LedgerError> {
        Ok(self.instant())
    }

    async fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }
}
