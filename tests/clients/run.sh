#!/bin/sh
# Drives quern with the libraries that people use: run.sh [short|full]
#   short  the common script of each client: openai for Node (two major versions) and Python, Vercel's ai, LangChain
#   full   the same, then EleutherAI's lm-evaluation-harness on the tasks in lm_eval/
# Installs them, pinned, under build/clients once; later runs reuse them and need no network. Prints every check and,
# last, "N passed, N failed". QN_CLIENTS_WORK and PYTHON override the folder and the interpreter.
set -eu
cd "$(dirname "$0")/../.."
here=tests/clients
mode=${1:-short}
work=${QN_CLIENTS_WORK:-build/clients}
python=${PYTHON:-python3}
gguf=${QUERN_MODEL_DIR:-models}/SmolLM2-135M-Instruct.Q4_1.gguf
quern=build/release/quern
mkdir -p "$work"

# Done when the stamp holds the same sum as the file that decides what is made.
fresh() { # stamp file
    sha256sum < "$2" > "$work/sum"
    cmp -s "$work/sum" "$1"
}

venv() { # name requirements
    if ! fresh "$work/$1.ok" "$2"; then
        rm -rf "$work/$1.ok" "${work:?}/$1"
        "$python" -m venv "$work/$1"
        "$work/$1/bin/pip" install -q --disable-pip-version-check -r "$2" >&2
        sha256sum < "$2" > "$work/$1.ok"
    fi
}

if ! fresh "$work/npm.ok" $here/package-lock.json; then
    rm -f "$work/npm.ok"
    cp $here/package.json $here/package-lock.json "$work/"
    (cd "$work" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2)
    sha256sum < $here/package-lock.json > "$work/npm.ok"
fi
venv openai $here/requirements.txt
[ -f "$gguf" ] || tools/model.sh >&2
make --no-print-directory -s $quern build/venv/ok >&2

rc=0
build/venv/bin/python $here/clients.py $quern "$gguf" "$work" "$work/openai/bin/python" > "$work/log" 2>&1 || rc=1
cat "$work/log"
tail -1 "$work/log" > "$work/totals"
if [ "$mode" = full ]; then
    venv lm_eval $here/lm_eval/requirements.txt
    build/venv/bin/python $here/lm_eval/agree.py "$PWD/$work/lm_eval/bin/lm_eval" "$PWD/$quern" "$PWD/$gguf" > "$work/log" 2>&1 || rc=1
    cat "$work/log"
    tail -1 "$work/log" >> "$work/totals"
fi
awk '/^[0-9]+ passed, [0-9]+ failed$/ { p += $1; f += $3; next } { f++ } END { printf "%d passed, %d failed\n", p, f }' "$work/totals"
exit $rc
