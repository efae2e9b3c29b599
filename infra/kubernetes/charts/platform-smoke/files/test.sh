# Says all that is wrong before it fails.
failed=0
check() { # what, command
  what=$1
  shift
  if "$@" > /tmp/out 2>&1; then echo "ok    $what"; else echo "FAIL  $what"; sed 's/^/      /' /tmp/out; failed=1; fi
}
api_answers() { # any HTTP answer will do: a cluster may refuse strangers even this page
  wget -q -S -O - --no-check-certificate -T 5 https://kubernetes.default.svc/readyz 2>&1 | grep -E 'HTTP/1.1 (200|401|403)|^ok$'
}
check "the Kubernetes API answers" api_answers
for name in $(cat /checks/names); do check "$name has an address" nslookup -type=a "$name."; done
for port in $(cat /checks/ports); do check "$port takes connections" nc -z -w 5 "${port%:*}" "${port##*:}"; done
for key in $(cat /checks/secrets); do check "secret $key is there" test -s "/secrets/$key"; done
exit "$failed"
