# A bucket, an object in it, the same bytes back, and nothing left.
bucket="minio/smoke-$(date +%s)-$$"
sent="$HOSTNAME $(date)"
mc mb --quiet "$bucket"
trap 'mc rb --quiet --force "$bucket"' EXIT
printf '%s' "$sent" > /tmp/sent
mc cp --quiet /tmp/sent "$bucket/object"
got=$(mc cat "$bucket/object")
[ "$got" = "$sent" ] || { echo "what was stored came back as \"$got\"" >&2; exit 1; }
mc rm --quiet "$bucket/object"
for existing in $BUCKETS; do
  mc stat --quiet "minio/$existing" > /dev/null
done
echo "stored, read and removed an object; there are the buckets: $BUCKETS"
