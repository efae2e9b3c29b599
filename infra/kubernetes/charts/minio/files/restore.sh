# Puts every object of the backup $BACKUP back where it was, over what is there now. What
# was stored since under other names stays. There is no default: whoever starts this names
# the backup.
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
for folder in "/backup/$BACKUP"/*; do
  bucket=${folder##*/}
  mc mb --ignore-existing "minio/$bucket"
  # Copied, not mirrored: a mirror passes over what has the same size and is newer.
  content=$(ls -A "$folder")
  [ -z "$content" ] || mc cp --quiet --recursive "$folder/" "minio/$bucket/"
  echo "$bucket is restored"
done
