#!/bin/bash
# Runs the test suites: tests/run.sh short | full | asan | ubsan | tsan. Called by the Makefile.
#   short  everything that CI runs: asan build of all C tests and the HTTP tests, golden models on the release
#          build, tokenizers against Hugging Face, a short thread-sanitizer pass
#   full   the same at full length, and lm-evaluation-harness
# Each C test is a process of its own with a time limit. The last line is `N passed, N failed`.
set -u
cd "$(dirname "$0")/.." || exit 2
mode=${1:-short}
jobs=$(nproc)
logs=build/test-logs
mkdir -p $logs
rm -f $logs/*.log
passed=0
failed=0
bad=()

build() { # flavour, targets…
    local flavour=$1
    shift
    make --no-print-directory -s -j"$jobs" FLAVOUR="$flavour" "$@" || { echo "build of $flavour failed"; exit 1; }
}

# run_all flavour limit-seconds program… : in parallel, one log each
run_all() {
    local flavour=$1 limit=$2
    shift 2
    local results=$logs/results.$$
    : > "$results"
    # shellcheck disable=SC2016
    printf '%s\n' "$@" | xargs -P "$jobs" -I{} bash -c '
        log="$1/$2-$(echo "${4#build/*/tests/}" | tr / _).log"
        start=$SECONDS
        timeout -k 5 "$3" "$4" > "$log" 2>&1
        rc=$?
        n=$(grep -c "^\[       OK \]" "$log")
        [ "$rc" = 0 ] || rc="failed($rc)"
        echo "$4 $rc $n $((SECONDS - start)) $log" >> "$5"' _ "$logs" "$flavour" "$limit" {} "$results"
    while read -r prog rc n secs log; do
        printf '  %-58s %s tests, %s s%s\n' "${prog#build/}" "$n" "$secs" "$([ "$rc" = 0 ] || echo "  $rc")"
        if [ "$rc" = 0 ]; then
            passed=$((passed + n))
        else
            failed=$((failed + 1))
            bad+=("$prog")
            grep -vE '^\[ (RUN|      OK)' "$log" | tail -40
        fi
    done < <(sort "$results")
    rm -f "$results"
}

# run_script name command… : a suite that prints its own `N passed, N failed` (or pytest's closing line)
run_script() {
    local name=$1 log
    shift
    log=$logs/$name.log
    echo "== $name"
    "$@" > "$log" 2>&1
    local rc=$? line p f
    line=$(grep -E '[0-9]+ passed' "$log" | tail -1)
    p=$(echo "$line" | grep -oE '[0-9]+ passed' | grep -oE '[0-9]+')
    f=$(echo "$line" | grep -oE '[0-9]+ failed' | grep -oE '[0-9]+')
    echo "  ${line:-no result line}"
    passed=$((passed + ${p:-0}))
    failed=$((failed + ${f:-0}))
    if [ $rc -ne 0 ]; then
        [ "${f:-0}" -gt 0 ] || failed=$((failed + 1))
        bad+=("$name")
        tail -60 "$log"
    fi
}

c_tests() { # flavour, limit, patterns to leave out (egrep)
    local flavour=$1 limit=$2 skip=${3:-^$}
    echo "== C tests, $flavour"
    mapfile -t progs < <(find tests/unit tests/kernels tests/bad tests/oom tests/golden tests/engine -name '*_test.c' |
        grep -vE "$skip" | sed -E "s,^(.*)\.c$,build/$flavour/\1," | sort)
    build "$flavour" "${progs[@]}"
    run_all "$flavour" "$limit" "${progs[@]}"
}

http_tests() { # flavour, pytest arguments
    local flavour=$1
    shift
    build "$flavour" "build/$flavour/quern" "build/$flavour/tests/stub_server"
    make --no-print-directory -s build/venv/ok || exit 1
    QUERN_BIN=$PWD/build/$flavour/quern QUERN_STUB_BIN=$PWD/build/$flavour/tests/stub_server \
        QUERN_FLAVOUR=$flavour QUERN_TEST_MODE=$mode \
        run_script "http-$flavour" build/venv/bin/python -m pytest -q -x --maxfail=5 tests/http "$@"
}

export ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1:abort_on_error=0
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1
export QUERN_TEST_MODE=$mode
case $mode in
short | full)
    tools/model.sh || exit 1
    [ "$mode" = short ] || export QUERN_TRACES=1000
    c_tests release 1800
    # Bit identity was just held on all traces; under the sanitizer fewer will do to find a wrong access.
    if [ "$mode" = short ]; then export QUERN_TRACES=25; else unset QUERN_TRACES; fi
    c_tests asan 900 '/golden/real_test'
    unset QUERN_TRACES
    http_tests release -k "test_model or test_cancel or test_compare or test_structures or test_conversions or test_crowd or test_page or test_schema or test_openai or test_structured" # what a sanitizer's slowness hides
    http_tests asan
    http_tests tsan -m tsan
    # The sanitizer slows threads down some thirty times: fewer random traces.
    if [ "$mode" = short ]; then
        export QUERN_TRACES=8
        c_tests tsan 900 '/(kernels|golden|bad|oom|unit/(api|model))/'
    else
        export QUERN_TRACES=60
        c_tests tsan 1800 '/(oom|golden/real_test)/'
    fi
    run_script tokenizers tests/golden/tokenizers/run.sh
    run_script clients tests/clients/run.sh "$mode"
    ;;
asan | ubsan)
    c_tests "$mode" 900 '/golden/real_test'
    http_tests "$mode"
    ;;
tsan)
    export QUERN_TRACES=60
    c_tests tsan 1800 '/(oom|golden/real_test)/'
    http_tests tsan
    ;;
*)
    echo "usage: tests/run.sh short|full|asan|ubsan|tsan" >&2
    exit 2
    ;;
esac
[ ${#bad[@]} -eq 0 ] || printf 'failed: %s\n' "${bad[@]}"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
