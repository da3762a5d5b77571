-- A count adds up what has ended instead of what is still to come: the first is a few minutes, the second two weeks.
--
-- The buckets get another name, so that no process of the version before writes or clears any.

ALTER TABLE segment_bucket RENAME TO segment_expiry;

-- What all buckets of a segment hold that end after `since`: its members, and those who have left since then. Moved with the buckets, in the same
-- transaction. The sweep moves `since`, and so does a count that finds many buckets behind it.
CREATE TABLE segment_total (
  segment_id INTEGER PRIMARY KEY,
  members    INTEGER NOT NULL,
  since      INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO segment_total (segment_id, members) SELECT segment_id, sum(members) FROM segment_expiry GROUP BY segment_id;
DROP TABLE segment_span;
