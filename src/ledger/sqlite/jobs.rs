//! What the jobs did: begun, seen, ended.

use super::{NOW, SqliteLedger, json, text, timestamp};
use crate::ledger::{Job, JobId, JobReport, JobResult, JobState, LedgerError};

/// A minute, in microseconds: a run not seen for longer is dead.
const MINUTE: i64 = 60_000_000;

impl SqliteLedger {
    pub(super) async fn begin(&self, job: Job, exclusive: bool) -> Result<Option<JobId>, LedgerError> {
        // One statement of the one writer: nothing comes between the look and the beginning.
        let id: Option<i64> = sqlx::query_scalar(text(format!(
            "INSERT INTO job_run (job, started_at, seen_at)
             SELECT ?2, i.now, i.now FROM (SELECT {NOW} AS now) i
              WHERE NOT (?3 AND EXISTS (SELECT 1 FROM job_run WHERE job = ?2 AND ended_at IS NULL AND seen_at > i.now - {MINUTE}))
             RETURNING id"
        )))
        .bind(self.clock())
        .bind(job.name())
        .bind(exclusive)
        .fetch_optional(&self.writer)
        .await?;
        Ok(id.map(JobId))
    }

    pub(super) async fn progress(&self, id: JobId, report: &JobReport) -> Result<(), LedgerError> {
        sqlx::query(text(format!(
            "UPDATE job_run SET seen_at = {NOW}, report = ?3 WHERE id = ?2"
        )))
        .bind(self.clock())
        .bind(id.0)
        .bind(json(report)?)
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    pub(super) async fn end(&self, id: JobId, result: JobResult, report: &JobReport) -> Result<(), LedgerError> {
        let failure = match result {
            JobResult::Succeeded => None,
            JobResult::Failed(why) => Some(why),
        };
        sqlx::query(text(format!(
            "UPDATE job_run SET seen_at = {NOW}, ended_at = {NOW}, succeeded = ?4 IS NULL, failure = ?4, report = ?3 WHERE id = ?2"
        )))
        .bind(self.clock())
        .bind(id.0)
        .bind(json(report)?)
        .bind(failure)
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    /// Forgets the runs that were last seen more than `keep` microseconds ago. What the state of a job is told from stays: its newest run, the
    /// one that ended last, and the last that succeeded.
    pub(super) async fn forget_runs(&self, keep: i64) -> Result<(), LedgerError> {
        sqlx::query(text(format!(
            "DELETE FROM job_run
              WHERE seen_at <= {NOW} - ?2
                AND id NOT IN (SELECT max(id) FROM job_run GROUP BY job)
                AND id NOT IN (SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY job ORDER BY ended_at DESC, id DESC) AS n
                                                 FROM job_run WHERE ended_at IS NOT NULL) WHERE n = 1)
                AND id NOT IN (SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY job ORDER BY ended_at DESC, id DESC) AS n
                                                 FROM job_run WHERE succeeded) WHERE n = 1)"
        )))
        .bind(self.clock())
        .bind(keep)
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    pub(super) async fn state_of(&self, job: Job) -> Result<JobState, LedgerError> {
        type Last = (i64, bool, Option<String>, String);
        let mut state = JobState::default();
        let last: Option<Last> = sqlx::query_as(
            "SELECT ended_at, succeeded, failure, report FROM job_run WHERE job = ?1 AND ended_at IS NOT NULL
              ORDER BY ended_at DESC, id DESC LIMIT 1",
        )
        .bind(job.name())
        .fetch_optional(&self.readers)
        .await?;
        if let Some((ended, succeeded, failure, report)) = last {
            let report = || serde_json::from_str(&report).map_err(|error| LedgerError::Internal(error.to_string()));
            state.last_end = Some(timestamp(ended)?);
            state.last_result = Some(if succeeded {
                Ok(report()?)
            } else {
                Err(failure.unwrap_or_default())
            });
        }
        let (running, success, age, oldest): (bool, Option<i64>, Option<i64>, Option<i64>) =
            sqlx::query_as(text(format!(
                "SELECT EXISTS (SELECT 1 FROM job_run WHERE job = ?2 AND ended_at IS NULL AND seen_at > i.now - {MINUTE}),
                        s.at, (i.now - s.at) / 1000000,
                        CASE WHEN ?2 = 'refresh' THEN
                          (SELECT (i.now - min(coalesce(recounted_at, created_at))) / 1000000 FROM segment)
                        END
                   FROM (SELECT {NOW} AS now) i,
                        (SELECT max(ended_at) AS at FROM job_run WHERE job = ?2 AND succeeded) s"
            )))
            .bind(self.clock())
            .bind(job.name())
            .fetch_one(&self.readers)
            .await?;
        state.running = running;
        state.last_success = success.map(timestamp).transpose()?;
        state.seconds_since_success = age.map(|age| age.max(0));
        state.oldest_recount_seconds = oldest.map(|age| age.max(0));
        Ok(state)
    }
}
