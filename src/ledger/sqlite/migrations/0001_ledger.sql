-- The embedded ledger. Instants are integers: microseconds since the epoch, in UTC.

CREATE TABLE segment (
  id             INTEGER PRIMARY KEY AUTOINCREMENT,
  name           TEXT NOT NULL UNIQUE,
  window_seconds INTEGER,                     -- its own window; null: the counter's
  description    TEXT,
  from_pair      INTEGER NOT NULL,            -- created by a pair: these are limited in number, a PUT never is
  created_at     INTEGER NOT NULL,
  recounted_at   INTEGER                      -- null: never
) STRICT;
CREATE INDEX segment_recounted ON segment (recounted_at, id);

CREATE TABLE membership (
  id              INTEGER PRIMARY KEY,        -- the archive walks the table by it
  segment_id      INTEGER NOT NULL,
  user_id         TEXT NOT NULL,
  expires_at      INTEGER NOT NULL,
  prev_expires_at INTEGER,
  removed_at      INTEGER,                    -- a tombstone: beats every pair observed before it
  UNIQUE (segment_id, user_id)
) STRICT;
CREATE INDEX membership_user ON membership (user_id);

CREATE TABLE segment_bucket (
  segment_id INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  members    INTEGER NOT NULL,
  PRIMARY KEY (segment_id, expires_at)
) STRICT, WITHOUT ROWID;

CREATE TABLE segment_span (
  segment_id INTEGER NOT NULL,
  span_end   INTEGER NOT NULL,
  members    INTEGER NOT NULL,
  PRIMARY KEY (segment_id, span_end)
) STRICT, WITHOUT ROWID;

CREATE TABLE membership_history (
  segment_id  INTEGER NOT NULL,
  user_id     TEXT NOT NULL,
  expires_at  INTEGER NOT NULL,
  archived_at INTEGER NOT NULL
) STRICT;
CREATE INDEX membership_history_archived ON membership_history (archived_at);

CREATE TABLE segment_history (
  segment_id INTEGER NOT NULL,
  at         INTEGER NOT NULL,
  members    INTEGER NOT NULL
) STRICT;
CREATE INDEX segment_history_segment ON segment_history (segment_id, at);
CREATE INDEX segment_history_at ON segment_history (at);

CREATE TABLE job_run (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,
  job        TEXT NOT NULL,
  started_at INTEGER NOT NULL,
  seen_at    INTEGER NOT NULL,                -- moved while it runs; a run not seen for a minute is dead
  ended_at   INTEGER,
  succeeded  INTEGER,
  failure    TEXT,
  report     TEXT NOT NULL DEFAULT '{}'
) STRICT;
CREATE INDEX job_run_latest ON job_run (job, id);
