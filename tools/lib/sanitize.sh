# shellcheck shell=bash
# The native part built with sanitizers, an environment beside .venv that uses it, and tests run in that environment.
#
# build/sanitize-KIND/native   the build, by plain cmake: .venv and what is installed in it stay as they are
# build/sanitize-KIND/env      an environment that is .venv but for kvfs._native
# build/sanitize-KIND/reports  what a sanitizer said, a file per process: also of daemons, and of processes that a test killed

# shellcheck disable=SC2034  # tools/test asks
SANITIZERS=(address thread)
# what drives the native part hardest for its time; what measures memory would measure the sanitizer's
SANITIZED_TESTS=(tests/t0_format tests/t1_store tests/t5_splitter tests/t5_warm tests/t3_fs/test_concurrent.py
    --ignore=tests/t5_warm/test_command.py # mounts and commands by the dozen, each slow to start; little native that is new
    tests/t3_fs/test_direct_io.py tests/t3_fs/test_mmap.py tests/t3_fs/test_ranges.py tests/t3_fs/test_stress.py)
SANITIZED_MARKERS="not ci and not memory"
# One thread of calls, with recovery again and again: minutes under the thread sanitizer, which has little to see there.
# What many threads do is in store_drill, a model of the same kind among its scenarios.
SINGLE_THREADED=(--ignore=tests/t1_store/test_crash.py --ignore=tests/t1_store/test_model.py
    --deselect=tests/t1_store/test_ranges.py::TestZeros --deselect=tests/t1_store/test_ranges.py::test_against_a_model)

# Build for KIND and run its tests, or what pytest's arguments choose: sanitize KIND [ARGUMENT...]
sanitize() {
    local kind=$1 place=$ROOT/build/sanitize-$1 lock status=0
    shift
    if (($# == 0)); then
        set -- "${SANITIZED_TESTS[@]}" -m "$SANITIZED_MARKERS"
        [[ $kind != thread ]] || set -- "$@" "${SINGLE_THREADED[@]}"
    fi
    command -v g++ >/dev/null || install_packages "the sanitizers" g++
    mkdir -p "$place"
    exec {lock}>"$place/lock"
    flock "$lock"
    logged "building the native part for the $kind sanitizer" sanitized_build "$kind" "$place"
    sanitized_environment "$place"
    rm -rf "$place/reports"
    mkdir "$place/reports"
    chmod 1777 "$place/reports" # some tests run as nobody
    say "pytest with the $kind sanitizer"
    (
        cd "$ROOT"
        mapfile -t command < <(sanitized_command "$kind" "$place")
        exec "${command[@]}" -m pytest "$@"
    ) {lock}>&- || status=$?
    exec {lock}>&-
    show_reports "$kind" "$place" || status=1
    return "$status"
}

sanitized_build() {
    local kind=$1 place=$2 made_for
    # cmake keeps what it found in a cache that a moved checkout or another Python would mislead
    made_for="$ROOT $("$VENV/bin/python" -c 'import sys; print(sys.version)')"
    if [[ ! -e $place/made-for || $(<"$place/made-for") != "$made_for" ]]; then
        rm -rf "$place/native" "$place/env"
        printf '%s\n' "$made_for" >"$place/made-for"
    fi
    # -O1 -g1: line numbers that mean something, at a speed that builds and tests can bear; no NDEBUG
    "$VENV/bin/cmake" -S "$ROOT/native" -B "$place/native" -G Ninja -DCMAKE_MAKE_PROGRAM="$VENV/bin/ninja" \
        -DCMAKE_CXX_COMPILER=g++ -DCMAKE_BUILD_TYPE=Debug "-DCMAKE_CXX_FLAGS_DEBUG=-O1 -g1" \
        -DPython_EXECUTABLE="$VENV/bin/python" -DKVFS_SANITIZE="$kind" &&
        "$VENV/bin/ninja" -C "$place/native"
}

# .venv's packages and scripts, with tools/lib/sanitized_kvfs.py in between.
sanitized_environment() {
    local place=$1 site script
    [[ -x $place/env/bin/python ]] || "$VENV/bin/python" -m venv --without-pip "$place/env"
    site=$("$place/env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    cp "$ROOT/tools/lib/sanitized_kvfs.py" "$site/"
    printf '%s\n' "import sanitized_kvfs" "$ROOT" "$VENV/${site#"$place/env/"}" >"$site/sanitized_kvfs.pth"
    for script in kvfs kvfsctl mount.kvfs; do
        sed "1s|.*|#!$place/env/bin/python|" "$VENV/bin/$script" >"$place/env/bin/$script"
        chmod +x "$place/env/bin/$script"
    done
}

# Prints what runs Python with the sanitizer's runtime, a word a line. Children inherit it: daemons are watched too.
sanitized_command() {
    local kind=$1 place=$2 runtime name options
    case $kind in
        address) runtime=libasan.so name=ASAN_OPTIONS options=detect_leaks=1:strict_string_checks=1 ;;
        thread) runtime=libtsan.so name=TSAN_OPTIONS options=second_deadlock_stack=1:history_size=4 ;;
    esac
    # With more random address bits than this TSan of g++ 13 and older finds no place for its shadow memory.
    if [[ $kind == thread ]] && (($(</proc/sys/vm/mmap_rnd_bits) > 28)); then printf '%s\n' setarch -R; fi
    options+=:handle_sigbus=0 # a test provokes one on purpose
    # libstdc++ comes along because a runtime that starts before it does not find the functions that it wraps.
    # malloc for Python's own objects: in arenas of pymalloc a leak checker would miss what they point to.
    printf '%s\n' env "LD_PRELOAD=$(g++ -print-file-name="$runtime") $(g++ -print-file-name=libstdc++.so)" \
        PYTHONMALLOC=malloc "LSAN_OPTIONS=suppressions=$ROOT/tools/lib/leaks.supp:print_suppressions=0" \
        UBSAN_OPTIONS="print_stacktrace=1:log_path=$place/reports/r" \
        "$name=$options:log_path=$place/reports/r" "$place/env/bin/python"
}

# A report fails the run, whichever process it is of and whether or not a test noticed.
show_reports() {
    local kind=$1 place=$2 reports
    reports=$(find "$place/reports" -type f -size +0)
    [[ -n $reports ]] || { say "no report of the $kind sanitizer" && return; }
    # the first hundred lines of each: what follows is mostly the same again
    echo "$reports" | head -n 5 | xargs -d '\n' head -n 100 >&2
    printf '%s: the %s sanitizer reported in %s processes; the first are above, all in %s\n' \
        "$PROGRAM" "$kind" "$(wc -l <<<"$reports")" "$place/reports" >&2
    return 1
}
