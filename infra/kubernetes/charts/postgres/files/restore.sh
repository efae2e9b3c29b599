# Puts the databases back to what the backup $BACKUP holds, each in one transaction: one
# that fails is as it was before. What was written since the backup is lost, so the backup
# is named by whoever starts this, and there is no default.
case $BACKUP in
  # As the backup names what is complete: no part of one, and no path.
  [0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]T[0-9][0-9][0-9][0-9][0-9][0-9]Z) named=yes ;;
  *) named= ;;
esac
if [ -z "$named" ] || [ ! -d "/backup/$BACKUP" ]; then
  echo "there is no backup \"$BACKUP\": name one in BACKUP" >&2
  ls /backup >&2
  exit 1
fi
# All of it is read before the first is replaced.
for entry in $DATABASES; do
  pg_restore --file=/dev/null "/backup/$BACKUP/${entry#*/}.dump" || {
    echo "$BACKUP cannot give ${entry#*/} back: nothing was restored" >&2
    exit 1
  }
done
for entry in $DATABASES; do
  user=${entry%%/*} database=${entry#*/}
  PGUSER=$(cat "/secrets/$user/username")
  PGPASSWORD=$(cat "/secrets/$user/password")
  export PGUSER PGPASSWORD
  pg_restore --no-owner --no-privileges --file=/tmp/restore.sql "/backup/$BACKUP/$database.dump"
  echo "$database: all that it holds is replaced by the backup $BACKUP"
  psql --no-psqlrc --quiet --output=/dev/null --set=ON_ERROR_STOP=1 --single-transaction --dbname="$database" \
    --command="SET client_min_messages = warning" --command="SET lock_timeout = '60s'" \
    --command="DROP SCHEMA IF EXISTS public CASCADE" --command="CREATE SCHEMA public" --file=/tmp/restore.sql
  rm /tmp/restore.sql
  echo "$database is restored"
done
