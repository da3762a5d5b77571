//! One session of the pool for one piece of work, with a limit on how long its answer is waited for.
//!
//! The server's own limits (`statement_timeout`) reach nobody whose connection leads nowhere: a database whose machine is gone closes nothing.
//! So the limit is kept here too; and a session that was not heard to the end is closed, never given back: whoever took it from the pool
//! would wait for the answer to somebody else's question, or for ever.

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, Postgres};
use tokio::time::error::Elapsed;

use super::PostgresLedger;
use crate::ledger::LedgerError;

/// What a request waits for: far more than a flush or a count takes on a database that is well.
pub(super) const ANSWER: Duration = Duration::from_secs(5);
/// What a step of a job waits for: more than its few statements may take by their `statement_timeout` (at most 30 s each).
pub(super) const STEP: Duration = Duration::from_secs(120);

/// What came of waiting for an answer.
pub(super) type Waited<T, E> = Result<Result<T, E>, Elapsed>;

/// Waits for the answer to statements, but not longer than `limit`.
pub(super) async fn within<T, E>(limit: Duration, answer: impl Future<Output = Result<T, E>>) -> Waited<T, E> {
    tokio::time::timeout(limit, answer).await
}

/// Does `$work` over a session of `$ledger`'s pool, called `$session` there, within `$limit`.
macro_rules! over {
    ($ledger:expr, $limit:expr, $session:ident => $work:expr) => {{
        let mut $session = $ledger.session().await?;
        let answer = $crate::ledger::postgres::session::within($limit, $work).await;
        $session.hear(answer)
    }};
}
pub(super) use over;

/// A session that is closed when it is dropped, unless [`Session::hear`] gave it back.
pub(super) struct Session {
    inner: PoolConnection<Postgres>,
    heard: bool,
}

impl PostgresLedger {
    pub(super) async fn session(&self) -> Result<Session, sqlx::Error> {
        Ok(self.pool.acquire().await?.into())
    }
}

impl From<PoolConnection<Postgres>> for Session {
    fn from(inner: PoolConnection<Postgres>) -> Self {
        Self { inner, heard: false }
    }
}

impl Session {
    /// Gives the session back to the pool if an answer came, of whatever kind.
    pub(super) fn hear<T, E: Into<LedgerError>>(self, answer: Waited<T, E>) -> Result<T, LedgerError> {
        match answer {
            Ok(answer) => {
                self.give_back();
                answer.map_err(Into::into)
            }
            Err(_) => Err(LedgerError::Timeout(
                "a session did not answer and was given up".to_owned(),
            )),
        }
    }

    /// Gives it back to the pool: every answer was heard.
    pub(super) fn give_back(mut self) {
        self.heard = true;
    }
}

impl Deref for Session {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.inner
    }
}

impl DerefMut for Session {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.inner
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.heard {
            self.inner.close_on_drop();
        }
    }
}

/// Whether a statement ended because a lock did not come free in time (`lock_not_available`).
pub(super) fn is_lock_timeout(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .is_some_and(|error| error.code().as_deref() == Some("55P03"))
}
