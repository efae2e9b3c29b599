# The schema tool runs one statement at a time and cannot go on where it was stopped.
# So a database counts as set up only once the last step has said so; before that, and
# as long as it holds no namespace and no execution, it is emptied and begun anew.
sql() { psql --no-psqlrc --quiet --tuples-only --no-align --set=ON_ERROR_STOP=1 "$@"; }
for try in $(seq 60); do
  pg_isready --quiet && break
  [ "$try" -lt 60 ] || { echo "no answer from $PGHOST:$PGPORT for a minute" >&2; exit 1; }
  sleep 1
done
for database in $DATABASES; do
  export PGDATABASE="$database"
  state=$(sql --command "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()")
  [ "$state" != "temporal schema: complete" ] || { echo "$database is set up"; continue; }
  in_use=false
  for table in namespaces executions_visibility; do
    if [ "$(sql --command "SELECT to_regclass('public.$table') IS NOT NULL")" = t ] &&
       [ "$(sql --command "SELECT EXISTS (SELECT FROM public.$table)")" = t ]; then in_use=true; fi
  done
  if [ "$in_use" = true ]; then
    echo "$database holds data from before: its schema is only brought up to date"
  else
    echo "$database is begun anew"
    sql <<'SQL'
      SET client_min_messages = warning;
      -- Whoever is still at it is a run that was given up.
      SELECT count(pg_terminate_backend(pid)) AS stopped FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND usename = current_user \gset
      DROP SCHEMA public CASCADE;
      CREATE SCHEMA public;
SQL
  fi
done
