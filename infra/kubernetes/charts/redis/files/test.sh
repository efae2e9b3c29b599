key="smoke:$HOSTNAME"
redis-cli -h "$REDIS_HOST" set "$key" "$$-value" EX 60 > /dev/null
got=$(redis-cli -h "$REDIS_HOST" get "$key")
redis-cli -h "$REDIS_HOST" del "$key" > /dev/null
[ "$got" = "$$-value" ]
echo "set, got and deleted $key"
# Without the password nothing is answered.
env -u REDISCLI_AUTH redis-cli -h "$REDIS_HOST" get "$key" 2>&1 | grep -q NOAUTH
