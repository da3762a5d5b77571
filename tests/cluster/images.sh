#!/usr/bin/env bash
# images.sh [--run RUN] [--profile DIR] pause | segment-counter | postgres | redis ...: makes images and loads them into the node.
# Without a container engine or a registry: layers of Debian packages (kept in the cache) and of our own binaries.
#   localhost/segment-counter:test   laid out as the Dockerfile does: both binaries in /usr/local/bin, user 65532
#   localhost/postgres:test          Debian's PostgreSQL, user postgres 999 as in the official image; no entrypoint
#   localhost/valkey:test            Debian's Redis under the names and the user (999) of the official Valkey image; no entrypoint
. "$(dirname "$0")/lib.sh"
run=$(run_folder) profile=$project/target/debug pending=
while [[ ${1:-} == --* ]]; do
  case $1 in
    --run) run=$(run_folder "$2") ;;
    --profile) profile=$2 ;;
    *) die "images.sh: unknown option $1" ;;
  esac
  shift 2
done
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
scratch=$(mktemp -d); trap 'rm -rf "$scratch"' EXIT

# debian NAME PACKAGES: a layer of packages without their maintainer scripts, made once.
debian() {
  local layer
  layer=$cache/layer-$1-$(echo "$2" | sha256sum | cut -c1-12).tar
  if [ ! -f "$layer" ]; then
    mkdir -p "$cache"
    rm -rf "$layer" "$layer.part"
    # The format is named: by the ending of the name it would be a folder, and made anew each time.
    mmdebstrap --quiet --variant=extract --format=tar --include="$2" bookworm "$layer.part" >&2 || die "no layer of Debian packages: $2"
    mv "$layer.part" "$layer"
  fi
  echo "$layer"
}

# image NAME CONFIG -- LAYER...
image() {
  local name=$1 container archive=$scratch/image.tar config=()
  shift
  while [ "$1" != -- ]; do config+=("$1"); shift; done
  shift
  container=$(buildah from scratch)
  local layer
  for layer in "$@"; do buildah add -q "$container" "$layer" / > /dev/null; done
  buildah config --env LANG=C.UTF-8 "${config[@]}" "$container"
  rm -f "$archive"
  buildah commit -q "$container" "docker-archive:$archive:$name" > /dev/null
  buildah rm "$container" > /dev/null
  ctr -a "$run/containerd.sock" -n k8s.io images import "$archive" > /dev/null
  echo "${pending#* }" > "${pending%% *}"
  say "loaded $name"
}

# loaded IMAGE FILE...: whether the node holds this image as it was made of these files. Keeps a mark for the next time if not.
loaded() {
  local mark=$run/loaded/${1//[:\/]/-} key
  key=$(cat "$here/images.sh" "${@:2}" | sha256sum)
  [ "$(cat "$mark" 2> /dev/null)" = "$key" ] && return
  mkdir -p "$run/loaded"
  pending="$mark $key"
  return 1
}

user() { # folder name uid
  mkdir -p "$1/etc"
  printf 'root:x:0:0:root:/root:/sbin/nologin\n%s:x:%s:%s::/nonexistent:/sbin/nologin\n' "$2" "$3" "$3" > "$1/etc/passwd"
  printf 'root:x:0:\n%s:x:%s:\n' "$2" "$3" > "$1/etc/group"
}

for wanted in "$@"; do
  extra=$scratch/$wanted
  mkdir -p "$extra"
  case $wanted in
    pause)
      ! loaded localhost/pause:test "$run/bin/pause" || continue
      cp "$run/bin/pause" "$extra/"
      image localhost/pause:test --entrypoint '["/pause"]' -- "$extra" ;;
    segment-counter)
      ! loaded localhost/segment-counter:test "$profile"/segment-counter{,-operator} || continue
      mkdir -p "$extra/usr/local/bin"
      for binary in segment-counter segment-counter-operator; do
        [ -x "$profile/$binary" ] || die "$profile/$binary is absent: cargo build first"
        strip -o "$extra/usr/local/bin/$binary" "$profile/$binary"
      done
      user "$extra" nonroot 65532
      base=$(debian base libc6,libgcc-s1,ca-certificates)   # not among the arguments below, where a failure would go unseen
      image localhost/segment-counter:test --user 65532:65532 --entrypoint '["/usr/local/bin/segment-counter"]' \
        --env PATH=/usr/local/bin:/usr/bin:/bin -- "$base" "$extra" ;;
    postgres)
      ! loaded localhost/postgres:test || continue
      user "$extra" postgres 999
      base=$(debian postgres postgresql-15,bash,dash,coreutils,libc-bin)
      image localhost/postgres:test --user 999:999 \
        --env PATH=/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/bin:/bin -- "$base" "$extra" ;;
    redis)
      ! loaded localhost/valkey:test || continue
      mkdir -p "$extra/usr/local/bin" "$extra/data"
      for program in server cli; do ln -s "/usr/bin/redis-$program" "$extra/usr/local/bin/valkey-$program"; done
      user "$extra" valkey 999
      base=$(debian redis redis-server,redis-tools,bash,coreutils)
      image localhost/valkey:test --user 999:999 --workingdir /data \
        --env PATH=/usr/local/bin:/usr/bin:/bin -- "$base" "$extra" ;;
    *) die "images.sh: no image is called $wanted" ;;
  esac
done
