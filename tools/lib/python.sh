# shellcheck shell=bash
# Finding a Python that can make the environment: 3.11 or later, with venv, ensurepip and headers.

PYTHON_VERSIONS=(3.14 3.13 3.12 3.11)

# Sets PYTHON, installing its missing parts, or a whole one, where that is allowed.
find_python() {
    local candidate
    if [[ -n ${KVFS_PYTHON:-} ]]; then
        is_recent "$KVFS_PYTHON" || die "expected KVFS_PYTHON to be Python 3.11 or later, found $KVFS_PYTHON"
        PYTHON=$KVFS_PYTHON
    fi
    for candidate in python3 "${PYTHON_VERSIONS[@]/#/python}" /usr/bin/python3; do
        [[ -n ${PYTHON:-} ]] && break
        if is_recent "$candidate" && is_complete "$candidate"; then PYTHON=$candidate; fi
    done
    for candidate in python3 "${PYTHON_VERSIONS[@]/#/python}" /usr/bin/python3; do
        [[ -n ${PYTHON:-} ]] && break
        if is_recent "$candidate"; then PYTHON=$candidate; fi
    done
    if [[ -z ${PYTHON:-} ]]; then
        PYTHON=$(installable_python)
        install_packages "Python 3.11 or later" "$PYTHON" "$PYTHON-venv" "$PYTHON-dev"
    fi
    complete_python
    PYTHON=$(command -v "$PYTHON")
    say "Python $("$PYTHON" -c 'import platform; print(platform.python_version())') ($PYTHON)"
}

is_recent() {
    command -v "$1" >/dev/null && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

is_complete() {
    "$1" - 2>/dev/null <<'PYTHON'
import ensurepip, pathlib, sysconfig, venv
assert pathlib.Path(sysconfig.get_path("include"), "Python.h").exists()
PYTHON
}

# Debian splits Python: ensurepip and the headers are packages of their own.
complete_python() {
    local name
    is_complete "$PYTHON" && return
    name=python$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    install_packages "$PYTHON" "$name-venv" "$name-dev"
    is_complete "$PYTHON" || die "expected $PYTHON to have venv, ensurepip and Python.h, found it without; install all of it, or name another with KVFS_PYTHON=..."
}

# The newest Python that apt offers; ends with what to install where there is none.
installable_python() {
    local version
    if command -v apt-cache >/dev/null && may_be_root; then
        as_root apt-get update >/dev/null 2>&1 || true
        for version in "${PYTHON_VERSIONS[@]}"; do
            if apt-cache show "python$version-venv" >/dev/null 2>&1; then
                echo "python$version"
                return
            fi
        done
    fi
    die "expected Python 3.11 or later, found $(python3 --version 2>/dev/null || echo none); install one with its venv and dev packages (Debian 12, Ubuntu 22.04: python3.11 python3.11-venv python3.11-dev), or name one with KVFS_PYTHON=..."
}
