"""A directory of ext4 to compare with: what Linux itself does is the specification."""

import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_SIZE = 192 << 20
_TIMEOUT = 60  # s


@contextmanager
def reference_directory() -> Iterator[Path]:
    """An empty directory on a loop-mounted ext4 (nosuid and nodev, as every kvfs mount is), removed at the end.

    Who may not mount, or has no loop device, gets a directory of the file system that temporary files are on, and a
    warning that says so.
    """
    root = Path(tempfile.mkdtemp(prefix="kvfs-reference-"))
    root.chmod(0o755)
    mounted = False
    try:
        problem = _mount_ext4(root)
        mounted = not problem
        if problem:
            warnings.warn(f"compared with a directory of {root.parent}, not with ext4: {problem}", stacklevel=1)
        directory = root / "mnt" / "reference"
        directory.mkdir(parents=True, mode=0o755)
        directory.chmod(0o755)
        yield directory
    finally:
        if mounted:
            subprocess.run(["umount", root / "mnt"], timeout=_TIMEOUT, check=True)
        shutil.rmtree(root)


def _mount_ext4(root: Path) -> str:
    """Mount it at ``root/mnt``; why that cannot be, or an empty string."""
    if os.geteuid() != 0:
        return "only root may mount it"
    image, mountpoint = root / "ext4.img", root / "mnt"
    mountpoint.mkdir()
    with image.open("wb") as file:
        file.truncate(_SIZE)
    for command in (
        ["mkfs.ext4", "-q", "-F", "-m", "0", image],
        ["mount", "-o", "loop,nosuid,nodev", image, mountpoint],
    ):
        found = shutil.which(str(command[0]), path=_SBIN)
        if found is None:
            return f"{command[0]} is not installed"
        done = subprocess.run([found, *command[1:]], capture_output=True, text=True, timeout=_TIMEOUT, check=False)
        if done.returncode != 0:
            return f"{command[0]}: {done.stderr.strip()}"
    return ""
