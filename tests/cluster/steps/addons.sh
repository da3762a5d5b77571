# shellcheck shell=bash disable=SC2154
# Step 5 of up.sh: cluster DNS and metrics as plain processes on the node's address, and a pool of volumes.

start_addons() { # run
  local run=$1
  cat > "$run/Corefile" <<COREFILE
.:1053 {
  errors
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $run/pki/coredns.kubeconfig segment-counter
    ttl 5
  }
}
COREFILE
  start coredns "$run/bin/coredns" -conf "$run/Corefile"
  sed -e "s|@NODE_IP@|$node_ip|g; s|@DNS_SERVICE_IP@|$dns_service_ip|g" "$here/config/addons.yaml" > "$run/addons.yaml"
  volumes "$run" >> "$run/addons.yaml"
  kubectl apply --server-side -f "$run/addons.yaml" > /dev/null
  # After its rights: without them it would end at once, and the API server's discovery would wait for it for ever.
  local kubeconfig=$run/pki/metrics-server.kubeconfig
  start metrics-server "$run/bin/metrics-server" --kubeconfig="$kubeconfig" --authentication-kubeconfig="$kubeconfig" \
    --authorization-kubeconfig="$kubeconfig" --secure-port=4443 --cert-dir="$run/metrics-server" \
    --kubelet-certificate-authority="$run/pki/ca.crt" --kubelet-preferred-address-types=InternalIP --metric-resolution=15s
}

# `local` volumes honour fsGroup, which hostPath ones do not.
volumes() { # run
  local i
  for i in $(seq 20); do
    mkdir -p "$1/volumes/$i"
    cat <<YAML
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: local-$i}
spec:
  capacity: {storage: 10Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: standard
  persistentVolumeReclaimPolicy: Retain
  local: {path: $1/volumes/$i}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [$node]}]}]}}
YAML
  done
}
