for bucket in $BUCKETS; do
  mc mb --ignore-existing "minio/$bucket"
done
