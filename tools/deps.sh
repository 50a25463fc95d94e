#!/bin/sh
# Installs missing Debian packages: tools/deps.sh build | test | check | bench. Uses sudo only when not root.
set -e
build="gcc make pkg-config git libc6-dev libmicrohttpd-dev libuv1-dev libjansson-dev libopenblas-pthread-dev libutf8proc-dev libcurl4-openssl-dev libjs-chart.js curl jq python3 python3-venv"
test="$build libcmocka-dev mandoc chromium"
check="$build clang clang-tidy clang-format cppcheck shellcheck"
fuzz="$build clang libclang-rt-dev"
bench="$build wrk nginx-light"
case "$1" in
build) want=$build ;;
test) want=$test ;;
check) want=$check ;;
fuzz) want=$fuzz ;;
bench) want=$bench ;;
*) echo "usage: tools/deps.sh build|test|check|fuzz|bench" >&2; exit 2 ;;
esac
# Node comes from wherever it is; Debian's packages only when there is none.
if [ "$1" = test ] && ! command -v npm > /dev/null; then want="$want nodejs npm"; fi
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
