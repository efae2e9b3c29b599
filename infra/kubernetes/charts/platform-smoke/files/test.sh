# Says all that is wrong before it fails.
failed=0
check() { # what, command
  what=$1
  shift
  if "$@" > /tmp/out 2>&1; then echo "ok    $what"; else echo "FAIL  $what"; sed 's/^/      /' /tmp/out; failed=1; fi
}
# No client here speaks TLS well; but the API server tells who does not that it does.
# shellcheck disable=SC2317,SC2329 # check calls it
api_answers() {
  printf 'GET /readyz HTTP/1.0\r\n\r\n' | nc -w 5 kubernetes.default.svc 443 | grep 'HTTPS server'
}
check "the Kubernetes API answers" api_answers
# Read before they are walked: a list that cannot be read is no empty list.
names=$(cat /checks/names)
ports=$(cat /checks/ports)
secrets=$(cat /checks/secrets)
for name in $names; do check "$name has an address" nslookup -type=a "$name."; done
for port in $ports; do check "$port takes connections" nc -w 5 "${port%:*}" "${port##*:}" -e true; done
for key in $secrets; do check "secret $key is there" test -s "/secrets/$key"; done
exit "$failed"
