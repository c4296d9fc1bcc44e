# shellcheck shell=bash
# Fuzzers: libFuzzer on the native part (native/fuzz), atheris on Python (tests/t8_fuzz/targets.py).
#
# build/fuzz/native    the native part built by clang with address and undefined-behaviour sanitizers, and the fuzzers
# build/fuzz/corpus    what they found worth keeping so far, a directory each; those in tests/t8_fuzz/corpus come first
# build/fuzz/crashes   inputs that broke something
#
# When one did: fix what it broke, put the input into tests/t8_fuzz/corpus/TARGET under a name that says what it was, and
# tests/t8_fuzz runs it from then on.

FUZZ=$ROOT/build/fuzz
# target and the hundredths of the time that it runs for; two run at once, so that all of them are 200
FUZZ_SHARES=(recovery:60 splitter:60 format:26 python-options:10 python-size:10 python-format:12 python-admin:12 python-errors:10)

# Fuzz for SECONDS in all: fuzz SECONDS
fuzz() {
    local seconds=$1 share status=0
    [[ $seconds =~ ^[1-9][0-9]*$ ]] || die "expected --fuzz SECONDS, found ${seconds:-nothing}"
    find_clang || { ${ci:-false} && die "no clang with libFuzzer (above)" || { say "NOT FUZZED: no clang with libFuzzer"; return; }; }
    pip_install fuzz 'atheris>=2.3,<4'
    mkdir -p "$FUZZ/crashes" "$FUZZ/logs"
    logged "building the fuzzers" fuzz_build
    say "fuzzing for $seconds s"
    export ROOT VENV FUZZ
    export -f run_fuzzer
    for share in "${FUZZ_SHARES[@]}"; do
        printf '%s\0%s\0' "${share%:*}" "$(((seconds * ${share#*:} + 99) / 100))"
    done | xargs -0 -n 2 -P 2 bash -c 'run_fuzzer "$1" "$2"' fuzz || status=1
    fuzz_summary
    ((status == 0)) || die "fuzzers found something: the inputs are in $FUZZ/crashes, what was said in $FUZZ/logs"
}

# A compiler with libFuzzer's runtime; sets CLANG. The runtime is a package of its own on Debian, named by version.
find_clang() {
    local attempt
    for attempt in "" install; do
        if [[ -n $attempt ]] && command -v apt-get >/dev/null && may_be_root; then
            command -v clang++ >/dev/null || command -v clang++-14 >/dev/null || install_packages "the fuzzers" clang
            # shellcheck disable=SC2046
            install_packages "the fuzzers" $(fuzzer_runtime)
        fi
        for CLANG in clang++ clang++-{21..14}; do
            if command -v "$CLANG" >/dev/null && has_libfuzzer "$CLANG"; then return 0; fi
        done
    done
    return 1
}

has_libfuzzer() {
    echo 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }' |
        "$1" -x c++ - -fsanitize=fuzzer,address,undefined -o "$ROOT/build/has-libfuzzer" 2>/dev/null
}

fuzzer_runtime() {
    local compiler version
    for compiler in clang++ clang++-{21..14}; do
        version=$("$compiler" -dumpversion 2>/dev/null) || continue
        if apt-cache show "libclang-rt-${version%%.*}-dev" >/dev/null 2>&1; then echo "libclang-rt-${version%%.*}-dev"; fi
        return
    done
}

fuzz_build() {
    local made_for
    made_for="$ROOT $CLANG $("$CLANG" -dumpversion)"
    if [[ ! -e $FUZZ/made-for || $(<"$FUZZ/made-for") != "$made_for" ]]; then
        rm -rf "$FUZZ/native"
        printf '%s\n' "$made_for" >"$FUZZ/made-for"
    fi
    "$VENV/bin/cmake" -S "$ROOT/native" -B "$FUZZ/native" -G Ninja -DCMAKE_MAKE_PROGRAM="$VENV/bin/ninja" \
        -DCMAKE_CXX_COMPILER="$CLANG" -DCMAKE_BUILD_TYPE=Debug "-DCMAKE_CXX_FLAGS_DEBUG=-O1 -gline-tables-only" \
        -DPython_EXECUTABLE="$VENV/bin/python" -DKVFS_SANITIZE=fuzzer &&
        "$VENV/bin/ninja" -C "$FUZZ/native" fuzzers
}

# One target for some seconds: run_fuzzer TARGET SECONDS
run_fuzzer() {
    local target=$1 seconds=$2 program seeds=$ROOT/tests/t8_fuzz/corpus/$1
    mkdir -p "$FUZZ/corpus/$target" "$seeds"
    program=("$FUZZ/native/fuzz_$target")
    if [[ $target == python-* ]]; then
        program=("$VENV/bin/python" "$ROOT/tests/t8_fuzz/run_atheris.py" "${target#python-}")
    fi
    # leaks are for the sanitizers' run of the tests: the checker stops every thread each time that it looks
    ASAN_OPTIONS=detect_leaks=0:handle_sigbus=0 UBSAN_OPTIONS=print_stacktrace=1 nice -n 10 "${program[@]}" \
        -max_total_time="$seconds" -timeout=60 -rss_limit_mb=4096 -detect_leaks=0 -print_final_stats=1 -len_control=0 -max_len=5000 \
        -artifact_prefix="$FUZZ/crashes/$target-" "$FUZZ/corpus/$target" "$seeds" >"$FUZZ/logs/$target" 2>&1 && return
    # the report, not the words before it
    grep -n -m 1 -A 40 -E 'ERROR: |runtime error|violated|Uncaught Python exception|terminate called' "$FUZZ/logs/$target" >&2 ||
        tail -n 40 "$FUZZ/logs/$target" >&2
    echo "$target: failed" >&2
    return 1
}

fuzz_summary() {
    local share target log
    for share in "${FUZZ_SHARES[@]}"; do
        target=${share%:*} log=$FUZZ/logs/${share%:*}
        printf '    %-16s %s\n' "$target" "$(awk '
            /stat::number_of_executed_units/ { runs = $2 }
            / cov: / { for (i = 1; i < NF; ++i) if ($i == "cov:") coverage = $(i + 1) }
            END { printf "%d inputs, %d edges", runs, coverage }' "$log")"
    done
}
