#!/usr/bin/env bash
# up.sh [RUN]: brings a one-node Kubernetes up and prints what to export. RUN holds its whole state (default target/cluster).
# Up already: says so. With KUBE_CONTEXT set it starts nothing: what it prints leads to that cluster, if it answers.
. "$(dirname "$0")/lib.sh"

if [ -n "${KUBE_CONTEXT:-}" ]; then
  command -v kubectl > /dev/null || die "KUBE_CONTEXT is set: kubectl must be installed to use it"
  kubectl --context "$KUBE_CONTEXT" get --raw /readyz > /dev/null || die "the cluster of KUBE_CONTEXT=$KUBE_CONTEXT does not answer"
  say "using the cluster of the context $KUBE_CONTEXT; nothing was started"
  # A kubeconfig of that context alone: what follows needs no flag and can reach no other cluster.
  mkdir -p "$project/target"
  (umask 077 && kubectl config view --raw --minify --flatten --context "$KUBE_CONTEXT" > "$project/target/kube-context.yaml")
  echo "export KUBECONFIG=$project/target/kube-context.yaml"
  exit
fi

for step in pki network control-plane node addons; do . "$here/steps/$step.sh"; done
need_root up.sh
run=$(run_folder "${1:-}")

kubectl() { "$run/bin/kubectl" --kubeconfig="$run/kubeconfig" "$@"; }
start() { # component command...; in the node's network, its output in a log, its process id in a file
  local component=$1; shift
  # Not by in_node: the id of a function in the background is that of a shell around it, which is not in the namespace.
  nsenter --net="/run/netns/$netns" setsid "$@" > "$run/log/$component.log" 2>&1 < /dev/null &
  echo $! > "$run/pids/$component"
}
await() { # component seconds command...
  local component=$1; shift
  retry "$@" || die "$component did not answer within $1 s; its log ends with:
$(tail -n 15 "$run/log/$component.log")"
}
node_is_ready() { kubectl wait --for=condition=Ready "node/$node" --timeout=1s; }
announce() { echo "export KUBECONFIG=$run/kubeconfig AUDIT_LOG=$run/log/audit.log PATH=$run/bin:\$PATH"; }

if netns_exists; then
  if [ "$(owner)" != "$run" ]; then
    # Only a name without a process: what a killed session left behind.
    [ -z "$(ip netns pids "$netns")" ] ||
      die "another test cluster stands on this machine (its state: $(owner)). End it: tests/cluster/down.sh $(owner)"
    say "clearing what is left of the dead cluster in $(owner)"
    "$here/down.sh" "$(owner)"
  elif is_running "$run" apiserver && is_running "$run" kubelet && node_is_ready > /dev/null 2>&1; then
    say "the cluster is up already"
    announce
    exit
  else
    say "a cluster that is not well stands here: taking it down first"
  fi
fi
[ ! -e "$run/pids" ] && ! netns_exists || "$here/down.sh" "$run"

binaries=$("$here/build.sh")
mkdir -p "$run"/{log,pids}
ln -sfn "$binaries" "$run/bin"
create_pki "$run"
create_network "$run"
start_control_plane "$run"
start_node "$run"
start_addons "$run"
retry 60 node_is_ready || die "the node is not ready; its log ends with:
$(tail -n 15 "$run/log/kubelet.log")"
say "a Kubernetes is up: its state in $run, its end: make cluster-down"
announce
