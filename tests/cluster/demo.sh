#!/usr/bin/env bash
# demo.sh: the whole of the main job on a Kubernetes, as a platform team and an application would do it, and what came of it.
# Run by `make demo`, which brings the cluster up and loads the images. It leaves everything standing and says how to look at it.
. "$(dirname "$0")/lib.sh"
image=${TEST_IMAGE:-localhost/segment-counter:test}
namespace=segment-counter-demo
kubectl() { command kubectl -n "$namespace" "$@"; }
step() { printf '\n== %s\n' "$*"; }

step "A namespace under Pod Security restricted, the definition and the operator"
command kubectl apply --server-side -f - <<YAML
{apiVersion: v1, kind: Namespace, metadata: {name: $namespace, labels: {pod-security.kubernetes.io/enforce: restricted}}}
YAML
helm upgrade --install segment-counter-crds "$project/charts/segment-counter-crds" -n "$namespace" --take-ownership --force-conflicts > /dev/null
helm upgrade --install segment-counter-operator "$project/charts/segment-counter-operator" -n "$namespace" \
  --set "image.repository=${image%:*},image.tag=${image##*:}" --wait --timeout=120s > /dev/null
helm list -n "$namespace"

step "A PostgreSQL that somebody else runs, with its Secret in CloudNativePG's form"
password=$(command kubectl -n "$namespace" get secret pg-server -o 'jsonpath={.data.password}' --ignore-not-found | base64 -d)
password=${password:-$(openssl rand -hex 16)}
# By the shell's own words: a password on a command line could be listed.
manifest=$(< "$here/config/postgres.yaml")
manifest=${manifest//@IMAGE@/${TEST_POSTGRES_IMAGE:-localhost/postgres:test}}
manifest=${manifest//@NAMESPACE@/$namespace}
kubectl apply --server-side -f - <<< "${manifest//@PASSWORD@/$password}"
kubectl rollout status statefulset/pg --timeout=120s

step "One SegmentCounter"
kubectl apply --server-side -f - <<YAML
apiVersion: segmentcounter.io/v1alpha1
kind: SegmentCounter
metadata: {name: demo}
spec:
  counting: {windowSeconds: 315360000}   # ten years: the stream is old, and its counts are known for this window
  postgres: {external: {secretRef: {name: pg-app}}}
  redis: {managed: {nodes: 2}}
  images: {redis: {image: "${TEST_REDIS_IMAGE:-localhost/valkey:test}"}}
YAML
begun=$SECONDS
kubectl wait --for=condition=Ready segmentcounter/demo --timeout=180s
echo "ready after $((SECONDS - begun)) s"

step "A real stream, through its Service"
"$project/target/debug/examples/demo" --url "http://$(kubectl get service demo-api -o 'jsonpath={.spec.clusterIP}')"

step "The jobs, now rather than at night"
for job in archive refresh; do
  kubectl delete job "$job-now" --ignore-not-found > /dev/null
  kubectl create job --from="cronjob/demo-$job" "$job-now"
  kubectl wait --for=condition=Complete "job/$job-now" --timeout=120s
  kubectl logs "job/$job-now" --tail=1
done
kubectl wait --for=condition=CountsCurrent segmentcounter/demo --timeout=60s > /dev/null

step "What stands"
kubectl get segmentcounters -o wide
kubectl get pods
cat <<TEXT

look around:  kubectl -n $namespace describe segmentcounter demo
end it:       kubectl delete namespace $namespace   (the whole local cluster: make cluster-down)
TEXT
