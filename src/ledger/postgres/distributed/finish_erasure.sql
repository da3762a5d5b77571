-- What `erase.rs` notes at the end: the hash and the instant are asked for before.
CREATE OR REPLACE FUNCTION "{base}".finish_erasure(
  clock timestamptz, erased_user text, of_receipt text, gone_memberships bigint, gone_history bigint, keep bigint, before timestamptz)
RETURNS TABLE (erased_micros bigint, until_micros bigint)
LANGUAGE plpgsql SET plan_cache_mode = auto SET enable_seqscan = off SET jit = off SET timezone = 'UTC' AS $function$
DECLARE
  instant timestamptz := coalesce(clock, clock_timestamp());
  hash bytea;
  erased timestamptz; until timestamptz;
BEGIN
  SELECT sha256(k.key || convert_to(erased_user, 'UTF8')) INTO hash FROM "{base}".suppression_key k;
  SELECT greatest(instant, before), greatest(s.suppressed_until, instant + keep * interval '1 microsecond') INTO erased, until
    FROM "{base}".suppression s WHERE s.user_hash = hash AND s.receipt = of_receipt::uuid FOR UPDATE;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  UPDATE "{base}".suppression SET erased_at = erased, suppressed_until = until,
         memberships = memberships + gone_memberships, history = history + gone_history
   WHERE user_hash = hash AND receipt = of_receipt::uuid;
  RETURN QUERY SELECT (extract(epoch FROM erased) * 1000000)::bigint, (extract(epoch FROM until) * 1000000)::bigint;
END $function$
