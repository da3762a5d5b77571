//! The ledger on several machines: Citus puts each lane, a schema, on a machine of its own, and the small tables that every lane looks at on all.
//!
//! Citus plans no statement that writes several tables as one, so those are functions here (the `.sql` files): plain statements, each of which goes
//! whole to the lane's machine. Functions that one call makes do all of its work are called there by Citus themselves, so that a batch is one round
//! trip from machine to machine, and one commit. Those that take part in a larger transaction run on the coordinator.
//!
//! Nothing of this concerns a ledger that is not distributed.

mod found;
mod migrate;

pub(super) use found::Found;
pub(super) use migrate::{Distribution, movable, version};

use super::lanes::Texts;

/// The namespace of the advisory locks that writers of a lane hold, each in its own transaction: what an erasure waits for.
const WRITERS_LOCK: i32 = 0x5e67_c007;

/// The statements: the parameters and answers are those of one server's.
pub(super) fn texts() -> Texts {
    let record = "SELECT * FROM \"{lane}\".record($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    Texts {
        record_distinct: record.to_owned(),
        record_any: record.to_owned(),
        remove: "SELECT * FROM \"{lane}\".remove($1, $2, $3, $4)".to_owned(),
        writers: WRITERS.replace("{writers}", &WRITERS_LOCK.to_string()),
        erase: "SELECT * FROM \"{lane}\".erase_user($1, $2, $3)".to_owned(),
        archive: None,
        archive_marked: "SELECT * FROM \"{lane}\".archive($1, $2, $3, $4, $5, $6)".to_owned(),
        heap_blocks: "SELECT citus_relation_size(to_regclass($1)) / current_setting('block_size')::bigint".to_owned(),
        partitions: PARTITIONS.to_owned(),
        lock_totals: None,
        advance_totals: "SELECT \"{lane}\".advance_totals($1, $2, $3)".to_owned(),
        clear_buckets: "SELECT * FROM \"{lane}\".clear_buckets($1, $2, $3, $4)".to_owned(),
        agree: None,
        compare: "SELECT * FROM \"{lane}\".recount($1, $2, false)".to_owned(),
        mend: "SELECT * FROM \"{lane}\".recount($1, $2, true)".to_owned(),
        put_segment: "SELECT \"{base}\".put_segment($1, $2, $3, $4)".to_owned(),
        raise_epoch: "SELECT \"{base}\".raise_epoch($1)".to_owned(),
        finish_erasure: "SELECT * FROM \"{base}\".finish_erasure($1, $2, $3, $4, $5, $6, $7)".to_owned(),
        forget_suppressions: "SELECT \"{base}\".forget_suppressions($1)".to_owned(),
    }
}

/// Who may be writing memberships of the lane of table `$1`, on whichever machine: whoever holds the lock that writing takes before its first
/// snapshot. Transactions that are prepared count too: what one of them committed elsewhere (a suppression) is not seen yet on its machine. A machine
/// that does not answer is an error.
const WRITERS: &str = r#"
SELECT n.nodeid || ' ' || w.writer
  FROM run_command_on_all_nodes(format($command$
         SELECT coalesce(json_agg(w.writer), '[]')
           FROM (SELECT l.virtualtransaction AS writer FROM pg_locks l
                  WHERE l.locktype = 'advisory' AND l.classid = {writers} AND l.objsubid = 2 AND l.granted
                    AND l.objid = (hashtext(%L)::bigint & 4294967295)::oid
                    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                 UNION ALL
                 SELECT p.gid FROM pg_prepared_xacts p WHERE p.database = current_database()) w
       $command$, split_part($1, '.', 1))) n,
       json_array_elements_text(CASE WHEN n.success THEN n.result::json ELSE ('no answer of node ' || n.nodeid || ': ' || n.result)::json END) AS w(writer)
"#;

/// `$1` the history of a lane: its partitions with how many heap blocks each has on its machine, and the number of its placement there.
const PARTITIONS: &str = r#"
SELECT i.inhrelid::regclass::text, citus_relation_size(i.inhrelid) / current_setting('block_size')::bigint, p.placementid
  FROM pg_inherits i
  JOIN pg_dist_shard s ON s.logicalrelid = i.inhrelid
  JOIN pg_dist_placement p ON p.shardid = s.shardid
 WHERE i.inhparent = to_regclass($1) ORDER BY 1
"#;
