#!/bin/bash
# Builds the image of docker/Dockerfile without a registry and runs it: a debian:bookworm-slim work-alike is made
# from the package mirror of this machine (mmdebstrap), buildah builds, podman runs it read-only and unprivileged,
# curl asks it, SIGTERM must end it with exit 0. Needs root. Everything lies in build/e2e and is removed at the end.
# Usage: docker/e2e.sh [MODEL-FILE]   (without: grist, the built-in model)
set -eu
cd "$(dirname "$0")/.."
model=${1:+$(realpath "$1")}
work=$PWD/build/e2e
port=18188
mkdir -p "$work"
missing=
for p in mmdebstrap buildah podman runc; do command -v $p > /dev/null || missing="$missing $p"; done
if [ -n "$missing" ]; then
    apt-get update -q
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing
fi
cat > "$work/storage.conf" << EOF
[storage]
driver = "overlay"
graphroot = "$work/graph"
runroot = "$work/run"
EOF
cat > "$work/containers.conf" << EOF
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
EOF
export CONTAINERS_STORAGE_CONF=$work/storage.conf CONTAINERS_CONF=$work/containers.conf
cleanup() {
    podman rm -f -i quern-e2e > /dev/null 2>&1 || true
    podman rmi -af > /dev/null 2>&1 || true
    umount "$work"/graph/overlay 2> /dev/null || true
    rm -rf "$work" 2> /dev/null || true
}
trap cleanup EXIT

echo "== base image from the package mirror"
cat > "$work/docker-clean" << 'EOF'
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/archives/partial/*.deb /var/cache/apt/*.bin || true"; };
APT::Update::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/archives/partial/*.deb /var/cache/apt/*.bin || true"; };
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Acquire::GzipIndexes "true";
Acquire::Languages "none";
EOF
# The hooks are expanded by mmdebstrap, which sets $1 to the new root.
# shellcheck disable=SC2016
mmdebstrap --quiet --variant=apt --mode=root --include=usr-is-merged,tzdata \
    --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
    --setup-hook='mkdir -p "$1/etc/apt/preferences.d"; printf "Package: usrmerge\nPin: release *\nPin-Priority: -1\n" > "$1/etc/apt/preferences.d/usrmerge"' \
    --customize-hook='rm "$1/etc/apt/preferences.d/usrmerge"' \
    --customize-hook="copy-in $work/docker-clean /etc/apt/apt.conf.d" \
    --customize-hook='rm -f "$1"/var/cache/apt/*.bin' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    bookworm "$work/base.tar" /etc/apt/sources.list.d/debian.sources
c=$(buildah from scratch)
buildah add --quiet "$c" "$work/base.tar" / > /dev/null
buildah config --cmd bash --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$c"
buildah commit --quiet --rm "$c" docker.io/library/debian:bookworm-slim > /dev/null

echo "== image"
buildah bud --isolation chroot --format docker --pull-never -t quern:e2e -f docker/Dockerfile . > "$work/build.log" 2>&1 ||
    { tail -40 "$work/build.log"; exit 1; }
podman images quern

echo "== run"
podman run -d --name quern-e2e --network host --no-healthcheck --read-only --tmpfs /tmp --cap-drop ALL \
    --security-opt no-new-privileges --memory 1g --cpus 2 ${model:+-v "$(dirname "$model"):/models:ro"} \
    ${model:+-e QUERN_MODEL="/models/$(basename "$model")"} -e QUERN_LISTEN=127.0.0.1:$port -e QUERN_DRAIN_DELAY=0s quern:e2e > /dev/null
for _ in $(seq 100); do
    curl -fs "http://127.0.0.1:$port/readyz" > /dev/null && break
    sleep 0.2
done
curl -fsS "http://127.0.0.1:$port/v1/infer" -d '{"sequence":"The capital of France is","max_tokens":8}'
echo
podman exec quern-e2e /usr/local/bin/quern healthcheck --url "http://127.0.0.1:$port/livez"
podman exec quern-e2e sh -c 'id -u; ! command -v gcc && echo "no compiler inside"'
podman stop -t 20 quern-e2e > /dev/null
code=$(podman inspect quern-e2e --format '{{.State.ExitCode}}')
echo "exit code after SIGTERM: $code"
[ "$code" = 0 ] && echo "1 passed, 0 failed"
