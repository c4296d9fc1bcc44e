"""ext4 in a file of its own on the disk that is measured: the peer with a page cache, freshly made, and of known state.

Root alone may set up a loop device; others get a directory on the disk's own file system in its place.
"""

import os
import shutil
from pathlib import Path

from benchlib import system
from benchlib.targets import Directory

KIND = "ext4"
_TIMEOUT = 300.0  # s
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])  # where mkfs is, for root or not
_TOOLS = ("mkfs.ext4", "losetup", "mount", "umount")


def has_loop_devices() -> bool:
    """Whether :class:`LoopDisk` can be made here."""
    return system.is_root() and Path("/dev/loop-control").exists() and all(_tool(name) for name in _TOOLS)


class LoopDisk(Directory):
    """ext4 on a loop device over a sparse file. The device reads the file with O_DIRECT: no page is cached twice."""

    def __init__(self, name: str, root: Path, size: int) -> None:
        super().__init__(name, root)
        self._image = root.with_suffix(".image")
        try:
            self._mount(size)
        except BaseException:
            self.close()
            raise

    def _mount(self, size: int) -> None:
        with self._image.open("wb") as file:
            file.truncate(size)
        device = _run("losetup", "--find", "--show", "--direct-io=on", str(self._image))
        try:
            # the inode tables are left to the kernel, which must not write them while something is measured
            _run("mkfs.ext4", "-q", "-E", "lazy_itable_init=1,nodiscard", device)
            _run("mount", "-o", "noinit_itable", device, str(self.root))
        finally:
            _run("losetup", "--detach", device)  # once mounted it only means: let it go with the mount

    def close(self) -> None:
        if system.is_mounted(self.root):
            _run("umount", str(self.root))
        self._image.unlink(missing_ok=True)
        super().close()


def _tool(name: str) -> str | None:
    return shutil.which(name, path=_PATH)


def _run(name: str, *arguments: str) -> str:
    return system.run_command([_tool(name) or name, *arguments], _TIMEOUT).decode().strip()
