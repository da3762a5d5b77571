-- One lane: the memberships of its segments and their counters. Runs with the search_path set to the lane's schema.

-- No index on expires_at: every renewal would touch it and no update could be HOT. The archive walks the heap instead.
-- Fillfactor 80 leaves room on each page for the new version that a renewal writes, so that renewals stay HOT.
CREATE TABLE membership (
  segment_id      bigint NOT NULL,
  expires_at      timestamptz NOT NULL,
  prev_expires_at timestamptz,                -- what expires_at was before the last renewal: learnt under the row's lock
  removed_at      timestamptz,                -- a tombstone: beats every pair observed before it
  user_id         text COLLATE "C" NOT NULL,
  PRIMARY KEY (segment_id, user_id)
) WITH (fillfactor = 80);
CREATE INDEX membership_user ON membership (user_id);

-- How many members of a segment leave at one instant. Written in the transaction that writes the memberships, nowhere else.
CREATE TABLE segment_bucket (
  segment_id bigint NOT NULL,
  expires_at timestamptz NOT NULL,
  members    bigint NOT NULL,
  PRIMARY KEY (segment_id, expires_at)
) WITH (fillfactor = 70);

-- The same, summed by two hours that end at span_end: a count reads spans, and the buckets of the span that is passing.
CREATE TABLE segment_span (
  segment_id bigint NOT NULL,
  span_end   timestamptz NOT NULL,
  members    bigint NOT NULL,
  PRIMARY KEY (segment_id, span_end)
) WITH (fillfactor = 70);

-- What the archive keeps. A partition a month; no primary key: nothing looks a row up by it, and it would cost half the archive's speed.
CREATE TABLE membership_history (
  segment_id  bigint NOT NULL,
  user_id     text COLLATE "C" NOT NULL,
  expires_at  timestamptz NOT NULL,
  archived_at timestamptz NOT NULL
) PARTITION BY RANGE (archived_at);
