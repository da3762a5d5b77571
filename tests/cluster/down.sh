#!/usr/bin/env bash
# down.sh [RUN]: ends the cluster that up.sh started with this RUN, by the process ids that it wrote, and takes its state away.
. "$(dirname "$0")/lib.sh"
need_root down.sh
set +e
run=$(run_folder "${1:-}")
[ -z "$(owner)" ] || [ "$(owner)" = "$run" ] || die "the cluster that stands belongs to $(owner)"

end() { # component
  local pid
  is_running "$run" "$1" || return 0
  pid=$(cat "$run/pids/$1")
  kill "$pid" 2> /dev/null
  for _ in $(seq 50); do kill -0 "$pid" 2> /dev/null || return 0; sleep 0.1; done
  kill -9 "$pid" 2> /dev/null
}

end kubelet   # first: it would start the pods again
if is_running "$run" containerd; then
  tasks() { ctr -a "$run/containerd.sock" -n k8s.io tasks "$@"; }
  for task in $(tasks ls -q); do tasks kill -s KILL "$task"; done > /dev/null 2>&1
  sleep 0.5
  for task in $(tasks ls -q); do tasks rm -f "$task"; done > /dev/null 2>&1
fi
for component in "${components[@]}"; do end "$component"; done
mount | awk -v run="$run/" 'index($3, run) == 1 {print $3}' | sort -r | xargs -r umount -l
ip link del "$host_link" 2> /dev/null
netns_exists && ip netns del "$netns"
rm -rf "$run"
