"""What QEMU is to emulate, as its command line, and the server of the guest's root file system.

The guest sees the host's files through virtiofsd, which runs in a mount namespace of its own on a read-only bind of
/: nothing that a guest does reaches the host. Mounts below / are not part of a bind, so those that hold the checkout,
its environment or the command's directory are bound one by one.
"""

import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from guestlib.errors import GuestUnavailable
from kvfs.errors import UsageError
from kvfs.units import parse_size

PORTS = ("output", "status", "result")
_VIRTIOFSD = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd")  # in Rust, of its own package; in C, of QEMU 7
_MOST_DRIVES = 16


@dataclass(frozen=True)
class Machine:
    """``drives``: sizes of emulated NVMe drives in bytes, /dev/nvme0n1 and so on. ``memory``: bytes.

    ``modules``: options of kernel modules, as in ``nvme_core.multipath=N``.
    """

    drives: tuple[int, ...] = ()
    memory: int = 2 << 30
    cpus: int = 2
    modules: tuple[str, ...] = field(default=())


def parse_drives(text: str) -> tuple[int, ...]:
    """Sizes in bytes that ``2x512M`` or ``1G`` means. UsageError when it is neither."""
    match = re.fullmatch(r"(?:(\d+)x)?(.+)", text.strip())
    count = int(match[1] or 1) if match else 0
    if match is None or not 0 < count <= _MOST_DRIVES:
        raise UsageError(f"expected drives as in 2x512M, {_MOST_DRIVES} at most, found {text!r}")
    size = parse_size(match[2])
    if size % 4096:
        raise UsageError(f"expected a drive of whole 4 KiB blocks, found {text!r}")
    return (size,) * count


def tools() -> tuple[str, str]:
    """Paths of QEMU and virtiofsd. GuestUnavailable when one is missing, or this user may not use them."""
    if os.geteuid() != 0:
        raise GuestUnavailable("expected root, who alone may show a guest the host's files", "run it as root")
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        raise GuestUnavailable("expected qemu-system-x86_64, found none", "install qemu-system-x86")
    virtiofsd = next((path for path in _VIRTIOFSD if os.access(path, os.X_OK)), None)
    if virtiofsd is None:
        raise GuestUnavailable(f"expected one of {', '.join(_VIRTIOFSD)}, found none", "install virtiofsd")
    return qemu, virtiofsd


def qemu_command(
    qemu: str, machine: Machine, kernel: Path, initramfs: Path, place: Path, drives: Sequence[int], socket: Path
) -> list[str]:
    """``drives``: file descriptors of their images, which QEMU inherits. Output goes to QEMU's standard output.

    An output of QEMU's kind "stdio" with nothing to read hangs the guest's writes; a file that is its standard output
    doesn't.
    """
    hardware = any(Path(f"/sys/module/{name}").exists() for name in ("kvm_intel", "kvm_amd"))
    # KVM without either interprets instruction by instruction: slower than QEMU's own translator
    fast = hardware and os.access("/dev/kvm", os.R_OK | os.W_OK)
    # All CPUs on one thread: with a thread each, a kernel that patches its own code (jump labels) has been seen to run
    # into the breakpoint it sets meanwhile, "Oops: int3", once in some nine guests. It costs a sixth of the time more.
    files = {"output": "/dev/stdout", "status": f"{place}/status", "result": f"{place}/result"}
    return [
        *(qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *(("-accel", "kvm", "-cpu", "host") if fast else ("-accel", "tcg,thread=single", "-cpu", "max")),
        *("-m", f"{machine.memory >> 20}M", "-smp", str(machine.cpus), "-machine", "q35,smm=off,memory-backend=memory"),
        *("-object", f"memory-backend-memfd,id=memory,size={machine.memory >> 20}M,share=on"),
        *("-kernel", str(kernel), "-initrd", str(initramfs), "-append", _kernel_options(machine)),
        *("-serial", f"file:{place}/console"),
        *("-device", "virtio-rng-pci"),
        *("-chardev", f"socket,id=root,path={socket}"),
        *("-device", "vhost-user-fs-pci,chardev=root,tag=root,queue-size=1024"),
        *("-device", "virtio-serial-pci"),
        *(word for name in PORTS for word in _port(name, files[name])),
        *(word for number, descriptor in enumerate(drives) for word in _drive(number, descriptor)),
    ]


def virtiofsd_command(virtiofsd: str, place: Path, socket: Path, paths: Iterable[Path]) -> list[str]:
    """Serves / and the mounts that hold ``paths``, read-only. Ends with this process, however that ends.

    Its mount namespace begins with a copy of every mount there is, and a copy keeps a FUSE daemon from ending when
    the mount itself goes: what the host unmounts later goes here too (slave, where the host's mounts are shared), and
    kvfs mounts go at once.
    """
    root = place / "root"
    root.mkdir()
    script = (
        "while read -r _ _ _ _ point kind; do "
        'case $kind in *" - fuse.kvfs "*) umount -l "$(printf %b "$point")";; esac; '
        "done < /proc/self/mountinfo; "
        'bind() { mount --bind "$1" "$2" && mount -o remount,bind,ro "$2"; }; root=$1; bind / "$root" || exit; shift; '
    )
    script += 'while [ "$1" != -- ]; do bind "$1" "$root$1" || exit; shift; done; shift; exec "$@"'
    if virtiofsd == _VIRTIOFSD[0]:
        server = [f"--socket-path={socket}", f"--shared-dir={root}", "--sandbox=chroot", "--cache=always"]
    else:
        server = [f"--socket-path={socket}", "-o", f"source={root},sandbox=chroot,cache=always"]
    private = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "slave"]
    mounts = mounts_of(paths, Path("/proc/self/mountinfo").read_text())
    return [*private, "sh", "-c", script, "sh", str(root), *mounts, "--", virtiofsd, *server]


def mounts_of(paths: Iterable[Path], mountinfo: str) -> list[str]:
    """Where file systems are mounted that one goes through on the way to ``paths``, except /, from the top down."""
    points = {
        re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), line.split()[4]) for line in mountinfo.splitlines()
    }
    wanted = {str(parent) for path in paths for parent in (path, *path.parents)}
    return sorted((points & wanted) - {"/"}, key=lambda point: point.count("/"))


def _kernel_options(machine: Machine) -> str:
    # panic=-1 with -no-reboot: a guest that panics ends at once. mitigations cost time and protect nothing here.
    return " ".join(["console=ttyS0 panic=-1 mitigations=off audit=0 random.trust_cpu=on", *machine.modules])


def _port(name: str, file: str) -> tuple[str, ...]:
    return "-chardev", f"file,id={name},path={file},append=on", "-device", f"virtserialport,chardev={name},name={name}"


def _drive(number: int, descriptor: int) -> tuple[str, ...]:
    return (
        *("-drive", f"if=none,id=drive{number},file=/dev/fd/{descriptor},format=raw,cache=unsafe,discard=unmap"),
        *("-device", f"nvme,drive=drive{number},serial=guest{number},max_ioqpairs=4"),
    )
