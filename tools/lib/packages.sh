# shellcheck shell=bash
# What the operating system has to provide. Each need is looked for itself, not by the package that would bring it:
# that works on any distribution and costs no time when all is there.

# Prints the Debian packages for what is missing: a compiler and libraries to build, fusermount3 to mount.
missing_packages() {
    command -v c++ >/dev/null || command -v g++ >/dev/null || echo g++
    command -v pkg-config >/dev/null || echo pkg-config
    has_library liburing || echo liburing-dev
    has_library libxxhash || echo libxxhash-dev
    has_library fuse3 || echo libfuse3-dev
    command -v fusermount3 >/dev/null || echo fuse3
}

has_library() {
    command -v pkg-config >/dev/null && pkg-config --exists "$1"
}

# Install Debian packages, or say in one line which are missing: install_packages WHY PACKAGE...
install_packages() {
    local why=$1
    shift
    (($#)) || return 0
    if ! command -v apt-get >/dev/null; then
        die "missing for $why: what Debian calls $*; install that and run this again"
    elif ! may_be_root; then
        die "missing for $why: run \`sudo apt-get install -y $*\`, then run this again"
    fi
    logged "installing $* (for $why)" apt_install "$@"
}

apt_install() {
    local command=(env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@")
    # a fresh machine has no package lists, an old one has lists of packages that are gone
    as_root "${command[@]}" || { as_root apt-get update && as_root "${command[@]}"; }
}
