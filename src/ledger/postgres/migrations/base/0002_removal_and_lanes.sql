-- What removal, deletion and erasure leave behind, and lanes. The version before goes on serving while these stand: it asks for none of them.

-- Raised by every removal, erasure, deletion and change of a window, in the same transaction; every recorded batch brings it back. Who answers
-- repeats from memory forgets them when it has moved.
CREATE TABLE removal_epoch (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  epoch    bigint NOT NULL
);
INSERT INTO removal_epoch (epoch) VALUES (1);

-- The lanes there are: schemas with the memberships and counters of some of the segments.
CREATE TABLE lane (
  number integer PRIMARY KEY
);
INSERT INTO lane (number) VALUES (0);

-- What segments left in lanes that were deleted, or moved to another lane, and is not all cleared away yet.
CREATE TABLE segment_deleted (
  id         bigint NOT NULL,
  lane       integer NOT NULL,
  moved      boolean NOT NULL DEFAULT false,  -- its history stays where it is
  deleted_at timestamptz NOT NULL,
  PRIMARY KEY (id, lane)
);

-- What changed in a lane while one of its segments is copied to another one: written by triggers that stand only meanwhile.
CREATE TABLE move_log (
  segment_id bigint NOT NULL,
  user_id    text COLLATE "C" NOT NULL
);

-- The key of the hashes below: made here, once, and never told.
CREATE TABLE suppression_key (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  key      bytea NOT NULL
);
INSERT INTO suppression_key (key)
VALUES (sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8')));

-- Users who were erased, by a keyed hash. While erased_at is null the erasure is under way and nothing of the user is recorded; afterwards nothing
-- that was observed before it.
CREATE TABLE suppression (
  user_hash        bytea PRIMARY KEY,
  receipt          uuid NOT NULL,
  erased_at        timestamptz,
  suppressed_until timestamptz NOT NULL,
  memberships      bigint NOT NULL DEFAULT 0,
  history          bigint NOT NULL DEFAULT 0
);
