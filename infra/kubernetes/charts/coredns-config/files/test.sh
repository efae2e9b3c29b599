# By the plain name, by the platform's name, and the two must agree. While CoreDNS
# changes its pods a question may get lost, so each is asked for a while.
ask() {
  for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
    if answer=$(nslookup -type=a "$1." 2>&1); then
      found=$(echo "$answer" | awk '/^Name:/ { seen = 1 } seen && /^Address/ { print $NF; exit }')
      if [ -n "$found" ]; then echo "$found"; return; fi
    fi
    sleep 1
  done
  echo "no address for $1: $answer" >&2
  return 1
}
expected=$(ask "$SAME_AS")
actual=$(ask "$NAME")
echo "$SAME_AS is $expected, $NAME is $actual"
[ "$expected" = "$actual" ] || { echo "the two differ" >&2; exit 1; }
