-- A count adds up what has ended instead of what is still to come: the first is a few minutes, the second two weeks.

-- The buckets get another name, so that no process of the version before writes or clears any: what it has under way is committed before this, or not
-- at all. In a block, since Citus sends on the whole text that a renaming came in, and refuses several statements; a table that a block makes it does
-- not distribute.
DO $rename$
BEGIN
  ALTER TABLE segment_bucket RENAME TO segment_expiry;
  ALTER INDEX segment_bucket_pkey RENAME TO segment_expiry_pkey;
END $rename$;

-- What all buckets of a segment hold that end after `since`: its members, and those who have left since then. Moved with the buckets, in the same
-- transaction; the sweep alone moves `since`, and a count that finds it long ago.
CREATE TABLE segment_total (
  segment_id bigint PRIMARY KEY,
  members    bigint NOT NULL,
  since      timestamptz NOT NULL DEFAULT 'epoch'
) WITH (fillfactor = 50);

INSERT INTO segment_total (segment_id, members) SELECT segment_id, sum(members) FROM segment_expiry GROUP BY segment_id;

DROP TABLE segment_span;
