"""Probes of the host: kernel, rights, memory."""

import os
import re

from kvfs.cli.probes.finding import Finding, State
from kvfs.cli.probes.system import CAP_SYS_ADMIN, has_capability, kernel_version, read

_OLDEST = (5, 15)  # Ubuntu 22.04's


def kernel() -> Finding:
    purpose = "everything below; 6.14 and later have all of it"
    release = os.uname().release
    if kernel_version() < _OLDEST:
        remedy = f"boot kernel {_OLDEST[0]}.{_OLDEST[1]} or later"
        return Finding("kernel", State.MISSING, f"Linux {release}", purpose, remedy, required=True)
    return Finding("kernel", State.OK, f"Linux {release}", purpose, required=True)


def administrator() -> Finding:
    purpose = "FUSE passthrough, NVMe administration, connecting namespaces"
    if has_capability(CAP_SYS_ADMIN):
        return Finding("CAP_SYS_ADMIN", State.OK, "held by this process", purpose)
    return Finding("CAP_SYS_ADMIN", State.MISSING, "not held by this process", purpose, "run as root")


def memory_pressure() -> Finding:
    purpose = "giving warm pages back before the host runs short of memory"
    name = "pressure stalls"
    text = read("/proc/pressure/memory")
    if text is None:
        remedy = "boot with psi=1, a kernel with CONFIG_PSI=y"
        return Finding(name, State.MISSING, "no /proc/pressure", purpose, remedy)
    match = re.search(r"^some avg10=([\d.]+)", text, re.MULTILINE)
    return Finding(name, State.OK, f"memory stalls {match[1] if match else '?'} % of the last 10 s", purpose)


def huge_pages() -> Finding:
    purpose = "fewer page-table entries for buffers and warm pages"
    reserved = read("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
    transparent = _chosen("/sys/kernel/mm/transparent_hugepage/enabled")
    shared = _chosen("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
    found = f"{reserved or 0} reserved of 2 MiB; transparent: {transparent}, for shared memory: {shared}"
    if transparent in ("always", "madvise") or (reserved or "0") != "0":
        return Finding("huge pages", State.OK, found, purpose)
    remedy = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"
    return Finding("huge pages", State.MISSING, found, purpose, remedy)


def warm_memory() -> Finding:
    """Large folios: root gets them by a tmpfs of its own, others where shared memory has huge pages switched on."""
    purpose = "warm pages that are read as fast as the page cache; in 4 KiB folios about a third of that"
    name = "memory for warm pages"
    shared = _chosen("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
    enable = "echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled"
    if shared in ("not supported", "deny"):
        remedy = enable if shared == "deny" else "boot a kernel with CONFIG_TRANSPARENT_HUGEPAGE=y"
        return Finding(name, State.LIMITED, f"small folios; huge pages for shared memory: {shared}", purpose, remedy)
    if has_capability(CAP_SYS_ADMIN) and kernel_version() >= (5, 2):
        return Finding(name, State.OK, "large folios, in a tmpfs of kvfs's own", purpose)
    if shared != "never":
        return Finding(name, State.OK, f"large folios, in memfds ({shared})", purpose)
    return Finding(name, State.LIMITED, "small folios, in memfds", purpose, f"mount as root, or {enable}")


def _chosen(path: str) -> str:
    """The value in brackets, as in ``always [madvise] never``."""
    match = re.search(r"\[(\w+)\]", read(path) or "")
    return match[1] if match else "not supported"


PROBES = (kernel, administrator, memory_pressure, huge_pages, warm_memory)
