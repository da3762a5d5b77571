# shellcheck shell=bash disable=SC2154
# Step 3 of up.sh: etcd, the API server with its audit log, the controllers and the scheduler, each a plain process.

start_control_plane() { # run
  local run=$1 pki=$1/pki
  start etcd "$run/bin/etcd" --data-dir="$run/etcd" --unsafe-no-fsync --log-level=warn \
    --listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379 --listen-peer-urls=http://127.0.0.1:2380

  # OwnerReferencesPermissionEnforcement is what OpenShift runs; Pod Security admission is on by default.
  start apiserver "$run/bin/kube-apiserver" \
    --etcd-servers=http://127.0.0.1:2379 --service-cluster-ip-range="$service_range" --advertise-address="$node_ip" \
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement \
    --audit-policy-file="$here/config/audit-policy.yaml" --audit-log-path="$run/log/audit.log" --audit-log-maxsize=4096 \
    --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" --client-ca-file="$pki/ca.crt" \
    --service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$pki/service-accounts.pub" \
    --service-account-signing-key-file="$pki/service-accounts.key" \
    --kubelet-certificate-authority="$pki/ca.crt" --kubelet-client-certificate="$pki/apiserver-to-kubelet.crt" \
    --kubelet-client-key="$pki/apiserver-to-kubelet.key" --kubelet-preferred-address-types=InternalIP \
    --enable-aggregator-routing --proxy-client-cert-file="$pki/front-proxy.crt" --proxy-client-key-file="$pki/front-proxy.key" \
    --requestheader-client-ca-file="$pki/front-proxy-ca.crt" --requestheader-allowed-names=front-proxy \
    --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group --requestheader-extra-headers-prefix=X-Remote-Extra-
  await apiserver 60 kubectl get --raw /readyz

  start_with_kubeconfig controller-manager --use-service-account-credentials --service-account-private-key-file="$pki/service-accounts.key" \
    --root-ca-file="$pki/ca.crt" --cluster-signing-cert-file="$pki/ca.crt" --cluster-signing-key-file="$pki/ca.key" \
    --allocate-node-cidrs --cluster-cidr="$pod_range"
  start_with_kubeconfig scheduler
}

start_with_kubeconfig() { # component option...
  local kubeconfig=$run/pki/$1.kubeconfig
  start "$1" "$run/bin/kube-$1" --kubeconfig="$kubeconfig" --authentication-kubeconfig="$kubeconfig" \
    --authorization-kubeconfig="$kubeconfig" --leader-elect=false "${@:2}"
}
