# By the plain name, by the platform's name, and the two must agree. While CoreDNS
# changes its pods a question may get lost, so each is asked for a while.
address() {
  nslookup -type=a "$1." | awk '/^Name:/ { seen = 1 } seen && /^Address/ { print $NF; exit }'
}
ask() {
  for try in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
    found=$(address "$1" 2>/dev/null || true)
    if [ -n "$found" ]; then echo "$found"; return; fi
    sleep 1
  done
  echo "no address for $1" >&2
  return 1
}
expected=$(ask "$SAME_AS")
actual=$(ask "$NAME")
echo "$SAME_AS is $expected, $NAME is $actual"
[ "$expected" = "$actual" ]
