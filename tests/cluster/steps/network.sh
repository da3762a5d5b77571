# shellcheck shell=bash disable=SC2154
# Step 1 of up.sh: one network namespace for the node, and one veth by which this host reaches it, its pods and its Services.
# The namespace has no default route, so nothing that a test sends can leave this machine.

create_network() { # run
  ip netns add "$netns"
  ip link add "$host_link" type veth peer name eth0 netns "$netns"
  ip link set dev "$host_link" alias "$1"   # not in the line above, where it is silently dropped for a veth
  ip address add "$host_ip/30" dev "$host_link"
  ip link set "$host_link" up
  in_node ip link set lo up
  in_node ip address add "$node_ip/30" dev eth0
  in_node ip link set eth0 up
  in_node ip route add "$service_range" dev eth0   # a Service's address must have a route before kube-proxy can rewrite it
  in_node sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'
  ip route add "$pod_range" via "$node_ip"
  ip route add "$service_range" via "$node_ip"
}

# Each pod is linked to the node by a routed pair of its own. A bridge would answer from pod to pod behind the back of
# connection tracking, unless br_netfilter is loaded, and Services would break on the machines without it.
configure_pod_network() { # run
  mkdir -p "$1/cni"
  cat > "$1/cni/10-pods.conflist" <<JSON
{"cniVersion": "0.4.0", "name": "segment-counter", "plugins": [
  {"type": "ptp", "ipMasq": false,
   "ipam": {"type": "host-local", "dataDir": "$1/cni/addresses", "ranges": [[{"subnet": "$node_pod_range"}]], "routes": [{"dst": "0.0.0.0/0"}]}}
]}
JSON
}
