# shellcheck shell=bash disable=SC2154
# Step 2 of up.sh: two authorities, a certificate for every component, and a kubeconfig for each that is a client.
# All of it is made anew with each cluster and dies with the run folder.

openssl_config=$'[req]\ndistinguished_name = subject\n[subject]\n'   # the machine's own openssl.cnf would make every certificate an authority

new_certificate() { # name subject option...
  openssl req -config <(echo "$openssl_config") -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 365 \
    -keyout "$1.key" -out "$1.crt" -subj "$2" "${@:3}" 2> "$1.log" || die "openssl failed for $1: $(cat "$1.log")"
  rm "$1.log"
}
authority() { new_certificate "$1" "/CN=$1" -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign; }
issue() { # authority name subject [subjectAltName]
  new_certificate "$2" "$3" -CA "$1.crt" -CAkey "$1.key" -addext extendedKeyUsage=serverAuth,clientAuth ${4:+-addext "subjectAltName=$4"}
}

kubeconfig() { # user
  cat <<YAML
apiVersion: v1
kind: Config
current-context: segment-counter
contexts: [{name: segment-counter, context: {cluster: segment-counter, user: $1}}]
clusters: [{name: segment-counter, cluster: {server: "https://$node_ip:6443", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: $1, user: {client-certificate-data: $(base64 -w0 "$1.crt"), client-key-data: $(base64 -w0 "$1.key")}}]
YAML
}

create_pki() ( # run
  umask 077
  mkdir -p "$1/pki"
  cd "$1/pki"
  authority ca
  authority front-proxy-ca
  issue front-proxy-ca front-proxy /CN=front-proxy
  issue ca apiserver /CN=kube-apiserver "IP:127.0.0.1,IP:$node_ip,IP:$api_service_ip,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc"
  issue ca apiserver-to-kubelet /O=system:masters/CN=apiserver-to-kubelet
  issue ca kubelet "/O=system:nodes/CN=system:node:$node" "DNS:$node,IP:$node_ip"
  issue ca admin /O=system:masters/CN=admin
  local component
  for component in controller-manager scheduler proxy; do issue ca "$component" "/CN=system:kube-$component"; done
  for component in coredns metrics-server volumes; do issue ca "$component" "/CN=system:$component"; done
  for component in kubelet controller-manager scheduler proxy coredns metrics-server volumes; do kubeconfig "$component" > "$component.kubeconfig"; done
  kubeconfig admin > "$1/kubeconfig"
  openssl ecparam -name prime256v1 -genkey -noout -out service-accounts.key
  openssl pkey -in service-accounts.key -pubout -out service-accounts.pub
)
