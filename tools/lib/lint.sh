# shellcheck shell=bash
# The linters that tools/test runs: each one's findings are printed, and lint fails when one had any.

lint() {
    local failed=()
    say "ruff, mypy"
    "$VENV/bin/ruff" check --quiet "$ROOT" || failed+=(ruff)
    (cd "$ROOT" && "$VENV/bin/mypy" --no-error-summary) || failed+=(mypy)
    say "clang-format, clang-tidy (minutes when it looks at every file)"
    native_sources | xargs -0 -r clang-format --dry-run -Werror || failed+=(clang-format)
    tidy || failed+=(clang-tidy)
    ((${#failed[@]} == 0)) || die "findings of ${failed[*]} (above); the tests were not run"
}

native_sources() {
    find "$ROOT/native" \( -name '*.cpp' -o -name '*.hpp' \) -print0
}

# clang-tidy takes seconds a file: a file is looked at again only when it, a header or the checks changed.
tidy() {
    local database headers file digest pending=()
    database=$(find "$ROOT/build" -maxdepth 2 -name compile_commands.json -printf '%h\n' -quit)
    [[ -n $database ]] || die "expected build/*/compile_commands.json from the build, found none; remove .venv/stamps/kvfs and run this again"
    [[ -f $ROOT/.clang-tidy ]] || die "expected the checks of clang-tidy in .clang-tidy, found no such file"
    headers=$(find "$ROOT/native" -name '*.hpp' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum |
        cat - "$ROOT/.clang-tidy" <("$VENV/bin/clang-tidy" --version) | sha256sum)
    mkdir -p "$ROOT/build/tidy"
    while IFS= read -r -d '' file; do
        digest=$(printf '%s' "$headers" | cat - "$file" | sha256sum | cut -c1-32)
        [[ -e $ROOT/build/tidy/$digest ]] || pending+=("$digest" "$file")
    done < <(find "$ROOT/native" -name '*.cpp' -print0)
    ((${#pending[@]} == 0)) && return
    # shellcheck disable=SC2016
    printf '%s\0' "${pending[@]}" | xargs -0 -n 2 -P "$(nproc)" bash -c '
        said=$("$2" --quiet --warnings-as-errors="*" -p "$1" "$4" 2>&1) && touch "$0/$3" || { echo "$said"; exit 1; }
        ' "$ROOT/build/tidy" "$database" "$VENV/bin/clang-tidy"
}
