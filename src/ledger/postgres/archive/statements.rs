//! What moves, and what is looked at before.

/// Moves rows that ended before now - `$2` µs into the history, from the place `$3` of the heap to the one before `$4`.
///
/// Walks the heap by TID ranges, since there is no index on expires_at, and deletes what it finds: half the work of locking rows first and then
/// deleting what was locked. A row that is being renewed is waited for, and looked at again. What was moved is told by the command's own count:
/// to count what was deleted costs a tenth more.
///
/// Rows of a segment that was deleted, or lives in another lane, are left alone: they are the sweep's, or a copy that is being made.
/// So are those that bear a removal: [`MOVE_MARKED`] is for them.
const MOVE: &str = r#"
WITH instant AS MATERIALIZED (
  SELECT now, now - $2 * interval '1 microsecond' AS ended_by FROM (SELECT coalesce($1, clock_timestamp()) AS now) clock
), gone AS (
  DELETE FROM "{lane}".membership m
   WHERE {place}
     AND m.expires_at <= (SELECT ended_by FROM instant) AND m.removed_at IS NULL
     AND EXISTS (SELECT FROM "{base}".segment s WHERE s.id = m.segment_id AND s.lane = {number})
  RETURNING m.segment_id, m.user_id, m.expires_at
)
INSERT INTO "{lane}".membership_history (segment_id, user_id, expires_at, archived_at)
SELECT g.segment_id, g.user_id, g.expires_at, i.now FROM gone g, instant i
"#;

/// How far the first `$6` rows reach that ended in that range: how many there are, the place of the last of them, whether any of them is for
/// [`MOVE_MARKED`] (`$5`: its `$6`), and when they were looked for.
const REACH: &str = r#"
WITH instant AS MATERIALIZED (
  SELECT coalesce($1, clock_timestamp()) AS now
)
SELECT count(*), ((max(tid)::text::point)[0])::bigint << 16 | ((max(tid)::text::point)[1])::bigint, coalesce(bool_or(marked), false),
       (SELECT now FROM instant)
  FROM (SELECT m.ctid AS tid, m.removed_at IS NOT NULL AS marked FROM "{lane}".membership m
         WHERE {place}
           AND m.expires_at <= (SELECT now FROM instant) - $2 * interval '1 microsecond' AND {due}
         LIMIT $6) first
"#;

/// Whether any row that ended in that range is for [`MOVE_MARKED`].
const MARKED: &str = r#"
WITH instant AS MATERIALIZED (
  SELECT coalesce($1, clock_timestamp()) AS now
)
SELECT EXISTS (
  SELECT FROM "{lane}".membership m
   WHERE {place} AND m.removed_at IS NOT NULL
     AND m.expires_at <= (SELECT now FROM instant) - $2 * interval '1 microsecond' AND {due})
"#;

/// A mark alone stays until it is spent.
const DUE: &str = "(m.removed_at IS NULL OR m.expires_at > timestamptz 'epoch'
       OR m.removed_at <= (SELECT now FROM instant) - $5 * interval '1 microsecond')";

const PLACE: &str =
    "m.ctid > format('(%s,%s)', $3 >> 16, $3 & 65535)::tid AND m.ctid < format('(%s,%s)', $4 >> 16, $4 & 65535)::tid";

/// The statements that move what bears no removal, where nobody holds it for long.
#[derive(Debug)]
pub(in super::super) struct Quick<T> {
    pub(super) all: T,
    pub(super) reach: T,
    pub(super) marked: T,
}

impl Quick<String> {
    pub(in super::super) fn new() -> Self {
        let text = |template: &str| template.replace("{place}", PLACE).replace("{due}", DUE);
        Self {
            all: text(MOVE),
            reach: text(REACH),
            marked: text(MARKED),
        }
    }
}

impl<T> Quick<T> {
    pub(in super::super) fn map<U>(&self, change: impl Fn(&T) -> U) -> Quick<U> {
        Quick {
            all: change(&self.all),
            reach: change(&self.reach),
            marked: change(&self.marked),
        }
    }
}

/// The same for rows that bear removals, and where a row is locked for longer than a batch may wait: it locks what it finds, and leaves alone what
/// somebody else has locked. `$6`: how long a removal is remembered (µs).
///
/// Where a segment lives is looked up for each row: as a join, the rows may come in another order than they lie, and a full batch would go on
/// behind rows that it never saw.
///
/// A row that also bears a removal stays as its mark until that is spent; a mark alone (which ended at the epoch) is no membership and goes into no
/// history.
pub(in super::super) const MOVE_MARKED: &str = r#"
WITH instant AS MATERIALIZED (
  SELECT coalesce($1, clock_timestamp()) AS now
), ended AS MATERIALIZED (
  SELECT m.ctid AS tid, m.segment_id, m.user_id, m.expires_at,
         m.removed_at IS NULL OR m.removed_at <= (SELECT now FROM instant) - $6 * interval '1 microsecond' AS spent
    FROM "{lane}".membership m
   WHERE m.ctid > format('(%s,%s)', $3 >> 16, $3 & 65535)::tid AND m.ctid < format('(%s,0)', $4)::tid
     AND m.expires_at <= (SELECT now FROM instant) - $2 * interval '1 microsecond'
     AND (m.expires_at > timestamptz 'epoch' OR m.removed_at <= (SELECT now FROM instant) - $6 * interval '1 microsecond')
     AND (SELECT s.lane = {number} FROM "{base}".segment s WHERE s.id = m.segment_id)
   LIMIT $5
   FOR UPDATE SKIP LOCKED
), gone AS (
  DELETE FROM "{lane}".membership m USING ended e WHERE m.ctid = e.tid AND e.spent
  RETURNING m.segment_id, m.user_id, m.expires_at, e.tid
), marks AS (
  UPDATE "{lane}".membership m SET expires_at = timestamptz 'epoch', prev_expires_at = NULL FROM ended e WHERE m.ctid = e.tid AND NOT e.spent
  RETURNING e.segment_id, e.user_id, e.expires_at, e.tid
), dealt_with AS MATERIALIZED (
  SELECT * FROM gone UNION ALL SELECT * FROM marks
), kept AS (
  INSERT INTO "{lane}".membership_history (segment_id, user_id, expires_at, archived_at)
  SELECT d.segment_id, d.user_id, d.expires_at, i.now FROM dealt_with d, instant i WHERE d.expires_at > timestamptz 'epoch'
)
SELECT count(*) FILTER (WHERE expires_at > timestamptz 'epoch'), count(*),
       ((max(tid)::text::point)[0])::bigint << 16 | ((max(tid)::text::point)[1])::bigint, false FROM dealt_with
"#;

/// `$1` the table of a lane's memberships: how many heap blocks it has.
pub(in super::super) const HEAP_BLOCKS: &str =
    "SELECT pg_relation_size(to_regclass($1)) / current_setting('block_size')::bigint";
