"""Loop devices for tests that need a real block device."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def run(*command: str | os.PathLike[str]) -> str:
    """Output of an administration command; they live where an ordinary PATH does not lead."""
    environment = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


@contextmanager
def loop_device(backing: Path, *, read_only: bool = False) -> Iterator[Path]:
    """A block device that shows ``backing``; skips where the kernel or the container offers none."""
    if not Path("/dev/loop-control").exists():
        pytest.skip("NOT TESTED: no loop devices here")
    device = Path(run("losetup", "--find", "--show", *(["--read-only"] if read_only else []), backing).strip())
    try:
        yield device
    finally:
        run("losetup", "--detach", device)
