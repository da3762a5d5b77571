#!/usr/bin/env bash
# build.sh: builds Kubernetes and its companions from their Go modules, once, and prints the folder that holds them.
# Versions and checksums stand in go/*/go.mod and go.sum. About 15 minutes on 2 cores; 90 s when Go's build cache is warm.
# The folder is named by a hash of its inputs, and appears whole or not at all.
. "$(dirname "$0")/lib.sh"
command -v go > /dev/null || die "building Kubernetes needs Go 1.26 or newer"

key=$(cat "$here/build.sh" "$here"/go/*/go.mod "$here"/go/*/go.sum | sha256sum | cut -c1-16)
out=$cache/kubernetes-$key
if [ -d "$out" ]; then echo "$out"; exit; fi

mkdir -p "$cache"
part=$(mktemp -d "$cache/building.XXXXXX")
trap 'rm -rf "$part"' EXIT
export CGO_ENABLED=0 GOFLAGS=-mod=readonly

say "building Kubernetes from its Go modules, once: about 15 minutes on 2 cores"
cd "$here/go/kubernetes"
version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
IFS=. read -r major minor _ <<< "${version#v}"
# Left out, clients and helm would see v0.0.0.
stamp=k8s.io/component-base/version
go build -trimpath -o "$part/" \
  -ldflags "-s -w -X $stamp.gitVersion=$version -X $stamp.gitMajor=$major -X $stamp.gitMinor=$minor" tool
cc -Os -static -o "$part/pause" "$(go list -m -f '{{.Dir}}' k8s.io/kubernetes)/build/pause/linux/pause.c"   # every pod's sandbox

for module in etcd coredns helm metrics-server; do
  say "building $module"
  cd "$here/go/$module"
  go build -trimpath -ldflags '-s -w' -o "$part/$module" "$(go list tool)"
done

mv "$part" "$out"
trap - EXIT
chmod 755 "$out"
echo "$out"
