# Runs before every start, and may be cut short anywhere: a data directory counts only
# once it has its final name, and users and databases are brought to what is asked for.
# One is made only where the volume was listed and has none: what is there and cannot be
# read, or is not complete, is somebody's data.
volume=${PGDATA%/*}
entries=$(ls -A "$volume")
found=no
for entry in $entries; do
  [ "$entry" != "${PGDATA##*/}" ] || found=yes
done
if [ "$found" = yes ]; then
  [ -s "$PGDATA/PG_VERSION" ] || {
    echo "$PGDATA is there, but its PG_VERSION cannot be read: nothing was touched; restore a backup" >&2
    exit 1
  }
else
  rm -rf "$PGDATA.new"
  (umask 077; printf '%s' "$POSTGRES_PASSWORD" > /tmp/password)
  initdb --pgdata="$PGDATA.new" --username=postgres --pwfile=/tmp/password \
    --encoding=UTF8 --locale=C.UTF-8 --auth=scram-sha-256 --no-instructions
  rm /tmp/password
  mv "$PGDATA.new" "$PGDATA"
fi

# No network while passwords and databases are set.
pg_ctl --pgdata="$PGDATA" --wait --silent start \
  --options="-c listen_addresses='' -c unix_socket_directories=/tmp -c hba_file=/etc/postgres/pg_hba.conf"
trap 'pg_ctl --pgdata="$PGDATA" --wait --silent --mode=fast stop' EXIT
psql --host=/tmp --username=postgres --no-psqlrc --quiet --set=ON_ERROR_STOP=1 \
  --output=/dev/null --file=/etc/postgres/reconcile.sql
