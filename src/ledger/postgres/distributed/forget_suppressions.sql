-- What `archive.rs` forgets of erasures: the instant is asked for before.
CREATE OR REPLACE FUNCTION "{base}".forget_suppressions(clock timestamptz) RETURNS void
LANGUAGE plpgsql SET plan_cache_mode = auto SET enable_seqscan = off SET jit = off SET timezone = 'UTC' AS $function$
DECLARE
  instant timestamptz := coalesce(clock, clock_timestamp());
BEGIN
  DELETE FROM "{base}".suppression WHERE suppressed_until <= instant;
END $function$
