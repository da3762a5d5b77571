//! `migrate`: brings the schema to this version. Safe at any time, by any number at once.

use super::{CommandError, open, say};
use crate::ledger::SharedLedger;
use crate::runtime::config::{Config, Database};

pub(super) async fn migrate(config: &Config, distributed: bool) -> Result<(), CommandError> {
    let ledger: SharedLedger = match &config.database {
        Database::Postgres(found) if distributed => open::distributed(config, found).await?,
        _ if distributed => {
            return Err(CommandError::Configuration(
                "--distributed is for PostgreSQL with Citus, and this is an embedded database: name one by database_url".to_owned(),
            ));
        }
        _ => open::ledger(config).await?,
    };
    let before = ledger.schema().await?;
    let after = ledger.migrate().await?;
    ledger.close().await;
    let version = |installed: Option<i64>| installed.map_or("none".to_owned(), |version| version.to_string());
    say(&format!(
        "schema: {} before, {} now",
        version(before.installed),
        version(after.installed)
    ));
    Ok(())
}
