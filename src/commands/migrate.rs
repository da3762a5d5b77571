//! `migrate`: brings the schema to this version. Safe at any time, by any number at once.

use super::{CommandError, open, say};
use crate::runtime::config::Config;

pub(super) async fn migrate(config: &Config) -> Result<(), CommandError> {
    let ledger = open::ledger(config).await?;
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
