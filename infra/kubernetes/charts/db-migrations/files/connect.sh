# From the mounted secret, naming the key that is missing.
for key in host port database username password; do
  [ -s "/secret/$key" ] || { echo "the secret $SECRET has no key $key" >&2; exit 1; }
done
export PGHOST="$(cat /secret/host)" PGPORT="$(cat /secret/port)" PGDATABASE="$(cat /secret/database)"
export PGUSER="$(cat /secret/username)" PGPASSWORD="$(cat /secret/password)" PGCONNECT_TIMEOUT=5
sql() { psql --no-psqlrc --quiet --tuples-only --no-align --set=ON_ERROR_STOP=1 "$@"; }
