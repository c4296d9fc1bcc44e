# shellcheck shell=bash
# Shared by tools/quickstart and tools/test: messages, rights, stamps. Sourced by bash, with ROOT and PROGRAM set.

say() { printf '==> %s\n' "$*"; }

die() {
    printf '%s: %s\n' "$PROGRAM" "$*" >&2
    exit 1
}

# Print the script's opening comment and exit.
usage() {
    sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$0"
    exit 0
}

# Run a command with its output in a log, shown only when it fails: logged WHAT COMMAND...
logged() {
    local what=$1 log begin=$SECONDS
    shift
    say "$what"
    log=$(mktemp)
    if ! "$@" >"$log" 2>&1 </dev/null; then
        tail -n 40 "$log" >&2
        rm -f "$log"
        die "failed: $what (its last lines are above)"
    fi
    rm -f "$log"
    ((SECONDS - begin < 5)) || say "... done in $((SECONDS - begin)) s"
}

# Run a command as root; fails when this user may not.
as_root() {
    if ((EUID == 0)); then "$@"; else sudo -n "$@"; fi
}

may_be_root() {
    ((EUID == 0)) || { command -v sudo >/dev/null && sudo -n true 2>/dev/null; }
}

# A digest of the names and contents of files and directories: content_hash PATH...
content_hash() {
    find "$@" -type f -print0 2>/dev/null | LC_ALL=C sort -z | xargs -0 -r sha256sum | sha256sum | cut -d' ' -f1
}

# Stamps say what a step was last done for, so that it is done again only when that changes.
stamp_is() { [[ -f $ROOT/.venv/stamps/$1 && $(<"$ROOT/.venv/stamps/$1") == "$2" ]]; }

stamp() {
    mkdir -p "$ROOT/.venv/stamps"
    printf '%s\n' "$2" >"$ROOT/.venv/stamps/$1"
}
