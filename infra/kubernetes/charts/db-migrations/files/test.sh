# Every file of the tree is in the history with its content, and the schema takes data.
for path in /migrations/V*.sql; do
  file=${path##*/}
  checksum "$path"
  known=$(sql --set=file="$file" <<'SQL'
SELECT checksum FROM schema_history WHERE file = :'file';
SQL
  )
  [ "$known" = "$checksum" ] || { echo "$file is not applied as it stands in the tree" >&2; exit 1; }
  echo "$file is applied"
done
topic=$(sql <<'SQL'
BEGIN;
INSERT INTO tenants (name) VALUES ('smoke') RETURNING id AS tenant \gset
INSERT INTO outbox (tenant_id, topic, payload) VALUES (:'tenant', 'smoke', '{}');
SELECT topic FROM outbox WHERE tenant_id = :'tenant';
ROLLBACK;
SQL
)
[ "$topic" = smoke ] || { echo "an event was written, and \"$topic\" was read" >&2; exit 1; }
echo "an event was written and read"
