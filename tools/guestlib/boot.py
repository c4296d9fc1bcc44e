"""Running a command in a guest: start, pass on what it prints, take its status, and leave nothing behind.

Who ends how: QEMU ends by itself when the guest powers off or panics, and is killed when time is up or this process
is interrupted. virtiofsd ends when QEMU closes its socket, and is killed in any case. Both are killed by the kernel
when this process is killed outright. Images of drives have no name, so they are gone with QEMU; all else is in one
temporary directory.
"""

import contextlib
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from guestlib import machine as machines
from guestlib.errors import GuestFailed, GuestHung, GuestNotReady
from guestlib.initramfs import Command, initramfs
from guestlib.kernel import Kernel
from guestlib.machine import Machine

_SERVER_TIMEOUT = 20.0  # s, until virtiofsd listens
_END_TIMEOUT = 10.0  # s, until a process that was killed is gone
_CONSOLE_END = 6000  # bytes of the console that are shown
_READY = b"guest: ready after "  # as init.sh says it before the command


def run(
    kernel: Kernel,
    machine: Machine,
    command: Command,
    *,
    timeout: float,
    output: Callable[[bytes], object],
    result: Path | None = None,
    paths: Iterable[Path] = (),
) -> int:
    """Exit status of ``command`` in a guest, whose output goes to ``output`` as it comes.

    ``timeout``: seconds for all of it. ``result``: a file that gets what the command writes to /run/guest/result, as
    it does. ``paths``: what the guest has to find of the host's files, on whatever file system. GuestHung when time
    was up, GuestFailed when the guest ended without a status, GuestNotReady when it did before the command began; all
    carry the console's end. GuestUnavailable when there is no emulator.
    """
    deadline = time.monotonic() + timeout
    qemu, virtiofsd = machines.tools()
    with ExitStack() as stack:
        place = Path(stack.enter_context(_directory()))
        image = place / "initramfs"
        image.write_bytes(initramfs(kernel, command))
        if result is not None:
            (place / "result").symlink_to(result.absolute())
        socket = place / "root.socket"
        shared = {Path(path).resolve() for path in (*paths, command.directory)}
        server = machines.virtiofsd_command(virtiofsd, place, socket, shared)
        stack.enter_context(_process(server, place / "virtiofsd.log", lambda: socket.exists()))
        drives = [stack.enter_context(_image(size)) for size in machine.drives]
        words = machines.qemu_command(qemu, machine, kernel.vmlinux, image, place, drives, socket)
        with (place / "qemu.log").open("wb") as log:
            guest = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=drives,
            )
        stack.enter_context(_ended(guest))
        if not _pump(guest, output, deadline):
            raise GuestHung(
                f"expected `{' '.join(command.words)}` to end within {timeout:.0f} s; the guest was killed",
                console_end(place),
            )
        guest.wait(_END_TIMEOUT)
        status = (place / "status").read_text().strip() if (place / "status").exists() else ""
        if not status:
            if _READY not in (place / "console").read_bytes():
                raise GuestNotReady("the guest ended before the command began", console_end(place))
            raise GuestFailed("the guest ended without a status of the command", console_end(place))
        return int(status)


def console_end(place: Path) -> str:
    """What helps to see why a guest ended: what QEMU, virtiofsd and the guest's kernel said last."""
    parts = []
    for name in ("qemu.log", "virtiofsd.log", "console"):
        with contextlib.suppress(FileNotFoundError):
            text = (place / name).read_bytes()[-_CONSOLE_END:].decode(errors="replace").replace("\r", "").strip()
            if text:
                parts.append(f"--- {name}\n{text}")
    return "\n".join(parts) or "(nothing)"


def _pump(guest: "subprocess.Popen[bytes]", output: Callable[[bytes], object], deadline: float) -> bool:
    """Pass on what comes until it ends; False when time was up before."""
    assert guest.stdout is not None
    while (left := deadline - time.monotonic()) > 0:
        if select.select([guest.stdout], [], [], left)[0]:
            data = os.read(guest.stdout.fileno(), 1 << 16)
            if not data:
                return True
            output(data)
    return False


@contextmanager
def _image(size: int) -> Iterator[int]:
    """The descriptor of an empty image without a name."""
    with tempfile.TemporaryFile(prefix="kvfs-guest-") as file:
        file.truncate(size)
        yield file.fileno()


@contextmanager
def _directory() -> Iterator[str]:
    place = tempfile.mkdtemp(prefix="kvfs-guest-")
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _process(command: list[str], log: Path, is_ready: Callable[[], bool]) -> Iterator[None]:
    """A server that runs while it is needed."""
    with log.open("wb") as file:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    with _ended(server):
        deadline = time.monotonic() + _SERVER_TIMEOUT
        while not is_ready():
            if server.poll() is not None or time.monotonic() > deadline:
                raise GuestFailed(f"expected {log.stem} to listen, found it did not", log.read_text(errors="replace"))
            time.sleep(0.01)
        yield


@contextmanager
def _ended(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    try:
        yield
    finally:
        process.kill()
        process.wait(_END_TIMEOUT)
        if process.stdout is not None:
            process.stdout.close()


def to_stdout(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
