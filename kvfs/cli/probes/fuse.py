"""Probes of FUSE: what a mount needs, and what makes one faster."""

import errno
import os
import re
import shutil
import stat
from pathlib import Path

from kvfs.cli.probes.finding import Finding, State
from kvfs.cli.probes.system import CAP_SYS_ADMIN, has_capability, kernel_option, kernel_version, read

_DEVICE = "/dev/fuse"
_CONFIGURATION = "/etc/fuse.conf"
_RINGS = "/sys/module/fuse/parameters/enable_uring"


def device() -> Finding:
    purpose = "every mount: the kernel hands requests to kvfs through it"

    def missing(found: str, remedy: str) -> Finding:
        return Finding(_DEVICE, State.MISSING, f"{_DEVICE}: {found}", purpose, remedy, required=True)

    try:
        os.close(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        match error.errno:
            case errno.ENOENT | errno.ENODEV | errno.ENXIO:
                return missing(
                    "no such device", "load the kernel module (modprobe fuse), or give the container --device /dev/fuse"
                )
            case errno.EACCES:
                return missing("permission denied", "chmod 666 /dev/fuse, as udev sets it, or run as root")
            case errno.EPERM:
                return missing("forbidden by the container", "start the container with --device /dev/fuse")
            case _:
                return missing(error.strerror or str(error), "see the kernel log")
    return Finding(_DEVICE, State.OK, "can be opened", purpose, required=True)


def may_mount() -> Finding:
    """Root mounts by itself, an ordinary user by way of fusermount3."""
    if os.geteuid() == 0:
        purpose = "mounting as root"
        if has_capability(CAP_SYS_ADMIN):
            return Finding("right to mount", State.OK, "root with CAP_SYS_ADMIN", purpose, required=True)
        return Finding(
            "right to mount",
            State.MISSING,
            "root without CAP_SYS_ADMIN cannot mount",
            purpose,
            "start the container with --cap-add SYS_ADMIN",
            required=True,
        )
    return _fusermount(required=True)


def fusermount() -> Finding:
    return _fusermount(required=os.geteuid() != 0)


def _fusermount(*, required: bool) -> Finding:
    purpose = "mounting and unmounting as an ordinary user"
    install = "install the package fuse3"
    path = shutil.which("fusermount3")
    if path is None:
        return Finding("fusermount3", State.MISSING, "fusermount3: not found", purpose, install, required)
    status = Path(path).stat()
    if not (status.st_mode & stat.S_ISUID and status.st_uid == 0):
        return Finding(
            "fusermount3", State.MISSING, f"{path}: not set-user-ID root", purpose, f"chmod u+s {path}", required
        )
    return Finding("fusermount3", State.OK, path, purpose, required=required)


def user_allow_other() -> Finding:
    text = read(_CONFIGURATION) or ""
    allowed = bool(re.search(r"^\s*user_allow_other\s*$", text, re.MULTILINE))
    return Finding(
        "user_allow_other",
        State.OK if allowed else State.MISSING,
        f"{'set' if allowed else 'not set'} in {_CONFIGURATION}",
        "a mount of an ordinary user that other users may use (-o allow_other)",
        "" if allowed else f"add the line user_allow_other to {_CONFIGURATION}, as root",
    )


def passthrough() -> Finding:
    purpose = "hits served by the kernel from a memory file, without asking kvfs"
    name = "FUSE passthrough"
    if kernel_version() < (6, 9):
        return Finding(name, State.MISSING, f"kernel {os.uname().release}", purpose, "boot kernel 6.9 or later")
    if kernel_option("FUSE_PASSTHROUGH") == "n":
        return Finding(
            name, State.MISSING, "kernel built without it", purpose, "boot a kernel with CONFIG_FUSE_PASSTHROUGH=y"
        )
    if not has_capability(CAP_SYS_ADMIN):
        return Finding(name, State.LIMITED, "kernel has it, CAP_SYS_ADMIN is missing", purpose, "mount as root")
    if kernel_option("FUSE_PASSTHROUGH") is None:
        return Finding(name, State.OK, f"kernel {os.uname().release} (configuration not readable)", purpose)
    return Finding(name, State.OK, "built into the kernel", purpose)


def over_io_uring() -> Finding:
    """A parameter of the kernel's fuse module; it counts for mounts that are made after it was set."""
    purpose = "more requests per second for the same CPU time: they arrive in a ring per core"
    name = "FUSE over io_uring"
    value = read(_RINGS)
    if value is None:
        if kernel_version() < (6, 14):
            return Finding(name, State.MISSING, f"kernel {os.uname().release}", purpose, "boot kernel 6.14 or later")
        if kernel_option("FUSE_IO_URING") == "n":
            return Finding(
                name, State.MISSING, "kernel built without it", purpose, "boot a kernel with CONFIG_FUSE_IO_URING=y"
            )
        return Finding(name, State.UNKNOWN, "the fuse module is not loaded", purpose, "modprobe fuse, ask again")
    if value not in ("Y", "1"):
        return Finding(
            name,
            State.MISSING,
            "supported, but switched off",
            purpose,
            f"as root, echo Y > {_RINGS} before mounting; for every boot {_every_boot('fuse', 'enable_uring=1')}",
        )
    disabled = read("/proc/sys/kernel/io_uring_disabled") or "0"
    if disabled == "2" or (disabled == "1" and not has_capability(CAP_SYS_ADMIN)):
        return Finding(
            name, State.MISSING, f"kernel.io_uring_disabled is {disabled}", purpose, "sysctl kernel.io_uring_disabled=0"
        )
    return Finding(name, State.OK, "enabled", purpose)


def _every_boot(module: str, parameter: str) -> str:
    """How to set a parameter for good: a module that is built in never sees modprobe's configuration."""
    if kernel_option("FUSE_FS") == "m":
        return f"write 'options {module} {parameter}' to /etc/modprobe.d/kvfs.conf"
    return f"boot with {module}.{parameter} on the kernel's command line"


def request_size() -> Finding:
    purpose = "the largest request; big pages in few round trips"
    name = "FUSE request size"
    page_size = os.sysconf("SC_PAGESIZE")
    value = read("/proc/sys/fs/fuse/max_pages_limit")
    if value is None:
        return Finding(
            name,
            State.LIMITED,
            f"{256 * page_size >> 20} MiB, fixed",
            purpose,
            "kernel 6.13 and later: sysctl fs.fuse.max_pages_limit",
        )
    limit = int(value)
    return Finding(name, State.OK, f"up to {limit * page_size / (1 << 20):g} MiB (max_pages_limit {limit})", purpose)


PROBES = (device, may_mount, fusermount, user_allow_other, passthrough, over_io_uring, request_size)
