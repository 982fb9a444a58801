# Ends a test's Postgres and deletes its folder once no test process holds the lock any more, by whatever death.
# $1 folder, $2 lock file, $3 seconds to linger for the next test process, $4 "once" or "again" (the lock file stays)
dir=$1 lock=$2 linger=$3 mode=$4
exec 8>>"$lock" 9>>"$lock.janitor"
flock -n -x 9 || exit 0 # one janitor is enough
while :; do
  flock -x 8
  [ "$linger" = 0 ] && break
  flock -u 8
  sleep "$linger"
  flock -n -x 8 && break
done
alive() { # pid start: is it still the process that was written down?
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  want=$2
  # shellcheck disable=SC2086
  set -- ${stat##*) }
  [ "${20}" = "$want" ] && [ "$1" != Z ]
}
for signal in QUIT KILL; do
  tries=0
  while [ "$tries" -lt 100 ]; do
    left=0
    for record in "$dir"/run/*; do
      [ -f "$record" ] || continue
      read -r pid start _ <"$record"
      if alive "$pid" "$start"; then
        left=1
        [ $((tries % 20)) = 0 ] && kill -"$signal" "$pid"
      fi
    done
    [ "$left" = 0 ] && break 2
    tries=$((tries + 1))
    sleep 0.05
  done
done
rm -rf "$dir"
[ "$mode" = once ] && rm -f "$lock" "$lock.janitor"
# In this order: whoever gets the lock next finds that it needs a janitor of its own.
exec 9>&-
exec 8>&-
