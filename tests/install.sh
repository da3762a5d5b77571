#!/usr/bin/env bash
# install.sh: everything that the tests need beside Rust, Go and a C compiler; installed where it can be (Debian, root), named where it can't.
set -euo pipefail

packages=(postgresql redis-server curl openssl)
[ "${1:-}" != cluster ] || packages+=(containerd runc containernetworking-plugins buildah mmdebstrap iproute2 nftables iptables conntrack)
[ "${1:-}" != bench ] || packages+=(wrk binutils valgrind)

missing=()
for package in "${packages[@]}"; do
  [ "$(dpkg-query -W -f '${Status}' "$package" 2> /dev/null)" = 'install ok installed' ] || missing+=("$package")
done

if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    echo "The tests need these programs, as Debian packages: ${missing[*]}" >&2
    echo "Install them (as root on Debian: apt-get install ${missing[*]}), then run the tests again." >&2
    exit 1
  fi
  echo "installing: ${missing[*]}"
  # Packages of servers would start one; the tests start their own.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' > $policy && chmod +x $policy
    trap 'rm -f $policy' EXIT
  fi
  apt-get update -q
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
fi

for tool in cargo cargo-clippy cargo-fmt cc; do
  command -v "$tool" > /dev/null || { echo "The tests need $tool: install Rust 1.95 or newer with clippy and rustfmt, and a C compiler" >&2; exit 1; }
done
