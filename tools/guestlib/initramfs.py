"""What a guest starts with: a static busybox, modules in the order to load them, ``init.sh`` and the command.

The larger part is the same for all commands and kept beside the kernel, under a digest of what went into it.
"""

import hashlib
import os
import shlex
import shutil
import struct
from dataclasses import dataclass, field
from pathlib import Path

from guestlib.cpio import Entry, archive
from guestlib.errors import GuestUnavailable
from guestlib.kernel import Kernel
from guestlib.modules import ModuleTree

_INIT = Path(__file__).with_name("init.sh")
# for the root file system and the ports, before anything else
_BOOT = ("virtio_pci", "fuse", "virtiofs", "virtio_console", "overlay")
_REST = (
    *("crc32_generic", "crc32c_generic"),  # rxe of older kernels asks for them by name
    *("virtio_rng", "dummy", "veth", "loop", "null_blk", "brd", "configfs", "ext4"),
    *("nvme", "nvme-fabrics", "nvme-tcp", "nvme-rdma", "nvme-loop", "nvmet", "nvmet-tcp", "nvmet-rdma"),
    *("rdma_rxe", "rdma_cm", "rdma_ucm", "ib_uverbs"),
)

_PT_INTERP = 3


@dataclass(frozen=True)
class Command:
    """What runs in the guest. ``directory``: a path that the guest has, too."""

    words: tuple[str, ...]
    directory: Path
    environment: dict[str, str] = field(default_factory=dict)

    def script(self) -> str:
        """For bash."""
        exports = [f"export {name}={shlex.quote(value)}" for name, value in self.environment.items()]
        return "\n".join([*exports, f"cd {shlex.quote(str(self.directory))} && exec {shlex.join(self.words)}", ""])


def initramfs(kernel: Kernel, command: Command) -> bytes:
    """For this kernel and this command."""
    job = [Entry("job"), Entry("job/command", command.script().encode())]
    return base(kernel).read_bytes() + archive(job)


def base(kernel: Kernel) -> Path:
    """The part that does not know the command, made when it is not there."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise GuestUnavailable("expected busybox, found none", "install busybox-static")
    data = Path(busybox).read_bytes()
    if not is_static(data):
        raise GuestUnavailable(f"{busybox}: expected a static busybox, found a dynamic one", "install busybox-static")
    script = _INIT.read_bytes()
    digest = hashlib.sha256(b"\0".join([script, data, *(name.encode() for name in _BOOT + _REST)])).hexdigest()[:16]
    file = kernel.place / f"initramfs-{digest}.cpio"
    if not file.exists():
        part = file.with_suffix(f".{os.getpid()}")
        part.write_bytes(_make(kernel, data, script))
        part.rename(file)
    return file


def is_static(elf: bytes) -> bool:
    """Whether a 64-bit ELF program needs no loader: none of its program headers is PT_INTERP."""
    offset, size, count = struct.unpack_from("<Q", elf, 32)[0], *struct.unpack_from("<HH", elf, 54)
    return all(struct.unpack_from("<I", elf, offset + number * size)[0] != _PT_INTERP for number in range(count))


def _make(kernel: Kernel, busybox: bytes, init: bytes) -> bytes:
    modules = ModuleTree(kernel.modules).in_load_order(_BOOT + _REST)
    boot = {module.name for module in ModuleTree(kernel.modules).in_load_order(_BOOT)}
    names = [module.name for module in modules]
    return archive(
        [
            *(Entry(name) for name in ("bin", "proc", "sys", "dev", "modules")),
            Entry("bin/busybox", busybox),
            Entry("init", init),
            Entry("modules/boot", " ".join(name for name in names if name in boot).encode()),
            Entry("modules/rest", " ".join(name for name in names if name not in boot).encode()),
            *(Entry(f"modules/{module.name}.ko", module.data, 0o644) for module in modules),
        ]
    )
