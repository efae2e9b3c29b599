# The schema tool runs one statement at a time and cannot go on where it was stopped.
# While neither database holds anything but what that tool itself writes, nothing is lost
# by emptying both and beginning anew. Only databases that were looked at, and seen to be
# so, are emptied: a query that fails, or that answers anything but t or f, ends the hook.
export PGCONNECT_TIMEOUT=10
sql() { psql --no-psqlrc --quiet --tuples-only --no-align --set=ON_ERROR_STOP=1 "$@"; }
stop() {
  echo "$1" >&2
  exit 1
}

# Who may not read a table, or not all of its rows, gets an error here, and no "empty".
preamble() {
  cat <<'SQL'
SET client_min_messages = warning;
SET lock_timeout = '30s';
SET row_security = off;
CREATE FUNCTION pg_temp.holds_data() RETURNS boolean LANGUAGE plpgsql AS $body$
DECLARE
  candidate regclass;
  found boolean;
BEGIN
  FOR candidate IN
    SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
        -- What the schema tool writes before any server has started.
        AND NOT (n.nspname = 'public' AND c.relname IN ('schema_version', 'schema_update_history', 'namespace_metadata'))
  LOOP
    EXECUTE format('SELECT EXISTS (SELECT FROM %s)', candidate) INTO STRICT found;
    IF found THEN RETURN true; END IF;
  END LOOP;
  RETURN false;
END $body$;
SQL
}

# look DATABASE: sets `used` to t or f.
look() {
  used=$({ preamble; echo 'SELECT pg_temp.holds_data();'; } | sql --dbname="$1") ||
    stop "whether $1 is in use could not be seen: nothing was dropped"
  case $used in
    t | f) ;;
    *) stop "whether $1 is in use was answered with \"$used\": nothing was dropped" ;;
  esac
}

for try in $(seq 60); do
  pg_isready --quiet && break
  [ "$try" -lt 60 ] || stop "no answer from $PGHOST:$PGPORT for a minute: nothing was dropped"
  sleep 1
done

look "$DEFAULT_DATABASE"
if [ "$used" = t ]; then
  echo "$DEFAULT_DATABASE holds data: the schema is only brought up to date"
  exit
fi
look "$VISIBILITY_DATABASE"
if [ "$used" = t ]; then
  stop "$VISIBILITY_DATABASE holds data though $DEFAULT_DATABASE holds none; restore one, or empty the other by hand. Nothing was dropped"
fi
for database in "$DEFAULT_DATABASE" "$VISIBILITY_DATABASE"; do
  # Looked at again with the tables locked, so that nobody writes between look and drop.
  { preamble; cat <<'SQL'; } | sql --dbname="$database" || stop "$database could not be begun anew: nothing of it was dropped"
BEGIN;
-- Whoever is still at it is a run that was given up.
SELECT count(pg_terminate_backend(pid)) AS stopped FROM pg_stat_activity
  WHERE datname = current_database() AND pid <> pg_backend_pid() AND usename = current_user \gset
DO $body$
DECLARE
  candidate regclass;
BEGIN
  FOR candidate IN
    SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p')
  LOOP
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', candidate);
  END LOOP;
  IF pg_temp.holds_data() THEN
    RAISE EXCEPTION '% was written to meanwhile', current_database();
  END IF;
END $body$;
SELECT format('%s is begun anew; dropped, as they hold no data: %s', current_database(),
    coalesce(string_agg(c.relname, ', ' ORDER BY c.relname), 'no tables were there'))
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p', 'v', 'm');
DROP SCHEMA IF EXISTS public CASCADE;
CREATE SCHEMA public;
COMMIT;
SQL
done
