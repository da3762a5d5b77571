-- The base schema: what stands once, whatever the number of lanes. Runs with the search_path set to it.

CREATE TABLE segment (
  id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name           text COLLATE "C" NOT NULL UNIQUE,
  lane           integer NOT NULL DEFAULT 0,
  window_seconds bigint,                      -- its own window; null: the counter's
  description    text,
  from_pair      boolean NOT NULL,            -- created by a pair: these are limited in number, a PUT never is
  created_at     timestamptz NOT NULL,
  recounted_at   timestamptz                  -- null: never
);
CREATE INDEX segment_recounted ON segment (recounted_at NULLS FIRST, id);
CREATE INDEX segment_from_pair ON segment (id) WHERE from_pair;

-- The trend. A partition a month; retention drops whole partitions.
CREATE TABLE segment_history (
  segment_id bigint NOT NULL,
  at         timestamptz NOT NULL,
  members    bigint NOT NULL
) PARTITION BY RANGE (at);
CREATE INDEX ON segment_history (segment_id, at);

-- What the jobs did: status, readiness and metrics read how long ago.
CREATE TABLE job_run (
  id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  job        text NOT NULL,
  started_at timestamptz NOT NULL,
  seen_at    timestamptz NOT NULL,            -- moved while it runs; a run not seen for a minute is dead
  ended_at   timestamptz,
  succeeded  boolean,
  failure    text,
  report     jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX job_run_latest ON job_run (job, id DESC);
