#!/bin/bash
# Validates the container, Kubernetes, Prometheus and systemd files without a registry or a cluster:
# dockerfile-utils, dockerlint and shellcheck on the Dockerfile, docker-compose config, kubernetes-models on the
# manifests, promtool on rules (with their unit test) and configuration, systemd-analyze on the unit.
set -u
cd "$(dirname "$0")/.." || exit 2
work=build/deploy-check
mkdir -p $work
fails=0

step() {
    local name=$1
    shift
    if "$@" > "$work/out.log" 2>&1; then
        printf 'ok    %s\n' "$name"
    else
        printf 'FAIL  %s\n' "$name"
        cat "$work/out.log"
        fails=$((fails + 1))
    fi
}

install() {
    local missing=
    command -v promtool >/dev/null || missing="$missing prometheus"
    command -v docker-compose >/dev/null || missing="$missing docker-compose"
    command -v systemd-analyze >/dev/null || missing="$missing systemd"
    command -v shellcheck >/dev/null || missing="$missing shellcheck"
    command -v node >/dev/null || missing="$missing nodejs"
    command -v npm >/dev/null || missing="$missing npm"
    if [ -n "$missing" ]; then
        local sudo=
        [ "$(id -u)" = 0 ] || sudo=sudo
        $sudo env DEBIAN_FRONTEND=noninteractive apt-get update -q
        # shellcheck disable=SC2086
        $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing
    fi
    cp deploy/package.json deploy/package-lock.json deploy/check_k8s.js $work/
    [ -f $work/ok ] && cmp -s deploy/package-lock.json $work/ok && return 0
    (cd $work && npm ci --ignore-scripts --no-audit --no-fund) && cp deploy/package-lock.json $work/ok
}

# The shell in RUN lines, checked as sh.
run_lines() {
    awk '/^RUN /{on=1; sub(/^RUN /,"")} on{print; if ($0 !~ /\\$/) {on=0; print ""}}' docker/Dockerfile > $work/run.sh
    shellcheck -s sh $work/run.sh
}

systemd_unit() {
    # ExecStart must exist for verify; any binary stands in for it.
    sed 's,/usr/local/bin/quern serve,/bin/true,' deploy/systemd/quern.service > $work/quern.service
    systemd-analyze verify --man=no "./$work/quern.service" &&
        systemd-analyze security --offline=true --threshold=20 "./$work/quern.service"
}

if ! install > $work/install.log 2>&1; then
    tail -20 $work/install.log
    exit 1
fi
step "Dockerfile: dockerfile-utils" $work/node_modules/.bin/dockerfile-utils lint docker/Dockerfile
step "Dockerfile: dockerlint" $work/node_modules/.bin/dockerlint -f docker/Dockerfile
step "Dockerfile: RUN lines" run_lines
step "compose.yaml" docker-compose -f docker/compose.yaml config -q
step "Kubernetes manifests" node $work/check_k8s.js deploy/k8s/deployment.yaml deploy/k8s/service.yaml
step "Prometheus configuration" promtool check config deploy/prometheus/prometheus.yml
step "Prometheus rules" promtool check rules deploy/prometheus/alerts.yml
step "Prometheus rule tests" promtool test rules deploy/prometheus/alerts_test.yml
step "systemd unit" systemd_unit
[ $fails -eq 0 ]
