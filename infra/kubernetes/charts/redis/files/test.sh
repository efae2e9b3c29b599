key="smoke:$HOSTNAME"
redis-cli -h "$REDIS_HOST" set "$key" "$$-value" EX 60 > /dev/null
got=$(redis-cli -h "$REDIS_HOST" get "$key")
redis-cli -h "$REDIS_HOST" del "$key" > /dev/null
[ "$got" = "$$-value" ] || { echo "$key was set, and \"$got\" was got" >&2; exit 1; }
echo "set, got and deleted $key"
# Without the password nothing is answered.
answer=$(env -u REDISCLI_AUTH redis-cli -h "$REDIS_HOST" get "$key" 2>&1)
case $answer in
  *NOAUTH*) ;;
  *) echo "without a password the answer was \"$answer\"" >&2; exit 1 ;;
esac
