"""``/sbin/mount.kvfs``: what mount(8), fstab and systemd call for the type kvfs.

mount(8) runs ``mount.kvfs STORE MOUNTPOINT [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]``. There is no helper for
umount(8): of a FUSE mount it sees the type ``fuse`` without what follows the dot, so it would never call ours.
"""

from typing import Annotated, NoReturn

import typer

from kvfs.cli import launch, mounting
from kvfs.cli.app import run
from kvfs.cli.config import load_config
from kvfs.cli.options import parse_options
from kvfs.cli.plan import plan
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
    fstab = parse_options(options or (), sloppy=sloppy)
    request = plan(names, fstab, config=load_config(fstab.config)).request
    if fake:
        mounting.check(request)
        return
    line = launch.start_in_background(request)
    if verbose:
        print(line)


def main() -> NoReturn:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(mount)
    run(app, "mount.kvfs")


if __name__ == "__main__":
    main()
