# Runs the files V<number>__<name>.sql that the history does not know, in order. Each
# file and its line in the history are one transaction, so it may be cut short anywhere;
# the lock lets only one run at a time through. A file that was applied must not change.
sql --command "SET client_min_messages = warning" --command "
  CREATE TABLE IF NOT EXISTS schema_history (
    version    integer PRIMARY KEY,
    file       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
  )"

applied=0
for path in /migrations/V*.sql; do
  file=${path##*/}
  number=${file#V}
  version=${number%%__*}
  version=${version#"${version%%[!0]*}"}
  checksum "$path"
  result=$(sql --set=version="$version" --set=file="$file" --set=checksum="$checksum" --set=path="$path" <<'SQL'
BEGIN;
SELECT FROM pg_advisory_xact_lock(359, 42);
SELECT coalesce((SELECT checksum FROM schema_history WHERE version = :version), '') AS known \gset
SELECT :'known' = '' AS pending, :'known' NOT IN ('', :'checksum') AS changed \gset
\if :pending
  \i :path
  INSERT INTO schema_history (version, file, checksum) VALUES (:version, :'file', :'checksum');
  COMMIT;
  \echo applied
\elif :changed
  \echo changed
\else
  \echo known
\endif
SQL
  )
  case "$result" in
    *applied) echo "applied $file"; applied=$((applied + 1)) ;;
    *known) ;;
    *changed) echo "$file was applied with another content: put it back, and change the schema in a new file" >&2; exit 1 ;;
    *) echo "$file ended without a result: $result" >&2; exit 1 ;;
  esac
done
newest=$(sql --command 'SELECT max(version) FROM schema_history')
echo "$applied applied, the schema is at version $newest"
