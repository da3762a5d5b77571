//! One session of the pool for one piece of work, with a limit on how long its answer is waited for.
//!
//! The server's own limits (`statement_timeout`) reach nobody whose connection leads nowhere: a database whose machine is gone closes nothing.
//! So the limit is kept here too; and a session that was not heard to the end is closed, never given back: whoever took it from the pool
//! would wait for the answer to somebody else's question, or for ever.

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, PgPool, Postgres};
use tokio::time::Instant;
use tokio::time::error::Elapsed;

use super::PostgresLedger;
use crate::ledger::LedgerError;

/// What a request waits for: far more than a flush or a count takes on a database that is well.
pub(super) const ANSWER: Duration = Duration::from_secs(5);
/// What a part of an erasure waits for: a look at some of the history, or at a user's memberships. Whoever asked for it waits too.
pub(super) const PART: Duration = Duration::from_secs(10);
/// What a step of a job waits for: more than its few statements may take by their `statement_timeout` (at most 30 s each).
pub(super) const STEP: Duration = Duration::from_secs(120);

/// What is said of a session from which nothing came, not even that it took too long.
pub(super) const UNHEARD: &str = "a session did not answer and was given up";

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

/// The same for what is asked again and again, the hot paths and the archive: where the answer is a good one, the session is kept at hand for the next. See [`Kept`].
macro_rules! over_kept {
    ($ledger:expr, $limit:expr, $session:ident => $work:expr) => {{
        let mut $session = $ledger.session().await?;
        let answer = $crate::ledger::postgres::session::within($limit, $work).await;
        if let Ok(Ok(_)) = &answer {
            $session.keep_for(&$ledger.kept);
        }
        $session.hear(answer)
    }};
}
pub(super) use over_kept;

/// How long a session is kept at hand before the pool has it back, which looks whether it is still wanted: outdated settings, its age.
const KEPT: Duration = Duration::from_secs(1);

/// Sessions whose last statement was answered, at hand for the next one: newest first, so that few are hot instead of many lukewarm.
///
/// The pool asks each session that it is given back whether it lives. That is a round trip after every statement, in which the session serves nobody;
/// docs/performance.md says what it cost.
#[derive(Debug)]
pub(super) struct Kept {
    /// Each with the instant at which the pool gave it.
    sessions: Mutex<Vec<(PoolConnection<Postgres>, Instant)>>,
    /// The pool keeps some for those who ask it.
    most: usize,
    swept: AtomicBool,
    closed: AtomicBool,
}

impl Kept {
    pub(super) fn new(max_connections: u32) -> Arc<Self> {
        Arc::new(Self {
            sessions: Mutex::default(),
            most: usize::try_from(max_connections / 2).unwrap_or(0),
            swept: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        })
    }

    fn take(&self) -> Option<(PoolConnection<Postgres>, Instant)> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.pop().filter(|(_, since)| since.elapsed() < KEPT)
    }

    /// Keeps a session, or gives it to the pool.
    fn keep(self: &Arc<Self>, session: PoolConnection<Postgres>, since: Instant) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.len() >= self.most || since.elapsed() >= KEPT || self.closed.load(Ordering::Acquire) {
            return;
        }
        sessions.push((session, since));
        drop(sessions);
        // Who is not asked for again goes back all the same.
        if !self.swept.swap(true, Ordering::AcqRel) {
            let kept = Arc::clone(self);
            tokio::spawn(async move {
                while !kept.sweep() {
                    tokio::time::sleep(KEPT / 2).await;
                }
            });
        }
    }

    /// Gives to the pool what was kept for long; whether nothing is left, so that nobody need sweep.
    fn sweep(&self) -> bool {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|(_, since)| since.elapsed() < KEPT);
        if sessions.is_empty() {
            self.swept.store(false, Ordering::Release);
        }
        sessions.is_empty()
    }

    /// Gives all of them to the pool, which is being closed.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// A session that is closed when it is dropped, unless [`Session::hear`] gave it back.
pub(super) struct Session {
    /// There until it is dropped.
    inner: Option<PoolConnection<Postgres>>,
    /// When the pool gave it.
    since: Instant,
    heard: bool,
    keep: Option<Arc<Kept>>,
}

impl Drop for Kept {
    /// The pool takes sessions back by a task: where there is no runtime any more, they are closed.
    fn drop(&mut self) {
        let sessions = self.sessions.get_mut().unwrap_or_else(PoisonError::into_inner);
        if tokio::runtime::Handle::try_current().is_err() {
            for (session, _) in sessions.drain(..) {
                drop(session.leak());
            }
        }
    }
}

impl PostgresLedger {
    pub(super) async fn session(&self) -> Result<Session, sqlx::Error> {
        session_of(&self.pool, &self.kept).await
    }
}

/// The newest of those at hand, or one of the pool.
pub(super) async fn session_of(pool: &PgPool, kept: &Kept) -> Result<Session, sqlx::Error> {
    if let Some((inner, since)) = kept.take() {
        return Ok(Session::taken(inner, since));
    }
    Ok(pool.acquire().await?.into())
}

impl From<PoolConnection<Postgres>> for Session {
    fn from(inner: PoolConnection<Postgres>) -> Self {
        Self::taken(inner, Instant::now())
    }
}

impl Session {
    fn taken(inner: PoolConnection<Postgres>, since: Instant) -> Self {
        Self {
            inner: Some(inner),
            since,
            heard: false,
            keep: None,
        }
    }

    /// Gives the session back to the pool if an answer came, of whatever kind but one: where a standby answered, another session may find the primary.
    pub(super) fn hear<T, E: Into<LedgerError>>(self, answer: Waited<T, E>) -> Result<T, LedgerError> {
        match answer {
            Ok(answer) => {
                let answer = answer.map_err(Into::into);
                if !matches!(answer, Err(LedgerError::ReadOnly(_))) {
                    self.give_back();
                }
                answer
            }
            Err(_) => Err(LedgerError::Timeout(UNHEARD.to_owned())),
        }
    }

    /// Once its answer is heard, it is kept at hand.
    pub(super) fn keep_for(&mut self, kept: &Arc<Kept>) {
        self.keep = Some(Arc::clone(kept));
    }

    /// Gives it back to the pool: every answer was heard.
    pub(super) fn give_back(mut self) {
        self.heard = true;
    }
}

impl Deref for Session {
    type Target = PgConnection;

    #[expect(clippy::expect_used, reason = "only its drop takes it")]
    fn deref(&self) -> &PgConnection {
        self.inner.as_ref().expect("a session until it is dropped")
    }
}

impl DerefMut for Session {
    #[expect(clippy::expect_used, reason = "only its drop takes it")]
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.inner.as_mut().expect("a session until it is dropped")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(mut session) = self.inner.take() else { return };
        if !self.heard {
            session.close_on_drop();
        } else if let Some(kept) = &self.keep {
            kept.keep(session, self.since);
        }
    }
}

/// Whether a statement ended because a lock did not come free in time (`lock_not_available`).
pub(super) fn is_lock_timeout(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .is_some_and(|error| error.code().as_deref() == Some("55P03"))
}
