#!/bin/bash
# Static checks: warnings as errors with gcc and clang, format, layering, exported symbols, function and file
# sizes, clang-tidy, cppcheck, shellcheck, and the validators of docker/ and deploy/. Prints one line each.
set -u
cd "$(dirname "$0")/.." || exit 2
jobs=$(nproc)
fails=0
mkdir -p build/check
src=$(git ls-files --cached --others --exclude-standard 'server/*.[ch]' 'api/*.[ch]' 'model/*.[ch]' 'kernels/*.[ch]')
all_c=$(git ls-files --cached --others --exclude-standard '*.c' '*.h')

step() { # name command… : ok or FAIL with the output
    local name=$1 log
    shift
    log=build/check/$(echo "$name" | tr ' /' '__').log
    if "$@" > "$log" 2>&1; then
        printf 'ok    %s\n' "$name"
    else
        printf 'FAIL  %s\n' "$name"
        # First every finding in a line, then the start of the whole output.
        grep -E '(error|warning):' "$log" | sort -u | head -100
        head -60 "$log"
        fails=$((fails + 1))
    fi
}

compile() { # flavour
    make --no-print-directory -s -k -j"$jobs" FLAVOUR="$1" objects
}

format() {
    # shellcheck disable=SC2086
    clang-format --dry-run -Werror $all_c
}

# forbid pattern files… : no line of the files may match
forbid() {
    local pattern=$1
    shift
    ! grep -nE "$pattern" "$@" /dev/null
}

layering() {
    local ok=0
    # shellcheck disable=SC2046,SC2086
    {
        forbid '#include "(server|api|model)/' $(echo "$src" | grep '^kernels/') || ok=1
        forbid '#include "(server|model|kernels)/' $(echo "$src" | grep '^api/') || ok=1
        forbid '#include "(server|api)/' $(echo "$src" | grep '^model/') || ok=1
        forbid '#include "kernels/(kernels|quant|gemm|act|[a-z]+/)' $(echo "$src" | grep '^server/') || ok=1
        forbid '#include "model/(load|text|attention|ffn|state|zoo)/' $(echo "$src" | grep '^server/') || ok=1
        forbid '#include <microhttpd\.h>' $(echo "$src" | grep -vE '^server/(http|stream)\.c$') || ok=1
        forbid '#include <(curl/|dlfcn\.h)' $(echo "$src" | grep -v '^server/remote\.c$') || ok=1
        forbid '#include <uv\.h>' $(echo "$src" | grep -v '^server/') || ok=1
        forbid '#include <jansson\.h>' $(echo "$src" | grep -vE '^(api|model/load)/') || ok=1
        forbid '#include <cblas\.h>' $(echo "$src" | grep -v '^kernels/gemm\.c$') || ok=1
        forbid '#include <[a-z]*intrin\.h>' $(echo "$src" | grep -v '^kernels/x86/') || ok=1
        forbid '#include "[^/"]+"' $(echo "$src" | grep -vE '^server/(main|config)\.c$') || ok=1
        # Banned calls: unbounded copies, unchecked conversions, and the end of the process outside main.
        forbid '\b(strcpy|strcat|sprintf|vsprintf|gets|atoi|atol|atof|strtok|alloca)\(' $src || ok=1
        forbid '\b(abort|exit|_exit|printf|puts|perror)\(' $(echo "$src" | grep -E '^(api|model|kernels)/') || ok=1
    }
    return $ok
}

symbols() {
    local objects
    objects=$(find build/release/obj/server build/release/obj/api build/release/obj/model build/release/obj/kernels -name '*.o')
    # shellcheck disable=SC2086
    ! nm -g --defined-only $objects | grep -E '^[0-9a-f]+ [A-Z] ' | awk '{print $3}' | grep -vE '^(qn_|main$)'
}

sizes() {
    # shellcheck disable=SC2086
    python3 tools/sizes.py $src
}

tidy() {
    local blas
    blas=$(find /usr/include -maxdepth 2 -name openblas-pthread | head -1)
    # shellcheck disable=SC2016
    echo "$src" | grep '\.c$' | grep -v '^kernels/x86/' | xargs -P "$jobs" -n 4 sh -c '
        blas=$1; shift
        clang-tidy --quiet "$@" -- -std=c11 -D_GNU_SOURCE -I. -Ibuild/release -isystem "$blas" \
            "-DQN_VERSION=\"0\"" 2> /dev/null' _ "$blas"
}

cpp_check() {
    # shellcheck disable=SC2046
    cppcheck --quiet --std=c11 --enable=warning,performance,portability --inline-suppr --error-exitcode=1 -j "$jobs" \
        --suppress=missingIncludeSystem -D__x86_64__ -DQN_VERSION='"0"' -I. $(echo "$src" | grep '\.c$' | grep -v '^kernels/x86/')
}

shell() {
    # shellcheck disable=SC2046
    shellcheck $(git ls-files --cached --others --exclude-standard '*.sh' .ci/run)
}

step "warnings gcc" compile release
step "warnings clang" compile clang
step "format" format
step "layering" layering
step "exported symbols" symbols
step "function and file sizes" sizes
step "clang-tidy" tidy
step "cppcheck" cpp_check
step "shellcheck" shell
[ ! -x deploy/check.sh ] || step "docker and deploy files" deploy/check.sh
[ "$fails" -eq 0 ] && echo "make check: all passed"
[ "$fails" -eq 0 ]
