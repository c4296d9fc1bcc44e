"""``/sbin/mount.kvfs`` and ``/sbin/umount.fuse.kvfs``: what mount(8), umount(8), fstab and systemd call.

One program, which acts by the name it is called by. mount(8) runs ``mount.kvfs SPEC DIRECTORY [-sfnv] [-N
NAMESPACE] [-o OPTIONS] [-t TYPE]``. As umount.fuse.kvfs it makes a plain ``umount`` wait, as ``kvfs umount`` does,
until the daemon has flushed; without it, umount returns while the daemon still writes.
"""

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from kvfs.cli import launch, mounting
from kvfs.cli.app import run
from kvfs.cli.options import parse_options
from kvfs.cli.unmounting import unmount
from kvfs.errors import UsageError

DEFAULT_STORE = "default"  # as SPEC: the store that `kvfs mount MOUNTPOINT` would take


def mount(
    spec: Annotated[str, typer.Argument(metavar="STORE", help=f"As for kvfs mount, or {DEFAULT_STORE!r}.")],
    directory: Annotated[str, typer.Argument(metavar="MOUNTPOINT")],
    options: Annotated[list[str] | None, typer.Option("-o", metavar="OPT,...")] = None,
    sloppy: Annotated[bool, typer.Option("-s", help="Ignore unknown options.")] = False,
    fake: Annotated[bool, typer.Option("-f", help="Check everything, mount nothing.")] = False,
    _no_mtab: Annotated[bool, typer.Option("-n", help="Accepted; there is no mtab.")] = False,
    verbose: Annotated[bool, typer.Option("-v", help="Say what was mounted.")] = False,
    namespace: Annotated[str | None, typer.Option("-N", metavar="NAMESPACE", help="Not supported.")] = None,
    _type: Annotated[str | None, typer.Option("-t", metavar="TYPE", help="Accepted.")] = None,
) -> None:
    """Mount a store, called by mount(8)."""
    if namespace is not None:
        raise UsageError("option -N is not supported", "use nsenter --mount")
    names = [directory] if spec == DEFAULT_STORE else [spec, directory]
    request = mounting.plan(names, parse_options(options or (), sloppy=sloppy))
    if fake:
        mounting.check(request)
        return
    line = launch.start_in_background(request)
    if verbose:
        print(line)


def umount(
    directory: Annotated[Path, typer.Argument(metavar="MOUNTPOINT")],
    lazy: Annotated[bool, typer.Option("-l", help="Detach it now, although it is in use, and don't wait.")] = False,
    _force: Annotated[bool, typer.Option("-f", help="Accepted.")] = False,
    _no_mtab: Annotated[bool, typer.Option("-n", help="Accepted; there is no mtab.")] = False,
    _read_only: Annotated[bool, typer.Option("-r", help="Accepted.")] = False,
    _verbose: Annotated[bool, typer.Option("-v", help="Accepted.")] = False,
    namespace: Annotated[str | None, typer.Option("-N", metavar="NAMESPACE", help="Not supported.")] = None,
    _type: Annotated[str | None, typer.Option("-t", metavar="TYPE", help="Accepted.")] = None,
) -> None:
    """Unmount, called by umount(8)."""
    if namespace is not None:
        raise UsageError("option -N is not supported", "use nsenter --mount")
    unmount(directory, lazy=lazy)


def main() -> NoReturn:
    program = Path(sys.argv[0]).name
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(umount if program.startswith("umount") else mount)
    run(app, program)


if __name__ == "__main__":
    main()
