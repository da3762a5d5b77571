//! Several moves sent as one text, so that the session does not wait for its client between them.

use futures_util::StreamExt;
use sqlx::{Either, PgConnection, Row};

use super::Quick;
use crate::ledger::LedgerError;
use crate::ledger::postgres::lanes::Lane;
use crate::ledger::postgres::session::is_lock_timeout;
use crate::ledger::postgres::{PostgresLedger, Statement};

/// What begins each move. None waits for the disk: a crash takes back whole moves, which the next run makes again. What is noted of a job is committed
/// after them, and that waits.
///
/// Segments are looked up as they come. Of places that it does not know when it plans, the server expects a share of the table, and of a large one so much
/// that it might lay out all segments for each move.
const BEGIN: [&str; 4] = [
    super::BEGIN,
    "SET LOCAL synchronous_commit = off",
    "SET LOCAL enable_hashjoin = off",
    "SET LOCAL enable_mergejoin = off",
];
/// How many answers come before those of the moves: of the look for removals, and of the name.
const BEFORE: usize = 2;
/// How many answers a move has: of its begin, of four settings, of itself and of its commit.
const ANSWERS: usize = 7;

/// What a text answers.
#[derive(Default)]
pub(super) struct Sent {
    pub(super) moved: i64,
    /// How many of the moves were done before somebody held a row for long.
    pub(super) done: usize,
    /// Whether any row bears a removal.
    pub(super) marked: bool,
    /// How many heap blocks the table has.
    pub(super) blocks: i64,
}

impl PostgresLedger {
    /// Asks whether any row between the first and the last of those places bears a removal (before the moves, afterwards their own dead rows would be in
    /// the way); moves what lies between each two of them, in a transaction of its own each; and asks how long the table is.
    ///
    /// The move is planned once for all of them, under a name of this text's own: where it cannot be taken back (another session of the server may answer
    /// what is asked behind a pooler), it is in nobody's way.
    pub(super) async fn move_between(
        &self,
        session: &mut PgConnection,
        lane: &Lane,
        quick: &Quick<Statement>,
        edges: &[i64],
    ) -> Result<Sent, LedgerError> {
        let (first, last) = (edges[0].to_string(), edges[edges.len() - 1].to_string());
        let marked = self.fill_in(&quick.marked, &first, &last);
        let moving = self.fill_in(&quick.all, "$1", "$2");
        let name = format!("segment_counter_move_{:08x}", rand::random::<u32>());
        let mut text = format!("{marked}; PREPARE {name} (bigint, bigint) AS {moving}");
        for edges in edges.windows(2) {
            let begin = BEGIN.join("; ");
            text.push_str(&format!(
                "; {begin}; EXECUTE {name} ({}, {}); COMMIT",
                edges[0], edges[1]
            ));
        }
        let table = format!("'{}.membership'", lane.schema);
        let blocks = lane.heap_blocks.as_str().replace("$1", &table);
        text.push_str(&format!("; DEALLOCATE {name}; {blocks}"));

        let mut found = Sent::default();
        let of_moves = BEFORE..BEFORE + (edges.len() - 1) * ANSWERS;
        let (mut answers, mut failed) = (0, None);
        // All that was filled in are numbers, and the name of a proven schema.
        let mut sent = sqlx::raw_sql(sqlx::AssertSqlSafe(text)).fetch_many(&mut *session);
        while let Some(answer) = sent.next().await {
            match answer {
                Ok(Either::Right(row)) if answers == 0 => found.marked = row.try_get(0).unwrap_or(true),
                Ok(Either::Right(row)) => found.blocks = row.try_get(0).unwrap_or(i64::MAX),
                Ok(Either::Left(answer)) => {
                    if of_moves.contains(&answers) {
                        found.moved += i64::try_from(answer.rows_affected()).unwrap_or(i64::MAX);
                        found.done = (answers + 1 - of_moves.start) / ANSWERS;
                    }
                    answers += 1;
                }
                Err(error) => failed = Some(error),
            }
        }
        drop(sent);
        if let Some(error) = failed {
            let cleared = clear(session, &name).await;
            if !is_lock_timeout(&error) {
                return Err(error.into());
            }
            cleared?;
        }
        Ok(found)
    }

    /// A statement about what lies between two places with its values filled in: several statements in one text take no parameters.
    fn fill_in(&self, statement: &Statement, from: &str, until: &str) -> String {
        let clock = self
            .settings
            .clock
            .as_ref()
            .map_or("NULL::timestamptz".to_owned(), |clock| {
                format!("(timestamptz 'epoch' + interval '1 microsecond' * {})", clock.micros())
            });
        let number = |number: i64| format!("{number}::bigint");
        statement
            .as_str()
            .replace("$1", &clock)
            .replace("$2", &number(self.settle_micros()))
            .replace("$5", &number(self.mark_micros()))
            .replace("$3", &format!("{from}::bigint"))
            .replace("$4", &format!("{until}::bigint"))
    }
}

/// After a text that failed: the name outlives its transaction. Both in one text, since behind a pooler only a failed transaction holds the server's session.
async fn clear(session: &mut PgConnection, name: &str) -> Result<(), sqlx::Error> {
    let cleared = sqlx::raw_sql(sqlx::AssertSqlSafe(format!("ROLLBACK; DEALLOCATE {name}")));
    match cleared.execute(session).await {
        // This session does not know it.
        Err(error)
            if error
                .as_database_error()
                .is_some_and(|error| error.code().as_deref() == Some("26000")) =>
        {
            Ok(())
        }
        cleared => cleared.map(drop),
    }
}
