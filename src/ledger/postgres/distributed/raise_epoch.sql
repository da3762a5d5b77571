-- What `remove.rs` raises: the instant is asked for before.
CREATE OR REPLACE FUNCTION "{base}".raise_epoch(clock timestamptz) RETURNS void
LANGUAGE plpgsql SET plan_cache_mode = auto SET enable_seqscan = off SET jit = off SET timezone = 'UTC' AS $function$
DECLARE
  instant bigint := (extract(epoch FROM coalesce(clock, clock_timestamp())) * 1000000)::bigint;
BEGIN
  UPDATE "{base}".removal_epoch SET epoch = greatest(epoch + 1, instant);
END $function$
