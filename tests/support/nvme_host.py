"""The kernel's NVMe host for tests, by nvme-cli: what kvfs's own connections are compared with."""

import subprocess
from pathlib import Path

from support.mount import wait_for
from support.nvmet import Host, Target, host

SELF = host("self")


def connect(target: Target, *options: str, identity: Host = SELF) -> Path:
    """The block device of the target's first namespace, connected with ``nvme connect``'s ``options``."""
    where = ["-t", target.transport, "-a", target.traddr, "-s", target.trsvcid, "-n", target.nqn]
    nvme("connect", *where, "--hostnqn", identity.nqn, "--hostid", identity.identifier, *options)
    found: Path = wait_for(lambda: block_device(target.nqn), f"a block device of {target.nqn}")
    return found


def nvme(*words: str) -> str:
    """Output of an nvme-cli command; AssertionError with what it said when it fails."""
    done = subprocess.run(["nvme", *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, (
        f"nvme {' '.join(words)}: {done.returncode}: {done.stderr.strip()} {done.stdout.strip()}"
    )
    return done.stdout


def controllers(nqn: str) -> list[Path]:
    """Directories in sysfs of the connections to a subsystem."""
    return sorted(place for place in Path("/sys/class/nvme").iterdir() if _read(place / "subsysnqn") == nqn)


def block_device(nqn: str, nsid: int = 1) -> Path | None:
    """Of one namespace of a connected subsystem; None while there is none that can be opened and read."""
    for place in Path("/sys/class/nvme-subsystem").iterdir():
        if _read(place / "subsysnqn") == nqn:
            for head in place.glob(f"nvme*n{nsid}"):
                node = Path("/dev", head.name)
                if node.is_block_device() and int(_read(head / "size") or 0):
                    return node
    return None


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:  # a controller that goes away
        return ""
