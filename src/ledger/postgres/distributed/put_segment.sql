-- What `segments.rs` puts in one statement: the lane and the instant are asked for before.
CREATE OR REPLACE FUNCTION "{base}".put_segment(clock timestamptz, put_name text, put_window bigint, put_description text) RETURNS boolean
LANGUAGE plpgsql SET plan_cache_mode = auto SET enable_seqscan = off SET jit = off SET timezone = 'UTC' AS $function$
DECLARE
  emptiest integer;
  number bigint;
  made bigint;
BEGIN
  LOOP
    UPDATE "{base}".segment SET window_seconds = put_window, description = put_description WHERE name = put_name;
    IF FOUND THEN
      RETURN false;
    END IF;
    SELECT l.number INTO emptiest
      FROM "{base}".lane l ORDER BY (SELECT count(*) FROM "{base}".segment o WHERE o.lane = l.number), l.number LIMIT 1;
    number := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint * 1024 + 1023;
    INSERT INTO "{base}".segment (id, name, lane, window_seconds, description, from_pair, created_at) OVERRIDING SYSTEM VALUE
    VALUES (number, put_name, emptiest, put_window, put_description, false, coalesce(clock, clock_timestamp()))
    ON CONFLICT (name) DO NOTHING RETURNING id INTO made;
    IF made IS NOT NULL THEN
      RETURN true;
    END IF;
    -- Somebody made it meanwhile.
  END LOOP;
END $function$
