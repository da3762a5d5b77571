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
-- transaction. The sweep moves `since`, and so does a count that finds many buckets behind it.
CREATE TABLE segment_total (
  segment_id bigint PRIMARY KEY,
  members    bigint NOT NULL,
  since      timestamptz NOT NULL DEFAULT 'epoch'
) WITH (fillfactor = 50);

INSERT INTO segment_total (segment_id, members) SELECT segment_id, sum(members) FROM segment_expiry GROUP BY segment_id;

-- Whoever might use the spans may use the totals: a role that serves need not own the tables.
DO $grants$
DECLARE
  held record;
BEGIN
  FOR held IN
    SELECT a.privilege_type, CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS grantee
      FROM pg_class c, aclexplode(c.relacl) a WHERE c.oid = 'segment_span'::regclass AND a.grantee <> c.relowner
  LOOP
    EXECUTE format('GRANT %s ON segment_total TO %s', held.privilege_type, held.grantee);
  END LOOP;
END $grants$;

DROP TABLE segment_span;
