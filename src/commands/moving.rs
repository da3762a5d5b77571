//! `move-segment`: progress goes to standard error, what was done to standard output. It ends by itself, whatever the database does: where
//! nothing goes on for a while it is broken off, which leaves the segment in one lane or the other.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{CommandError, open, say};
use crate::counting::SegmentName;
use crate::ledger::{Ledger, MoveProgress};
use crate::runtime::config::{Config, Database};
use crate::runtime::shutdown::Shutdown;

/// How often a long move says how far it is.
const SAY_EVERY: Duration = Duration::from_secs(5);
/// With no step in so long a move is broken off. A step waits at most about a minute for a moment in which nobody writes.
const STALLED: Duration = Duration::from_secs(180);
/// How often it is looked whether there was one.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// One session holds the lock of moves, another one works.
const SESSIONS: u32 = 2;

/// How far the move is, and when that was heard.
struct Heard {
    state: MoveProgress,
    at: Instant,
    said: Instant,
}

pub(super) async fn move_segment(config: &Config, segment: &SegmentName, to: i32) -> Result<(), CommandError> {
    let Database::Postgres(postgres) = &config.database else {
        return Err(CommandError::Configuration(
            "move-segment needs PostgreSQL (database_url or database_secret_dir): an embedded database has one lane"
                .to_owned(),
        ));
    };
    if postgres.max_connections < SESSIONS {
        return Err(CommandError::Configuration(format!(
            "move-segment needs at least {SESSIONS} connections: database_max_connections is {}",
            postgres.max_connections
        )));
    }
    let shutdown = Shutdown::on_signals().map_err(|error| CommandError::System("signals", error))?;
    let ledger = open::postgres(config, postgres).await?;
    let began = Instant::now();
    let heard = Mutex::new(Heard {
        state: MoveProgress::default(),
        at: began,
        said: began,
    });
    let moving = async {
        ledger.check().await?;
        ledger.move_segment(segment, to, &|state| hear(&heard, state)).await
    };
    let moved = tokio::select! {
        moved = moving => moved.map_err(|why| CommandError::Move { segment: segment.as_str().to_owned(), why }),
        () = shutdown.requested() => Err(CommandError::BrokenOff("a signal".to_owned())),
        why = too_long(&heard, began, config.timeout) => Err(CommandError::BrokenOff(why)),
    };
    let moved = moved?;
    ledger.close().await;
    let MoveProgress { copied, caught_up, .. } = heard.into_inner().unwrap_or_else(PoisonError::into_inner).state;
    say(&if moved {
        format!(
            "moved {} to lane {to}: {copied} memberships copied, {caught_up} changes caught up with",
            segment.as_str()
        )
    } else {
        format!("{} lives in lane {to} already", segment.as_str())
    });
    Ok(())
}

fn hear(heard: &Mutex<Heard>, state: &MoveProgress) {
    let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
    heard.at = Instant::now();
    let changed_lane = state.moved && !heard.state.moved;
    heard.state = *state;
    let MoveProgress {
        copied,
        caught_up,
        cleared,
        ..
    } = *state;
    if changed_lane {
        tracing::info!(
            copied,
            caught_up,
            "the segment lives in the new lane; what it left is cleared away"
        );
    } else if heard.said.elapsed() >= SAY_EVERY {
        tracing::info!(
            copied,
            caught_up,
            cleared,
            "memberships copied, caught up with and cleared away so far"
        );
    } else {
        return;
    }
    heard.said = heard.at;
}

/// Ends when the move takes longer than it may, or when nothing goes on; says which.
async fn too_long(heard: &Mutex<Heard>, began: Instant, limit: Option<Duration>) -> String {
    loop {
        let last = heard.lock().unwrap_or_else(PoisonError::into_inner).at;
        if let Some(limit) = limit.filter(|limit| began.elapsed() >= *limit) {
            return format!("it was not done within timeout_seconds ({} s)", limit.as_secs());
        }
        if last.elapsed() >= STALLED {
            return format!("nothing went on for {} s", STALLED.as_secs());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
