# Every database, each by its owner, into a folder that has its final name only once it is
# complete and was read back. Then the oldest complete ones beyond $KEEP go, and no others.
stamp=$(date -u +%Y%m%dT%H%M%SZ)
rm -rf /backup/*.part
mkdir "/backup/$stamp.part"
for entry in $DATABASES; do
  user=${entry%%/*} database=${entry#*/}
  PGUSER=$(cat "/secrets/$user/username")
  PGPASSWORD=$(cat "/secrets/$user/password")
  export PGUSER PGPASSWORD
  file=/backup/$stamp.part/$database.dump
  pg_dump --format=custom --file="$file" "$database"
  pg_restore --file=/dev/null "$file"
  size=$(wc -c < "$file")
  echo "$database: $size bytes"
done
sync
mv "/backup/$stamp.part" "/backup/$stamp"
echo "/backup/$stamp is complete"

set -- /backup/????????T??????Z
while [ $# -gt "$KEEP" ]; do
  rm -r "$1"
  echo "$1 was the oldest of $#, and is gone"
  shift
done
