#!/bin/sh
# Installs missing Debian packages: tools/deps.sh build | test | check | load. Uses sudo only when not root.
set -e
build="gcc make pkg-config git libc6-dev libmicrohttpd-dev libuv1-dev libjansson-dev libopenblas-pthread-dev libutf8proc-dev curl jq"
test="$build libcmocka-dev python3 python3-venv wrk nginx-light"
check="$test clang clang-tidy clang-format cppcheck shellcheck"
case "$1" in
build) want=$build ;;
test) want=$test ;;
check) want=$check ;;
*) echo "usage: tools/deps.sh build|test|check" >&2; exit 2 ;;
esac
missing=
for p in $want; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $p"
done
[ -z "$missing" ] && exit 0
echo "installing missing packages:$missing" >&2
sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
$sudo env DEBIAN_FRONTEND=noninteractive apt-get update -q >&2
# shellcheck disable=SC2086
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >&2
