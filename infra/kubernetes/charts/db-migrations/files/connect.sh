# From the mounted secret, naming the key that is missing.
for key in host port database username password; do
  [ -s "/secret/$key" ] || { echo "the secret $SECRET has no key $key" >&2; exit 1; }
done
PGHOST=$(cat /secret/host)
PGPORT=$(cat /secret/port)
PGDATABASE=$(cat /secret/database)
PGUSER=$(cat /secret/username)
PGPASSWORD=$(cat /secret/password)
export PGHOST PGPORT PGDATABASE PGUSER PGPASSWORD PGCONNECT_TIMEOUT=5
sql() { psql --no-psqlrc --quiet --tuples-only --no-align --set=ON_ERROR_STOP=1 "$@"; }
# checksum FILE: sets `checksum`. A file that cannot be read has none, and ends the script.
checksum() {
  checksum=$(sha256sum < "$1")
  checksum=${checksum%% *}
}
