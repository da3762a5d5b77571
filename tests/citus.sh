#!/usr/bin/env bash
# citus.sh up PREFIX [FOLDER]: starts a Citus cluster for tests on 127.0.0.1 (a coordinator and two workers on free ports) and prints what to export.
# citus.sh down FOLDER: ends it, by its process ids, and takes its folder away.
# PREFIX has bin/postgres with the extension citus beside it; docs/scaling.md says how it is built.
set -euo pipefail
. "$(dirname "$0")/servers.sh"

die() { echo "citus.sh: $*" >&2; exit 1; }

nodes=(coordinator worker1 worker2)

down() {
  local node
  for node in "${nodes[@]}"; do end_by "$1/$node/postmaster.pid"; done
  rm -rf -- "$1"
}

up() {
  local bin="$1/bin" folder=$2 node
  [ -x "$bin/postgres" ] || die "$bin/postgres is not there"
  mkdir -p "$folder"
  [ "$(id -u)" != 0 ] || chown "$(as_user id -u)" "$folder"
  trap 'down "$folder"' ERR
  declare -A port
  for node in "${nodes[@]}"; do
    as_user "$bin/initdb" --no-sync --username=postgres --auth=trust --encoding=UTF8 --locale=C --pgdata="$folder/$node" > /dev/null
    port[$node]=$(free_port)
    cat <<CONF | as_user tee -a "$folder/$node/postgresql.conf" > /dev/null
port = ${port[$node]}
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
shared_preload_libraries = 'citus'
max_connections = 400
shared_buffers = 128MB
# A database with the extension has a process of Citus' own, and each test has a database.
max_worker_processes = 120
# citus_schema_move copies by logical replication.
wal_level = logical
max_wal_senders = 40
max_replication_slots = 40
max_logical_replication_workers = 20
# Citus would turn TLS on with a certificate that it makes itself.
ssl = off
citus.node_conninfo = 'sslmode=disable'
citus.enable_statistics_collection = off
# The settings of the counter's own sessions do not reach the workers.
jit = off
CONF
    as_user sh -c 'cd "$1" && exec "$2/postgres" -D "$1" >> "$1/server.log" 2>&1 < /dev/null' sh "$folder/$node" "$bin" \
      > /dev/null 2>&1 < /dev/null & # or whoever reads what this prints waits for the servers
    disown
  done
  for node in "${nodes[@]}"; do
    for _ in $(seq 300); do
      "$bin/pg_isready" -q -h 127.0.0.1 -p "${port[$node]}" && break
      sleep 0.1
    done
    "$bin/pg_isready" -q -h 127.0.0.1 -p "${port[$node]}" || { tail -n 5 "$folder/$node/server.log" >&2; die "$node did not start"; }
    query "${port[$node]}" 'CREATE EXTENSION citus'
  done
  query "${port[coordinator]}" "SELECT citus_set_coordinator_host('127.0.0.1', ${port[coordinator]})"
  for node in worker1 worker2; do
    query "${port[coordinator]}" "SELECT citus_add_node('127.0.0.1', ${port[$node]})"
  done
  trap - ERR
  echo "export CITUS_URL=postgres://postgres@127.0.0.1:${port[coordinator]}/postgres CITUS_FOLDER=$folder"
}

query() { "$bin/psql" -X -q -t -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$1" -U postgres -d postgres -c "$2" > /dev/null; }

case "${1:-}" in
  up) up "${2:?PREFIX}" "${3:-$(mktemp -d "${TMPDIR:-/tmp}/citus.XXXXXX")}" ;;
  down) down "${2:?FOLDER}" ;;
  *) die "up PREFIX [FOLDER], or down FOLDER" ;;
esac
