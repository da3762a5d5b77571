//! Removals, the deletion of segments and the erasure of users: each one transaction of the one writer.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sha2::{Digest, Sha256};
use sqlx::SqliteConnection;

use super::counters::move_counters;
use super::{NOW, SqliteLedger, json, text, timestamp};
use crate::counting::{Pair, Removal, SegmentId, SegmentName, UserId};
use crate::ledger::{Erasure, LedgerError, RemovalOutcome, Removed};

/// A row that ended at the epoch is no membership at any instant: it bears the mark of a removal. `?1` a JSON list of [segment, user], `?2` now, `?3` from when on an end counts as not yet past. What ended before stays for the archive.
const REMOVE: &str = "
INSERT INTO membership (segment_id, user_id, expires_at, removed_at)
SELECT e.value ->> 0, e.value ->> 1, 0, ?2 FROM json_each(?1) e WHERE true
ON CONFLICT (segment_id, user_id) DO UPDATE
   SET prev_expires_at = CASE WHEN membership.expires_at > ?3 THEN membership.expires_at END,
       expires_at = CASE WHEN membership.expires_at > ?3 THEN excluded.expires_at ELSE membership.expires_at END,
       removed_at = max(coalesce(membership.removed_at, excluded.removed_at), excluded.removed_at)
RETURNING segment_id, user_id, prev_expires_at";

/// `?1` a JSON list of [segment, user, end], `?2` now.
const KEEP: &str = "
INSERT INTO membership_history (segment_id, user_id, expires_at, archived_at)
SELECT e.value ->> 0, e.value ->> 1, min(e.value ->> 2, ?2), ?2 FROM json_each(?1) e";

impl SqliteLedger {
    pub(super) async fn remove_batch(&self, removals: &[Removal]) -> Result<Removed, LedgerError> {
        self.settings.admit(removals.len())?;
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let now = self.instant(&mut transaction).await?;
        let names: Vec<&str> = removals.iter().map(|removal| removal.segment.as_str()).collect();
        let segments = super::segments::look_up(names.into_iter(), &mut transaction).await?;
        let keys: BTreeSet<(i64, &str)> = removals
            .iter()
            .filter_map(|removal| Some((segments.get(removal.segment.as_str())?.0, removal.user.as_str())))
            .collect();
        let rows: Vec<(i64, String, Option<i64>)> = sqlx::query_as(REMOVE)
            .bind(json(&keys)?)
            .bind(now)
            .bind(now - self.settle_micros() / 2)
            .fetch_all(&mut *transaction)
            .await?;
        let ended: Vec<(i64, String, i64)> = rows
            .into_iter()
            .filter_map(|(segment, user, end)| Some((segment, user, end?)))
            .collect();
        let mut buckets: BTreeMap<(i64, i64), i64> = BTreeMap::new();
        for (segment, _, end) in &ended {
            *buckets.entry((*segment, *end)).or_default() -= 1;
        }
        move_counters(&buckets, &mut transaction).await?;
        sqlx::query(KEEP)
            .bind(json(&ended)?)
            .bind(now)
            .execute(&mut *transaction)
            .await?;
        raise_epoch(&mut transaction).await?;
        transaction.commit().await?;

        let members: BTreeSet<(i64, &str)> = ended
            .iter()
            .filter(|(_, _, end)| *end > now)
            .map(|(segment, user, _)| (*segment, user.as_str()))
            .collect();
        let outcome = |removal: &Removal| match segments.get(removal.segment.as_str()) {
            None => RemovalOutcome::NoSegment,
            Some((id, _)) if members.contains(&(*id, removal.user.as_str())) => RemovalOutcome::Removed,
            Some(_) => RemovalOutcome::NotMember,
        };
        Ok(Removed {
            at: timestamp(now)?,
            outcomes: removals.iter().map(outcome).collect(),
            changed: distinct(members.iter().map(|(segment, _)| *segment)),
        })
    }

    /// The name is free from the commit on; the rows are cleared away by [`SqliteLedger::clear_deleted`].
    pub(super) async fn mark_deleted(&self, name: &SegmentName) -> Result<Option<SegmentId>, LedgerError> {
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let id: Option<i64> = sqlx::query_scalar("DELETE FROM segment WHERE name = ?1 RETURNING id")
            .bind(name.as_str())
            .fetch_optional(&mut *transaction)
            .await?;
        if let Some(id) = id {
            sqlx::query(text(format!(
                "INSERT INTO segment_deleted (id, deleted_at) VALUES (?2, {NOW})"
            )))
            .bind(self.clock())
            .bind(id)
            .execute(&mut *transaction)
            .await?;
            raise_epoch(&mut transaction).await?;
        }
        transaction.commit().await?;
        Ok(id.map(SegmentId))
    }

    /// Of the key of suppressions nothing is told by it.
    pub(super) async fn tell_identity(&self) -> Result<String, LedgerError> {
        let key = key(&mut *self.readers.acquire().await?).await?;
        let hash = Sha256::new().chain_update("identity").chain_update(key).finalize();
        Ok(hex::encode(&hash[..8]))
    }

    pub(super) async fn erase_user(&self, user: &UserId) -> Result<Erasure, LedgerError> {
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let now = self.instant(&mut transaction).await?;
        let suppressed_until = now + self.settings.rules.memory_micros() + self.settle_micros();
        let rows: Vec<(i64, i64, Option<i64>)> =
            sqlx::query_as("DELETE FROM membership WHERE user_id = ?1 RETURNING segment_id, expires_at, removed_at")
                .bind(user.as_str())
                .fetch_all(&mut *transaction)
                .await?;
        // The marks of removals go. On a clock that has stepped back what they kept out stays out, as what an erasure before did.
        let last_removal = rows.iter().filter_map(|(_, _, removed_at)| *removed_at).max();
        let mut buckets: BTreeMap<(i64, i64), i64> = BTreeMap::new();
        for &(segment, end, _) in rows.iter().filter(|(_, end, _)| *end > now - self.settle_micros() / 2) {
            *buckets.entry((segment, end)).or_default() -= 1;
        }
        move_counters(&buckets, &mut transaction).await?;
        let history = sqlx::query("DELETE FROM membership_history WHERE user_id = ?1")
            .bind(user.as_str())
            .execute(&mut *transaction)
            .await?
            .rows_affected();
        let memberships = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        let history = i64::try_from(history).unwrap_or(i64::MAX);
        let receipt = hex::encode(rand::random::<[u8; 16]>());
        let key = key(&mut transaction).await?;
        let (erased_at, suppressed_until): (i64, i64) = sqlx::query_as(
            "INSERT INTO suppression (user_hash, receipt, erased_at, suppressed_until, memberships, history) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (user_hash) DO UPDATE SET receipt = excluded.receipt, erased_at = max(suppression.erased_at, excluded.erased_at),
               suppressed_until = max(suppression.suppressed_until, excluded.suppressed_until),
               memberships = suppression.memberships + excluded.memberships, history = suppression.history + excluded.history
             RETURNING erased_at, suppressed_until",
        )
        .bind(hash(&key, user))
        .bind(&receipt)
        .bind(last_removal.map_or(now, |at| at.max(now)))
        .bind(suppressed_until)
        .bind(memberships)
        .bind(history)
        .fetch_one(&mut *transaction)
        .await?;
        raise_epoch(&mut transaction).await?;
        transaction.commit().await?;
        Ok(Erasure {
            receipt,
            erased_at: timestamp(erased_at)?,
            suppressed_until: timestamp(suppressed_until)?,
            memberships,
            history,
            changed: distinct(
                rows.iter()
                    .filter(|(_, end, _)| *end > now)
                    .map(|(segment, ..)| *segment),
            ),
        })
    }

    /// When those of the pairs' users were erased who were, and are still suppressed.
    pub(super) async fn erased<'a>(
        &self,
        pairs: &'a [Pair],
        now: i64,
        session: &mut SqliteConnection,
    ) -> Result<HashMap<&'a str, i64>, LedgerError> {
        let any: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM suppression WHERE suppressed_until > ?1)")
            .bind(now)
            .fetch_one(&mut *session)
            .await?;
        if !any {
            return Ok(HashMap::new());
        }
        let key = key(session).await?;
        let hashes: HashMap<String, &str> = pairs
            .iter()
            .map(|pair| (hex::encode_upper(hash(&key, &pair.user)), pair.user.as_str()))
            .collect();
        let asked: Vec<&String> = hashes.keys().collect();
        let rows: Vec<(String, i64)> = sqlx::query_as(
            "SELECT hex(s.user_hash), s.erased_at FROM json_each(?1) e JOIN suppression s ON s.user_hash = unhex(e.value)
              WHERE s.suppressed_until > ?2",
        )
        .bind(json(&asked)?)
        .bind(now)
        .fetch_all(&mut *session)
        .await?;
        Ok(rows
            .into_iter()
            .filter_map(|(hash, at)| Some((*hashes.get(&hash)?, at)))
            .collect())
    }
}

pub(super) async fn raise_epoch(session: &mut SqliteConnection) -> Result<(), LedgerError> {
    sqlx::query("UPDATE removal_epoch SET epoch = epoch + 1")
        .execute(session)
        .await?;
    Ok(())
}

async fn key(session: &mut SqliteConnection) -> Result<Vec<u8>, LedgerError> {
    Ok(sqlx::query_scalar("SELECT key FROM suppression_key")
        .fetch_one(session)
        .await?)
}

fn hash(key: &[u8], user: &UserId) -> Vec<u8> {
    Sha256::new()
        .chain_update(key)
        .chain_update(user.as_str())
        .finalize()
        .to_vec()
}

fn distinct(segments: impl Iterator<Item = i64>) -> Vec<SegmentId> {
    let segments: BTreeSet<i64> = segments.collect();
    segments.into_iter().map(SegmentId).collect()
}
