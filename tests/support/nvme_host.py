"""The kernel's NVMe host for tests, by nvme-cli: what kvfs's own connections are compared with."""

import subprocess
from pathlib import Path

from support.mount import wait_for
from support.nvmet import Host, Target, host

SELF = host("self")


def connect(target: Target, *options: str, identity: Host = SELF) -> Path:
    """The block device of the target's first namespace; ``options`` as the kernel has them: ``ctrl_loss_tmo=10``.

    Written to /dev/nvme-fabrics: nvme-cli 2.3 does not connect a second host identity of one machine.
    """
    words = [
        *(f"transport={target.transport}", f"traddr={target.traddr}", f"trsvcid={target.trsvcid}", f"nqn={target.nqn}"),
        *(f"hostnqn={identity.nqn}", f"hostid={identity.identifier}", "nr_io_queues=2", *options),
    ]
    with open("/dev/nvme-fabrics", "r+b", buffering=0) as kernel:
        kernel.write(",".join(words).encode())
        kernel.read(100)  # the instance
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
    return next(iter(block_devices(nqn, nsid)), None)


def block_devices(nqn: str, nsid: int = 1) -> list[Path]:
    """With multipath one for all connections, without it one for each."""
    subsystems = [place for place in Path("/sys/class/nvme-subsystem").iterdir() if _read(place / "subsysnqn") == nqn]
    found = {
        name
        for place in [*subsystems, *controllers(nqn)]
        for head in place.glob(f"nvme*n{nsid}")
        if Path("/dev", name := head.name).is_block_device() and int(_read(head / "size") or 0)
    }
    return [Path("/dev", name) for name in sorted(found)]


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:  # a controller that goes away
        return ""
