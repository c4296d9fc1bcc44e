"""``kvfs mount`` and ``kvfs umount``."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from kvfs.cli import launch
from kvfs.cli.app import make_app, print_json, run
from kvfs.cli.config import load_config
from kvfs.cli.options import parse_options
from kvfs.cli.plan import plan
from kvfs.cli.settings import MountSettings, parse_warm_size
from kvfs.errors import NotMounted, UsageError
from kvfs.units import parse_duration, parse_seconds, parse_size

app = make_app("A file system for the KV cache of LLM inference.")


class DataPath(StrEnum):
    """Who answers READ and WRITE of the kernel."""

    NATIVE = "native"
    PYFUSE3 = "pyfuse3"


class OnFull(StrEnum):
    """What a write does that finds no room."""

    EVICT = "evict"
    ENOSPC = "enospc"


class RequestLoop(StrEnum):
    """How requests come from the kernel to the native data path."""

    CLONES = "clones"
    URING = "uring"
    AUTO = "auto"


@app.command()
def mount(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="[STORE...] MOUNTPOINT",
            help="STORE: a regular file, made when absent; or, formatted with `kvfsctl format`, a block device or a "
            "namespace on a fabric, nvme+tcp://HOST[:PORT]/NQN[?nsid=N], several for several paths to it. "
            "None: an embedded default under your data directory.",
        ),
    ],
    size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Of a STORE that is to be made, as in 64G. Default: half of what is free."),
    ] = None,
    foreground: Annotated[bool, typer.Option("-f", "--foreground", help="Stay, and log to standard error.")] = False,
    options: Annotated[
        list[str] | None,
        typer.Option("-o", metavar="OPT,...", help="Mount options as in fstab: ro, allow_other, size=, log=, ..."),
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="As -o ro.")] = False,
    allow_other: Annotated[
        bool | None,
        typer.Option(
            "--allow-other/--no-allow-other",
            help="Let other users in. Default: yes as root, else no.",
            show_default=False,
        ),
    ] = None,
    log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Log here. Default: one file per mountpoint.")
    ] = None,
    data_path: Annotated[
        DataPath | None, typer.Option(help="Who serves reads and writes. Default: native.", show_default=False)
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, max=256, help="Of the native request loop. 0, the default: by cores."),
    ] = None,
    passthrough: Annotated[
        bool | None,
        typer.Option(
            "--passthrough/--no-passthrough",
            help="Let the kernel read warm pages by itself, where it can. Default: yes.",
            show_default=False,
        ),
    ] = None,
    request_loop: Annotated[
        RequestLoop | None,
        typer.Option(
            help="Clones of /dev/fuse, or FUSE over io_uring (`kvfsctl doctor` says where). "
            "auto, the default: what is faster here, measured once for a second.",
            show_default=False,
        ),
    ] = None,
    warm_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Memory for warm pages, 0 for none. Default: a quarter of what the machine has."
        ),
    ] = None,
    sweep_after: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Remove temporary files (*.tmp) that were left alone for so long, as in 30m; 0: never. Default: 1h.",
        ),
    ] = None,
    io_timeout: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Fail what the device has not answered for so long. 0: wait for ever. Default: 30s.",
        ),
    ] = None,
    physical_space: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where an agent publishes the device's physical space (`kvfsctl physical`)."),
    ] = None,
    inject_faults: Annotated[bool, typer.Option("--inject-faults", hidden=True)] = False,
    on_full: Annotated[
        OnFull | None,
        typer.Option(
            help="evict, the default: a full store drops the files that have not been used for longest. "
            "enospc: it refuses writes.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Settings, TOML. Default: /etc/kvfs/kvfs.toml, when it is there."),
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print what would be used and where that comes from; mount nothing.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="With --print-config: print JSON.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Log details.")] = False,
) -> None:
    """Mount a store. Returns when the mount answers."""
    given = MountSettings(
        size=None if size is None else parse_size(size),
        read_only=read_only or None,
        allow_other=allow_other,
        log=log,
        data_path=None if data_path is None else data_path.value,
        threads=threads,
        request_loop=None if request_loop is None else request_loop.value,
        passthrough=passthrough,
        warm_size=None if warm_size is None else parse_warm_size(warm_size),
        sweep_after=None if sweep_after is None else parse_duration(sweep_after),
        io_timeout=None if io_timeout is None else parse_seconds(io_timeout),
        physical_space=physical_space,
        on_full=None if on_full is None else on_full.value,
    )
    fstab = parse_options(options or ())
    planned = plan(
        names,
        fstab,
        given,
        config=load_config(config or fstab.config),
        foreground=foreground,
        inject_faults=inject_faults,
    )
    if json and not print_config:
        raise UsageError("expected --json together with --print-config, found it alone", "leave it out")
    if print_config:
        from kvfs.cli.plan_report import describe, plan_text

        print_json(describe(planned)) if json else print(plan_text(planned))
    elif foreground:
        launch.serve_in_foreground(planned.request, verbose=verbose)
    else:
        print(launch.start_in_background(planned.request, verbose=verbose))


@app.command()
def umount(
    mountpoint: Annotated[
        Path, typer.Argument(metavar="MOUNTPOINT", help="Also of a mount whose daemon was killed.", parser=Path)
    ],  # the parser, because typer's own for paths asks stat, which hangs in a mount that hangs
    lazy: Annotated[
        bool, typer.Option("-l", "--lazy", help="Detach it now, although it is in use, and don't wait.")
    ] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Succeed when no kvfs is mounted there.")] = False,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0, help="How long to wait for the daemon. Default: for ever.")
    ] = None,
) -> None:
    """Unmount, and wait until the daemon has flushed and gone."""
    from kvfs.cli.stores import disconnect_left
    from kvfs.cli.unmounting import unmount

    try:
        unmount(mountpoint, lazy=lazy, timeout=timeout, say=_say)
    except NotMounted:
        if not quiet:
            raise
    finally:
        for line in disconnect_left():
            _say(line)


def _say(line: str) -> None:
    print(f"kvfs: {line}", file=sys.stderr)


def main() -> NoReturn:
    run(app, "kvfs")


if __name__ == "__main__":
    main()
