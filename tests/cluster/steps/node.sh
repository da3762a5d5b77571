# shellcheck shell=bash disable=SC2154
# Step 4 of up.sh: the one node. containerd and runc come from the distribution; the kubelet and kube-proxy were built.

start_node() { # run
  local run=$1
  create_cgroup
  configure_pod_network "$run"
  configure_containerd "$run"
  configure_kubelet "$run"
  start containerd containerd --config "$run/containerd.toml"
  await containerd 30 ctr -a "$run/containerd.sock" version
  "$here/images.sh" --run "$run" pause
  start kubelet "$run/bin/kubelet" --config="$run/kubelet.yaml" --kubeconfig="$run/pki/kubelet.kubeconfig" \
    --hostname-override="$node" --node-ip="$node_ip" --root-dir="$run/kubelet"
  # Without the right to change the machine's conntrack limits kube-proxy would end itself; 0 leaves them alone.
  start proxy "$run/bin/kube-proxy" --kubeconfig="$run/pki/proxy.kubeconfig" --hostname-override="$node" \
    --cluster-cidr="$pod_range" --proxy-mode=nftables --conntrack-max-per-core=0
}

# The kubelet wants its root to exist in every hierarchy: one of version 2, or one for each controller of version 1.
create_cgroup() {
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    mkdir -p "/sys/fs/cgroup$cgroup"
    return
  fi
  local hierarchy
  for hierarchy in /sys/fs/cgroup/*/; do mkdir -p "$hierarchy$cgroup"; done
}

# restrict_oom_score_adj: without CAP_SYS_RESOURCE no process may lower its score, and every pod's sandbox would die of trying.
# netns_mounts_under_state_dir: what the pods leave mounted stays inside the run folder, where down.sh finds it.
configure_containerd() { # run
  local snapshotter=overlayfs
  [ "$(stat -f -c %T "$1")" != overlayfs ] || snapshotter=native   # inside a container: an overlay cannot lie on an overlay
  cat > "$1/containerd.toml" <<TOML
version = 2
root = "$1/containerd/root"
state = "$1/containerd/state"
[grpc]
  address = "$1/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:test"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$(cni_plugins)"
    conf_dir = "$1/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "$snapshotter"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
TOML
}

cni_plugins() {
  local folder
  for folder in /usr/lib/cni /opt/cni/bin /usr/libexec/cni; do
    [ ! -x "$folder/ptp" ] || { echo "$folder"; return; }
  done
  die "no CNI plugins found: tests/install.sh"
}

# Images are only ever loaded by hand, so none may be collected to make room; a full disk must not evict a test's pods.
configure_kubelet() { # run
  : > "$1/resolv.conf"   # no name server beyond the cluster's own
  cat > "$1/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {x509: {clientCAFile: $1/pki/ca.crt}, anonymous: {enabled: false}, webhook: {enabled: true}}
authorization: {mode: Webhook}
tlsCertFile: $1/pki/kubelet.crt
tlsPrivateKeyFile: $1/pki/kubelet.key
containerRuntimeEndpoint: unix://$1/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: $cgroup
failCgroupV1: false
failSwapOn: false
clusterDNS: [$dns_service_ip]
clusterDomain: cluster.local
resolvConf: $1/resolv.conf
podLogsDir: $1/pod-logs
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 100
YAML
}
