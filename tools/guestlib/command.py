"""``tools/guest``: options, environment, exit status."""

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from guestlib import boot
from guestlib.errors import GuestLost, GuestNotReady
from guestlib.initramfs import Command, base
from guestlib.kernel import Kernel
from guestlib.kernel import kernel as get_kernel
from guestlib.machine import Machine, parse_drives
from kvfs.cli.app import fail, run
from kvfs.errors import UsageError
from kvfs.units import parse_seconds, parse_size

ROOT = Path(__file__).resolve().parents[2]
_PASSED_ON = ("LANG", "TERM", "COLUMNS", "KVFS_CI", "KVFS_DATA_PATH", "KVFS_TEST_SCALE")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# An emulated kernel now and then meets a breakpoint of its own while it patches its code, and panics: about one start
# of eight on a busy machine. What had not begun can begin once more; a kernel that never comes up is an error.
_STARTS = 3

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"allow_interspersed_args": False, "help_option_names": ["-h", "--help"]},
)


@app.command()
def guest(
    command: Annotated[list[str] | None, typer.Argument(metavar="[--] COMMAND...", help="What to run.")] = None,
    drives: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[Nx]SIZE", help="Emulated NVMe drives, as in 2x512M; may be repeated.  [default: 2x512M]"
        ),
    ] = None,
    memory: Annotated[str, typer.Option(metavar="SIZE", help="Of the guest; files it writes lie in it, too.")] = "2G",
    cpus: Annotated[int, typer.Option(min=1, max=64)] = 2,
    timeout: Annotated[str, typer.Option(metavar="TIME", help="For all of it; then the guest is killed.")] = "10m",
    directory: Annotated[
        Path | None, typer.Option(help="Where the command runs.  [default: the current one]", show_default=False)
    ] = None,
    env: Annotated[
        list[str] | None, typer.Option(metavar="NAME[=VALUE]", help="For the command; without a value: as it is here.")
    ] = None,
    module: Annotated[
        list[str] | None,
        typer.Option(metavar="MODULE.OPTION=VALUE", help="Of a kernel module, as in nvme_core.multipath=N."),
    ] = None,
    kernel: Annotated[str, typer.Option(metavar="RELEASE", help="One that begins so, as in 6.18 or 7.")] = "",
    refresh: Annotated[bool, typer.Option(help="Look for a better kernel than the one in the cache.")] = False,
    result: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Gets what the command writes to /run/guest/result, as it does.")
    ] = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="Only get the kernel, and say which.")] = False,
) -> None:
    """Run a command in a throw-away virtual machine: NVMe drives, NVMe-oF targets over TCP and RDMA, a new kernel.

    It sees this machine's files, and what it writes to them is gone with it. Its output comes as it is printed; the
    exit status is the command's, but for 120: no guest can be had here; 124: not done in time; 125: the guest ended
    without a status.
    """
    limit = parse_seconds(timeout)
    sizes = tuple(size for text in (["2x512M"] if drives is None else drives) for size in parse_drives(text))
    machine = Machine(sizes, parse_size(memory), cpus, tuple(module or ()))
    if not command and not fetch:
        raise UsageError("expected a command, found none", "write it after --, as in tools/guest -- uname -r")
    chosen = get_kernel(kernel, refresh=refresh)
    base(chosen)
    if fetch:
        print(chosen.release)
        return
    job = Command(tuple(command or ()), (directory or Path.cwd()).absolute(), environment(env or []))
    try:
        status = start_guest(chosen, machine, job, limit, result)
    except GuestLost as error:
        print(error.console, file=sys.stderr)
        raise
    raise typer.Exit(status)


def start_guest(kernel: Kernel, machine: Machine, job: Command, limit: float, result: Path | None) -> int:
    for left in reversed(range(_STARTS)):
        try:
            return boot.run(
                kernel,
                machine,
                job,
                timeout=limit,
                output=boot.to_stdout,
                result=result,
                paths=[ROOT, Path(sys.prefix)],
            )
        except GuestNotReady as error:
            if left == 0:
                raise
            print(f"{error.console}\nguest: {error.message}; starting it again", file=sys.stderr, flush=True)
    raise AssertionError("unreachable")


def environment(asked: list[str]) -> dict[str, str]:
    """Of the command: little, so that what passes here passes elsewhere. UsageError for a name that is not set here."""
    found = {"PATH": _PATH, "HOME": "/root", "KVFS_GUEST": "1"}
    found |= {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    for text in asked:
        name, equals, value = text.partition("=")
        if not equals and name not in os.environ:
            raise UsageError(f"expected {name} in the environment, found it not set", f"write --env {name}=VALUE")
        found[name] = value if equals else os.environ[name]
    return found


def main() -> NoReturn:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        run(app, "guest")
    except BrokenPipeError:  # whoever read the output has gone
        sys.exit(fail("guest", "nobody reads the output any more", 1))


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
