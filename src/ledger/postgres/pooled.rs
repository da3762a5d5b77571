//! What every session is set to, and whether it is: a pooler opens the server's sessions itself, and may keep back what ours ask for.

use std::time::Duration;

use sqlx::PgConnection;

use super::PostgresLedger;
use crate::ledger::{LedgerError, Settings};

/// A sweep waits for whoever was writing, so this is how long it may have to, but for commits, which nothing bounds.
pub(super) fn statement_timeout(settings: &Settings) -> Duration {
    (settings.settle / 10).clamp(Duration::from_millis(500), Duration::from_secs(30))
}

/// What a session asks for when it is opened; times in milliseconds.
pub(super) fn session_settings(settings: &Settings) -> [(&'static str, String); 9] {
    let timeout = statement_timeout(settings).as_millis();
    [
        ("synchronous_commit", "on".to_owned()),
        ("timezone", "UTC".to_owned()),
        ("statement_timeout", timeout.to_string()),
        ("idle_in_transaction_session_timeout", (timeout * 2).to_string()),
        // A statement whose client gave it up ends soon, instead of adding to those that come in its place.
        ("client_connection_check_interval", "1000".to_owned()),
        // The statements are planned once for every size of batch: a generic plan is right for all of them.
        ("plan_cache_mode", "force_generic_plan".to_owned()),
        // A plan made while a table was small must still be right when it is large: rows are always found by key.
        ("enable_seqscan", "off".to_owned()),
        // The penalty on sequential scans makes plans look dear enough to be compiled, which takes longer than they run.
        ("jit", "off".to_owned()),
        // The lock order and the recount are proven for this level; a role may have been given another.
        ("default_transaction_isolation", "read committed".to_owned()),
    ]
}

/// `$1` names, `$2` values: which the session has not, each with what it has; and the statements that give them to every session of the role.
///
/// A time may be shorter than ours, but not 0, which is none. A commit may wait for more than ours; for less it is refused before this.
const UNSET: &str = r"
SELECT string_agg(format('%s is %s and not %s', w.name, h.value, w.shown), ', '),
       string_agg(format('ALTER ROLE %I SET %s = %L', current_user, w.name, w.shown), '; ')
  FROM (SELECT name, value, CASE WHEN value ~ '^[0-9]+$' THEN value || 'ms' ELSE value END AS shown
          FROM unnest($1::text[], $2::text[]) AS asked(name, value)) w,
       LATERAL (SELECT current_setting(w.name) AS value) h
 WHERE CASE WHEN w.shown <> w.value THEN h.value::interval NOT BETWEEN interval '1 microsecond' AND w.shown::interval
            ELSE h.value <> w.value AND w.name <> 'synchronous_commit' END
";

impl PostgresLedger {
    /// Whether a session has the settings that it asked for. Directly it has, always.
    pub(super) async fn check_settings(&self, session: &mut PgConnection) -> Result<(), LedgerError> {
        let asked = session_settings(&self.settings);
        // Where Citus distributes the ledger, its sessions are planned otherwise.
        let asked = asked
            .iter()
            .filter(|(name, _)| *name != "plan_cache_mode" || self.distributed.settings().is_none());
        let (names, values): (Vec<&str>, Vec<&str>) = asked.map(|(name, value)| (*name, value.as_str())).unzip();
        let (unset, cure): (Option<String>, Option<String>) = sqlx::query_as(UNSET)
            .bind(names)
            .bind(values)
            .fetch_one(session)
            .await?;
        let (Some(unset), Some(cure)) = (unset, cure) else {
            return Ok(());
        };
        Err(LedgerError::UnsupportedVersion(format!(
            "a pooler keeps our sessions' settings from it ({unset}), so the role must have them: {cure}; \
             then have the pooler open its connections anew (PgBouncer: RECONNECT)"
        )))
    }
}
