"""What several probes read: the kernel's version and configuration, its modules, small files of /proc and /sys."""

import gzip
import os
import re
from functools import cache
from pathlib import Path

CAP_SYS_ADMIN = 21
CAP_IPC_LOCK = 14


def read(path: str) -> str | None:
    """The text of a small file, stripped; ``None`` when it is absent or not ours to read."""
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return None


def kernel_version() -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def has_capability(number: int) -> bool:
    """Whether this process has capability ``number`` (capabilities(7)) in its effective set."""
    status = read("/proc/self/status") or ""
    match = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return bool(match and int(match[1], 16) >> number & 1)


@cache
def kernel_option(name: str) -> str | None:
    """Value of ``CONFIG_name`` (``y``, ``m``, ``n``), or ``None`` where the kernel's configuration is not readable."""
    text = _kernel_configuration()
    if text is None:
        return None
    match = re.search(rf"^CONFIG_{name}=(\S+)$", text, re.MULTILINE)
    return match[1] if match else "n"


@cache
def _kernel_configuration() -> str | None:
    try:
        return gzip.decompress(Path("/proc/config.gz").read_bytes()).decode()
    except OSError:
        return read(f"/boot/config-{os.uname().release}")


def module_state(name: str) -> str:
    """``loaded``, ``built in``, ``available`` (can be loaded) or ``absent``. ``name`` with underscores."""
    release = os.uname().release
    pattern = re.compile(rf"/{name.replace('_', '[_-]')}\.ko", re.MULTILINE)
    if pattern.search(read(f"/lib/modules/{release}/modules.builtin") or ""):
        return "built in"
    if Path("/sys/module", name).is_dir():
        return "loaded"
    return "available" if pattern.search(read(f"/lib/modules/{release}/modules.dep") or "") else "absent"
