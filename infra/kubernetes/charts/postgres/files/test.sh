# Writes and reads as each user over the service, by its secret; leaves nothing behind.
for user in $USERS; do
  PGUSER=$(cat "/secrets/$user/username")
  PGPASSWORD=$(cat "/secrets/$user/password")
  PGHOST=$(cat "/secrets/$user/host")
  PGDATABASE=$(cat "/secrets/$user/database")
  export PGUSER PGPASSWORD PGHOST PGDATABASE
  sent="$HOSTNAME-$$"
  got=$(psql --no-psqlrc --quiet --tuples-only --no-align --set=ON_ERROR_STOP=1 --set=sent="$sent" <<'SQL'
    CREATE TABLE IF NOT EXISTS pg_temp.smoke (value text);
    INSERT INTO pg_temp.smoke VALUES (:'sent');
    SELECT value FROM pg_temp.smoke;
SQL
  )
  [ "$got" = "$sent" ] || { echo "$user wrote to $PGDATABASE, and read \"$got\"" >&2; exit 1; }
  echo "$user wrote to $PGDATABASE and read it back"
done
