#!/usr/bin/env bash
# pgbouncer.sh up PROGRAM [FOLDER]: starts a PostgreSQL and a PgBouncer before it for tests, on free ports of 127.0.0.1, and prints what to export.
# pgbouncer.sh down FOLDER: ends both, by their process ids, and takes their folder away.
# PROGRAM is pgbouncer 1.21 or newer; docs/scaling.md has the settings that it is given here.
set -euo pipefail
. "$(dirname "$0")/servers.sh"

die() { echo "pgbouncer.sh: $*" >&2; exit 1; }

down() {
  local file
  for file in "$1/pgbouncer.pid" "$1/data/postmaster.pid"; do end_by "$file"; done
  rm -rf -- "$1"
}

# Where the programs of PostgreSQL are: on the PATH, or the newest where Debian keeps them.
programs() {
  local found
  found=$(command -v initdb || ls -d /usr/lib/postgresql/*/bin/initdb 2> /dev/null | sort -V | tail -n 1)
  [ -n "$found" ] || die "PostgreSQL is missing: apt-get install postgresql"
  dirname "$(readlink -f "$found")"
}

# Runs a program as a service that holds nothing of ours open, or whoever reads what this prints would wait for it.
start() {
  local folder=$1 log=$2
  shift 2
  as_user sh -c 'cd "$1" && log=$2 && shift 2 && exec "$@" >> "$log" 2>&1 < /dev/null' sh "$folder" "$log" "$@" > /dev/null 2>&1 < /dev/null &
  disown
}

answers() {
  for _ in $(seq 600); do
    "$bin/pg_isready" -q -h 127.0.0.1 -p "$1" && return
    sleep 0.1
  done
  tail -n 5 "$2" >&2
  die "$3 did not start"
}

settings() {
  local setting
  for setting in "statement_timeout = '$2'" "idle_in_transaction_session_timeout = '$3'" "client_connection_check_interval = '1s'" \
    'plan_cache_mode = force_generic_plan' 'enable_seqscan = off' 'jit = off' "default_transaction_isolation = 'read committed'"; do
    echo "ALTER ROLE $1 SET $setting;"
  done
}

up() {
  local program=$1 folder=$2 bin password port pooled
  program=$(command -v "$program") || die "$1 is no program"
  # 1.21 is the first that keeps track of the statements that a driver prepares.
  printf '1.21\n%s\n' "$("$program" --version | sed -n 's/^PgBouncer \([0-9.]*\).*/\1/p')" | sort -VC || die "$program is older than 1.21"
  bin=$(programs)
  password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
  port=$(free_port) pooled=$(free_port)
  mkdir -p "$folder"
  chmod 700 "$folder"
  [ "$(id -u)" != 0 ] || chown "$(as_user id -u)" "$folder"
  # Whatever goes wrong from here on.
  trap 'down "'"$folder"'"' EXIT
  printf '%s\n' "$password" | as_user tee "$folder/password" > /dev/null
  as_user "$bin/initdb" --no-sync --username=postgres --auth=scram-sha-256 --pwfile="$folder/password" --encoding=UTF8 --locale=C \
    --pgdata="$folder/data" > /dev/null
  cat <<CONF | as_user tee -a "$folder/data/postgresql.conf" > /dev/null
port = $port
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 400
shared_buffers = 128MB
CONF
  printf '"postgres" "%s"\n' "$password" | as_user tee "$folder/users" > /dev/null
  cat <<CONF | as_user tee "$folder/pgbouncer.ini" > /dev/null
[databases]
* = host=127.0.0.1 port=$port
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $pooled
unix_socket_dir =
pidfile = $folder/pgbouncer.pid
auth_type = scram-sha-256
auth_file = $folder/users
auth_user = postgres
auth_dbname = postgres
admin_users = postgres
pool_mode = transaction
max_prepared_statements = 200
ignore_startup_parameters = extra_float_digits, options
max_client_conn = 2000
; Fewer than a test's clients, so that they share; and each test has databases of its own, whose connections go soon.
default_pool_size = 10
server_idle_timeout = 5
; The tests show what is wrong by themselves.
log_connections = 0
log_disconnections = 0
CONF
  start "$folder/data" "$folder/server.log" "$bin/postgres" -D "$folder/data"
  answers "$port" "$folder/server.log" postgres
  start "$folder" "$folder/pgbouncer.log" "$program" "$folder/pgbouncer.ini"
  answers "$pooled" "$folder/pgbouncer.log" pgbouncer
  # `counter` has the settings that docs/scaling.md names, `brisk` those of a short settle time, `unset` none. All are of the tests alone.
  PGPASSWORD=$password "$bin/psql" -X -q -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$port" -U postgres -d postgres <<SQL
CREATE ROLE counter LOGIN SUPERUSER PASSWORD '$password';
CREATE ROLE brisk LOGIN SUPERUSER PASSWORD '$password';
CREATE ROLE unset LOGIN SUPERUSER PASSWORD '$password';
$(settings counter 30s 60s)
$(settings brisk 1s 2s)
SQL
  trap - EXIT
  local before=postgres://counter:$password@127.0.0.1
  echo "export PGBOUNCER_URL=$before:$pooled/postgres PGBOUNCER_SERVER_URL=$before:$port/postgres PGBOUNCER_FOLDER=$folder"
}

case "${1:-}" in
  up) up "${2:?PROGRAM}" "${3:-$(mktemp -d "${TMPDIR:-/tmp}/pgbouncer.XXXXXX")}" ;;
  down) down "${2:?FOLDER}" ;;
  *) die "up PROGRAM [FOLDER], or down FOLDER" ;;
esac
