# shellcheck shell=bash
# Sourced first by every script of this folder: the names, addresses and paths of the test cluster, and its few helpers.
# Nothing here changes anything; what starts, stops or writes stands in the script that is named after it.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
project=$(cd "$here/../.." && pwd)
cache=${SEGMENT_COUNTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/segment-counter}

# One cluster a machine: these three belong to it alone, so whatever is found under them may be ended by down.sh.
netns=segment-counter
host_link=segc-host         # an interface's name has at most 15 characters; its alias names the run folder that owns the cluster
cgroup=/segment-counter     # of all pods. Under the kubelet's own default it would end the pods of another kubelet.

# 198.18.0.0/15 is set aside for benchmarks (RFC 2544), so no real network is hidden by it.
node=node-1
node_ip=198.18.255.2
host_ip=198.18.255.1
pod_range=198.18.0.0/17
node_pod_range=198.18.0.0/24
service_range=198.19.0.0/16
api_service_ip=198.19.0.1
dns_service_ip=198.19.0.10

say() { printf '%s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
need_root() { [ "$(id -u)" = 0 ] || die "$1 needs root: it makes a network namespace, cgroups and mounts"; }

# The folder that holds a cluster's whole state: the argument, else $CLUSTER_RUN, else target/cluster.
run_folder() { realpath -m "${1:-${CLUSTER_RUN:-$project/target/cluster}}"; }

in_node() { nsenter --net="/run/netns/$netns" "$@"; }   # not `ip netns exec`: that remounts /sys and hides the cgroups
netns_exists() { [ -e "/run/netns/$netns" ]; }
owner() { cat "/sys/class/net/$host_link/ifalias" 2> /dev/null || true; }

# A pid file alone may be older than the last boot: a process is ours only while it lives in our network namespace.
is_running() { # run component
  local pid
  pid=$(cat "$1/pids/$2" 2> /dev/null) && [ "/proc/$pid/ns/net" -ef "/run/netns/$netns" ]
}

# retry SECONDS COMMAND...: true as soon as the command is.
retry() {
  local left=$(($1 * 10)); shift
  until "$@" > /dev/null 2>&1; do
    ((left-- > 0)) || return 1
    sleep 0.1
  done
}

components=(etcd apiserver controller-manager scheduler containerd kubelet proxy coredns metrics-server)
