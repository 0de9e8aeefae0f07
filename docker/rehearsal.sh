#!/usr/bin/env bash
# Build the image and run a search over three containers (a head and two workers, without GPUs), one of which is killed
# in the middle of it: a rehearsal for machines without a Docker engine. As root, on Debian:
#   apt-get install podman buildah runc debootstrap netavark aardvark-dns iptables catatonit
#   docker/rehearsal.sh base && docker/rehearsal.sh build && docker/rehearsal.sh search; docker/rehearsal.sh clean
# Everything it makes lies in $REHEARSAL (default: /var/tmp/blendsearch-rehearsal; about 25 GB) and is gone after clean.
# MIRROR is a Debian mirror (default: the one that apt uses), PIP_CONF a pip.conf for the build, CERTIFICATES the
# authorities that the build trusts. PYTHON runs blendsearch with the extra cluster; COMPOSE is docker-compose 2 or newer.
set -euo pipefail
cd "$(dirname "$0")/.."
place=${REHEARSAL:-/var/tmp/blendsearch-rehearsal}
compose=${COMPOSE:-docker-compose}
mkdir -p "$place"

cat >"$place/containers.conf" <<CONF
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[network]
network_backend = "netavark"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
CONF
cat >"$place/storage.conf" <<CONF
[storage]
driver = "overlay"
graphroot = "$place/storage"
runroot = "$place/run"
CONF
export CONTAINERS_CONF=$place/containers.conf CONTAINERS_STORAGE_CONF=$place/storage.conf TMPDIR=$place
export DOCKER_HOST=unix://$place/podman.sock

base() { # what python:3.11-slim-bookworm is on a machine that reaches no registry of images
    local mirror=${MIRROR:-$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' | awk '$2 == "bookworm" {print $1; exit}')}
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-pip bookworm "$place/root" "$mirror" >"$place/base.log"
    rm -f "$place"/root/usr/lib/python3*/EXTERNALLY-MANAGED # it is the image's Python, and nobody else's
    ln -sf python3 "$place/root/usr/bin/python"
    tar -C "$place/root" -c . | podman import - rehearsal-base:1 >/dev/null
    rm -rf "$place/root"
}

build() {
    local secrets=()
    [ -z "${PIP_CONF:-}" ] || secrets+=(--secret "id=pip.conf,src=$PIP_CONF")
    [ -z "${CERTIFICATES:-}" ] || secrets+=(--secret "id=certificates,src=$CERTIFICATES")
    buildah bud --layers --network=host --isolation=chroot --build-arg BASE=localhost/rehearsal-base:1 "${secrets[@]}" \
        -t blendsearch:0.2.0 -f docker/Dockerfile . >"$place/build.log" 2>&1 || { tail -20 "$place/build.log"; return 1; }
    podman images --format '{{.Repository}}:{{.Tag}} {{.Size}}'
}

search() {
    podman system service --time 0 "$DOCKER_HOST" 2>"$place/service.log" &
    service=$!
    files=(-p rehearsal -f docker/compose.yaml -f docker/compose.cpu.yaml)
    trap '"$compose" "${files[@]}" down --volumes --timeout 5 >>"$place/compose.log" 2>&1; kill $service' EXIT
    rm -f "$place/token"
    (umask 077 && od -An -tx1 -N32 /dev/urandom | tr -d ' \n' >"$place/token")
    chown 1000 "$place/token" # the image's user reads it, and nobody else
    export TOKEN_FILE=$place/token
    for _ in $(seq 120); do [ -S "$place/podman.sock" ] && break || sleep 0.5; done
    "$compose" "${files[@]}" up --no-build --detach --scale worker=2 >"$place/compose.log" 2>&1 ||
        { tail -20 "$place/compose.log"; return 1; }
    "${PYTHON:-python}" docker/rehearse.py "$place" rehearsal
}

clean() {
    podman rm --all --force --time 0 || true
    podman rmi --all --force || true
    rm -rf "$place"
}

"$1"
