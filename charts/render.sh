#!/usr/bin/env bash
# Renders both charts, as they come, into manifests/install.yaml: for `kubectl apply --server-side -f` where there is no helm.
#   charts/render.sh            writes it
#   charts/render.sh --check    fails when it is not what the charts render
# HELM names the helm to use.
set -euo pipefail
cd "$(dirname "$0")/.."
helm=${HELM:-helm}
command -v "$helm" > /dev/null || { echo "helm is missing: install it, or say where it is with HELM=" >&2; exit 1; }

namespace=segment-counter-system
out=manifests/install.yaml

render() {
  cat << YAML
# Everything that the two charts install, with their default values; charts/render.sh writes it.
# The operator looks after SegmentCounters in the namespace $namespace; for others, use the chart's watch.namespaces.
---
apiVersion: v1
kind: Namespace
metadata:
  name: $namespace
  labels:
    pod-security.kubernetes.io/enforce: restricted
YAML
  # Blank lines between documents differ from one helm to the next.
  for chart in segment-counter-crds segment-counter-operator; do
    "$helm" template "$chart" "charts/$chart" --namespace "$namespace" | sed '/^$/d'
  done
}

case "${1:-}" in
  --check) diff -u "$out" <(render) >&2 || { echo "$out is not what the charts render: run charts/render.sh" >&2; exit 1; } ;;
  "") render > "$out.new" && mv "$out.new" "$out" ;;
  *) echo "usage: charts/render.sh [--check]" >&2; exit 2 ;;
esac
