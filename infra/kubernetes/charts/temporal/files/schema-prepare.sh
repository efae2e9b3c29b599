# The schema tool runs one statement at a time and cannot go on where it was stopped.
# What a server writes when it first starts tells that the schema was once complete;
# until then nothing is lost by emptying the databases and beginning anew.
sql() { psql --no-psqlrc --quiet --tuples-only --no-align --set=ON_ERROR_STOP=1 "$@"; }
for try in $(seq 60); do
  pg_isready --quiet && break
  [ "$try" -lt 60 ] || { echo "no answer from $PGHOST:$PGPORT for a minute" >&2; exit 1; }
  sleep 1
done
for table in cluster_metadata_info cluster_membership namespaces; do
  [ "$(sql --dbname="$DEFAULT_DATABASE" --command "SELECT to_regclass('public.$table') IS NOT NULL")" = t ] || continue
  [ "$(sql --dbname="$DEFAULT_DATABASE" --command "SELECT EXISTS (SELECT FROM public.$table)")" = t ] || continue
  echo "a server has used $DEFAULT_DATABASE: the schema is only brought up to date"
  exit
done
for database in "$DEFAULT_DATABASE" "$VISIBILITY_DATABASE"; do
  echo "$database is begun anew"
  sql --dbname="$database" <<'SQL'
    SET client_min_messages = warning;
    -- Whoever is still at it is a run that was given up.
    SELECT count(pg_terminate_backend(pid)) AS stopped FROM pg_stat_activity
      WHERE datname = current_database() AND pid <> pg_backend_pid() AND usename = current_user \gset
    DROP SCHEMA public CASCADE;
    CREATE SCHEMA public;
SQL
done
