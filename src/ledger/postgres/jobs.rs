//! What the jobs did: begun, seen, ended.

use sqlx::Connection;

use super::session::{ANSWER, STEP, over};
use super::{PostgresLedger, timestamp};
use crate::ledger::{Job, JobId, JobReport, JobResult, JobState, LedgerError};

/// Makes "none is running" and "this one began" one step.
const JOB_LOCK: i64 = 0x5e67_c004;

/// A run that began, has not ended, and was seen within the last minute.
const RUNNING: &str = "ended_at IS NULL AND seen_at > coalesce($1, clock_timestamp()) - interval '60 seconds'";

impl PostgresLedger {
    pub(super) async fn begin(&self, job: Job, exclusive: bool) -> Result<Option<JobId>, LedgerError> {
        let statement = self.sql(&format!(
            "INSERT INTO \"{{base}}\".job_run (job, started_at, seen_at)
             SELECT $2, i.now, i.now FROM (SELECT coalesce($1, clock_timestamp()) AS now) i
              WHERE NOT ($3 AND EXISTS (SELECT FROM \"{{base}}\".job_run WHERE job = $2 AND {RUNNING}))
             RETURNING id"
        ));
        let id: Option<i64> = over!(self, ANSWER, session => async {
            let mut transaction = session.begin().await?;
            sqlx::query("SELECT pg_advisory_xact_lock($1)")
                .bind(JOB_LOCK)
                .execute(&mut *transaction)
                .await?;
            let beginning = sqlx::query_scalar(statement).bind(self.clock()).bind(job.name()).bind(exclusive);
            let id = beginning.fetch_optional(&mut *transaction).await?;
            transaction.commit().await.map(|()| id)
        })?;
        Ok(id.map(JobId))
    }

    pub(super) async fn progress(&self, id: JobId, report: &JobReport) -> Result<(), LedgerError> {
        let telling = sqlx::query(self.sql(
            "UPDATE \"{base}\".job_run SET seen_at = coalesce($1, clock_timestamp()), report = $3::jsonb WHERE id = $2",
        ))
        .bind(self.clock())
        .bind(id.0)
        .bind(to_json(report)?);
        over!(self, ANSWER, session => telling.execute(&mut *session))?;
        Ok(())
    }

    pub(super) async fn end(&self, id: JobId, result: JobResult, report: &JobReport) -> Result<(), LedgerError> {
        let failure = match result {
            JobResult::Succeeded => None,
            JobResult::Failed(why) => Some(why),
        };
        let ending = sqlx::query(self.sql(
            "UPDATE \"{base}\".job_run
                SET seen_at = i.now, ended_at = i.now, succeeded = $4::text IS NULL, failure = $4, report = $3::jsonb
               FROM (SELECT coalesce($1, clock_timestamp()) AS now) i
              WHERE id = $2",
        ))
        .bind(self.clock())
        .bind(id.0)
        .bind(to_json(report)?)
        .bind(failure);
        over!(self, ANSWER, session => ending.execute(&mut *session))?;
        Ok(())
    }

    /// Forgets the runs that were last seen more than `keep_days` ago. What the state of a job is told from stays: its newest run, the one that
    /// ended last, and the last that succeeded.
    pub(super) async fn forget_runs(&self, keep_days: u32) -> Result<(), LedgerError> {
        let forgetting = sqlx::query(self.sql(
            "DELETE FROM \"{base}\".job_run r
              WHERE r.seen_at <= coalesce($1, clock_timestamp()) - $2 * interval '1 day'
                AND r.id NOT IN (SELECT max(id) FROM \"{base}\".job_run GROUP BY job)
                AND r.id NOT IN (SELECT DISTINCT ON (job) id FROM \"{base}\".job_run
                                  WHERE ended_at IS NOT NULL ORDER BY job, ended_at DESC, id DESC)
                AND r.id NOT IN (SELECT DISTINCT ON (job) id FROM \"{base}\".job_run
                                  WHERE succeeded ORDER BY job, ended_at DESC, id DESC)",
        ))
        .bind(self.clock())
        .bind(i32::try_from(keep_days).unwrap_or(i32::MAX));
        over!(self, STEP, session => forgetting.execute(&mut *session))?;
        Ok(())
    }

    pub(super) async fn state_of(&self, job: Job) -> Result<JobState, LedgerError> {
        type Last = (i64, bool, Option<String>, String);
        let mut state = JobState::default();
        let looking = sqlx::query_as(self.sql(
            "SELECT (extract(epoch FROM ended_at) * 1000000)::bigint, succeeded, failure, report::text
               FROM \"{base}\".job_run WHERE job = $1 AND ended_at IS NOT NULL ORDER BY ended_at DESC, id DESC LIMIT 1",
        ))
        .bind(job.name());
        let last: Option<Last> = over!(self, ANSWER, session => looking.fetch_optional(&mut *session))?;
        if let Some((ended, succeeded, failure, report)) = last {
            state.last_end = Some(timestamp(ended)?);
            state.last_result = Some(if succeeded {
                Ok(from_json(&report)?)
            } else {
                Err(failure.unwrap_or_default())
            });
        }
        let looking =
            sqlx::query_as(self.sql(&format!(
                "SELECT EXISTS (SELECT FROM \"{{base}}\".job_run WHERE job = $2 AND {RUNNING}),
                        (extract(epoch FROM s.at) * 1000000)::bigint,
                        floor(extract(epoch FROM i.now - s.at))::bigint,
                        CASE WHEN $2 = 'refresh' THEN
                          (SELECT floor(extract(epoch FROM i.now - min(coalesce(recounted_at, created_at))))::bigint FROM \"{{base}}\".segment)
                        END
                   FROM (SELECT coalesce($1, clock_timestamp()) AS now) i,
                        (SELECT max(ended_at) AS at FROM \"{{base}}\".job_run WHERE job = $2 AND succeeded) s"
            )))
            .bind(self.clock())
            .bind(job.name());
        let (running, success, age, oldest): (bool, Option<i64>, Option<i64>, Option<i64>) =
            over!(self, ANSWER, session => looking.fetch_one(&mut *session))?;
        state.running = running;
        state.last_success = success.map(timestamp).transpose()?;
        state.seconds_since_success = age.map(|age| age.max(0));
        state.oldest_recount_seconds = oldest.map(|age| age.max(0));
        Ok(state)
    }
}

fn to_json(report: &JobReport) -> Result<String, LedgerError> {
    serde_json::to_string(report).map_err(|error| LedgerError::Internal(error.to_string()))
}

fn from_json(text: &str) -> Result<JobReport, LedgerError> {
    serde_json::from_str(text).map_err(|error| LedgerError::Internal(error.to_string()))
}
