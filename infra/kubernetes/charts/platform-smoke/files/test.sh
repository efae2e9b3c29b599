# Says all that is wrong before it fails.
failed=0
check() { # what, command
  what=$1
  shift
  if "$@" > /tmp/out 2>&1; then echo "ok    $what"; else echo "FAIL  $what"; sed 's/^/      /' /tmp/out; failed=1; fi
}
# No client here speaks TLS well; but the API server tells who does not that it does.
api_answers() {
  printf 'GET /readyz HTTP/1.0\r\n\r\n' | nc -w 5 kubernetes.default.svc 443 | grep 'HTTPS server'
}
check "the Kubernetes API answers" api_answers
for name in $(cat /checks/names); do check "$name has an address" nslookup -type=a "$name."; done
for port in $(cat /checks/ports); do check "$port takes connections" nc -w 5 "${port%:*}" "${port##*:}" -e true; done
for key in $(cat /checks/secrets); do check "secret $key is there" test -s "/secrets/$key"; done
exit "$failed"
