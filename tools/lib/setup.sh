# shellcheck shell=bash
# shellcheck disable=SC2119,SC2120  # one function has an optional argument
# The set-up: OS packages, .venv, kvfs built and installed in it. Each step is stamped; a second run takes a second.

source "$ROOT/tools/lib/common.sh"
source "$ROOT/tools/lib/packages.sh"
source "$ROOT/tools/lib/python.sh"

VENV=$ROOT/.venv
# what builds the native part; cmake and ninja as wheels, so that no distribution's age matters
BUILD_REQUIREMENTS=('scikit-build-core>=0.11,<2' 'nanobind>=2.4,<4' 'cmake>=3.22,<5' 'ninja>=1.11,<2')

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

# Everything up to console scripts in .venv/bin. One at a time per checkout.
set_up() {
    [[ -w $ROOT ]] || die "expected to be allowed to write to $ROOT, found it read-only for $(id -un); use a checkout of your own"
    mkdir -p "$ROOT/build"
    [[ -e $ROOT/build/setup.lock ]] || : >"$ROOT/build/setup.lock"
    exec {SETUP_LOCK}<"$ROOT/build/setup.lock" # for reading: it may be another user's
    flock -n "$SETUP_LOCK" || { say "waiting for another set-up of this checkout"; flock "$SETUP_LOCK"; }
    # shellcheck disable=SC2046
    install_packages "building and mounting" $(missing_packages)
    make_environment
    install_kvfs
    # closed, not only left: what is started later must not keep it
    exec {SETUP_LOCK}>&-
}

make_environment() {
    # the scripts of an environment name its path: in a checkout that was moved or copied they are another's
    if grep -qsF "$VENV/bin/python" "$VENV/bin/pip" && is_recent "$VENV/bin/python"; then return; fi
    find_python
    rm -rf "$VENV"
    logged "making .venv" "$PYTHON" -m venv "$VENV"
}

# Editable: Python sources are used where they lie, only a change to native sources or the package's data builds anew.
install_kvfs() {
    local wanted requirements
    wanted=$(content_hash "$ROOT/native" "$ROOT/pyproject.toml")
    stamp_is kvfs "$wanted" && [[ -x $VENV/bin/kvfs ]] && return
    mapfile -t requirements < <(project_requirements)
    pip_install runtime "${requirements[@]}"
    pip_install build "${BUILD_REQUIREMENTS[@]}"
    logged "building and installing kvfs (minutes when all of the native part has to be compiled)" \
        "$VENV/bin/pip" install --no-build-isolation --no-deps --editable "$ROOT"
    stamp kvfs "$wanted"
}

# The dependencies of pyproject.toml, or of its extra EXTRA, one a line: project_requirements [EXTRA]
project_requirements() {
    "$VENV/bin/python" - "$ROOT/pyproject.toml" "$@" <<'PYTHON'
import sys, tomllib
with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]
print(*(project["optional-dependencies"][sys.argv[2]] if len(sys.argv) > 2 else project["dependencies"]), sep="\n")
PYTHON
}

# Install requirements unless that was done: pip_install STAMP REQUIREMENT-OR-OPTION...
pip_install() {
    local name=$1
    shift
    stamp_is "pip-$name" "$*" && return
    logged "installing Python packages ($name)" "$VENV/bin/pip" install "$@"
    stamp "pip-$name" "$*"
}

# As pip_install, of a requirements file: pip_install_file STAMP FILE OPTION...
pip_install_file() {
    local name=$1 file=$2 wanted
    shift 2
    wanted=$(content_hash "$file")
    stamp_is "pip-$name" "$wanted" && return
    logged "installing Python packages ($name)" "$VENV/bin/pip" install "$@" --requirement "$file"
    stamp "pip-$name" "$wanted"
}
