# servers.sh: what the scripts that start servers for tests have in common; sourced by them.

# PostgreSQL refuses to run as root, and so does a pooler.
as_user() {
  if [ "$(id -u)" != 0 ]; then "$@"; return; fi
  local user=nobody
  id postgres > /dev/null 2>&1 && user=postgres
  setpriv --reuid="$user" --regid="$(id -g "$user")" --clear-groups "$@"
}

# Ends what a file's first line names, by its process id, where that process works in the file's folder.
end_by() {
  local pid
  [ -s "$1" ] || return 0
  pid=$(head -n 1 "$1")
  # The number may be another process's by now.
  [ "$(readlink "/proc/$pid/cwd")" = "$(dirname "$1")" ] || return 0
  kill -INT "$pid"
  for _ in $(seq 300); do kill -0 "$pid" 2> /dev/null || break; sleep 0.1; done
  kill -QUIT "$pid" 2> /dev/null || true
}

free_port() {
  # Opens nothing: what is refused is free.
  local port
  while :; do
    port=$((20000 + RANDOM % 12000))
    (: < "/dev/tcp/127.0.0.1/$port") 2> /dev/null || { echo "$port"; return; }
  done
}
