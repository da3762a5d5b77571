-- What removal, deletion and erasure leave behind. The version before goes on serving while these stand: it asks for none of them.

-- Raised by every removal, erasure, deletion and change of a window, in the same transaction; every recorded batch brings it back.
CREATE TABLE removal_epoch (
  only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
  epoch    INTEGER NOT NULL
) STRICT;
INSERT INTO removal_epoch (only_row, epoch) VALUES (1, 1);

-- Segments that were deleted and whose rows are not all cleared away yet.
CREATE TABLE segment_deleted (
  id         INTEGER PRIMARY KEY,
  deleted_at INTEGER NOT NULL
) STRICT;

-- The key of the hashes below: made here, once, and never told.
CREATE TABLE suppression_key (
  only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
  key      BLOB NOT NULL
) STRICT;
INSERT INTO suppression_key (only_row, key) VALUES (1, randomblob(32));

-- Users who were erased, by a keyed hash: nothing that was observed before is recorded.
CREATE TABLE suppression (
  user_hash        BLOB PRIMARY KEY,
  receipt          TEXT NOT NULL,
  erased_at        INTEGER NOT NULL,
  suppressed_until INTEGER NOT NULL,
  memberships      INTEGER NOT NULL,
  history          INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
