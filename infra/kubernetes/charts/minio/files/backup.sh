# Every bucket that there is, into a folder that has its final name only once it is
# complete. Then the oldest complete ones beyond $KEEP go, and no others.
stamp=$(date -u +%Y%m%dT%H%M%SZ)
buckets=$(mc ls minio)
rm -rf /backup/*.part
mkdir "/backup/$stamp.part"
while read -r line; do
  bucket=${line##* }
  bucket=${bucket%/}
  [ -n "$bucket" ] || continue
  mkdir "/backup/$stamp.part/$bucket"
  mc mirror --quiet "minio/$bucket" "/backup/$stamp.part/$bucket" < /dev/null
  echo "$bucket is copied"
done <<EOF
$buckets
EOF
sync
mv "/backup/$stamp.part" "/backup/$stamp"
echo "/backup/$stamp is complete"

set -- /backup/????????T??????Z
while [ $# -gt "$KEEP" ]; do
  rm -r "$1"
  echo "$1 was the oldest of $#, and is gone"
  shift
done
