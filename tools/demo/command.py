"""The command line of the demonstration; imports no numpy before the number of its threads is set."""

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from kvfs.cli.app import INTERRUPTED, fail, run
from kvfs.cli.mounts import mount_at
from kvfs.errors import UsageError
from kvfs.paths import data_directory

PROGRAM = "tools/quickstart"
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def demonstrate(
    mount: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Mountpoint. Default: in your data directory.")
    ] = None,
    store: Annotated[Path | None, typer.Option(metavar="PATH", help="Store to mount. Default: kvfs's own.")] = None,
    directory: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Use this directory and no kvfs, to compare.")
    ] = None,
    kvfs: Annotated[
        str | None, typer.Option(metavar="CMD", help="The kvfs program. Default: this environment's.")
    ] = None,
    # of SmolLM2's context of 8192 tokens, 512 are left for the answer and the follow-up
    tokens: Annotated[int, typer.Option(min=512, max=7680, help="Of the first turn's prompt, at most.")] = 4096,
    block_tokens: Annotated[
        int,
        typer.Option(min=16, max=1024, help="Per KV page, a multiple of 16. 64 make 1.4 MiB, as 11 of an 8B model."),
    ] = 64,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Loads, each cold and then warm.")] = 3,
    json: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write the figures as JSON; - for standard output.")
    ] = None,
) -> None:
    """Time a real LLM's second turn to its first token: recomputed, and with its KV pages from a kvfs mount."""
    if directory is not None and (mount is not None or store is not None):
        raise UsageError("expected --directory alone, found it with --mount or --store", "leave one out")
    if block_tokens % 16 != 0 or tokens < 4 * block_tokens:
        raise UsageError(
            f"--block-tokens: expected a multiple of 16 up to a quarter of --tokens, found {block_tokens} of {tokens}",
            "choose another number",
        )
    if json not in (None, "-") and not Path(json).absolute().parent.is_dir():
        raise UsageError(f"--json: expected a file in an existing directory, found {json}", "make the directory first")
    program = None if directory else _find_kvfs(kvfs)
    mountpoint = (mount or data_directory() / "mnt").absolute()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for library in ("OPENBLAS", "MKL", "BLIS", "OMP"):  # read when numpy loads; demo.model says why 1
        os.environ[f"{library}_NUM_THREADS"] = "1"
    try:
        from demo.session import Settings, run_session
    except ModuleNotFoundError as error:
        raise UsageError(
            f"expected the package {error.name}, not installed here", "run `tools/quickstart`, which installs it"
        ) from error
    try:
        run_session(
            Settings(
                mountpoint=mountpoint,
                store=store and store.absolute(),
                directory=directory and directory.absolute(),
                kvfs=program,
                tokens=tokens,
                block_tokens=block_tokens,
                rounds=rounds,
                json=json,
            )
        )
    except KeyboardInterrupt:
        mounted = program is not None and mount_at(mountpoint) is not None
        left = f"; kvfs stays mounted, to unmount it: {program} umount {mountpoint}" if mounted else ""
        raise typer.Exit(fail(PROGRAM, f"interrupted{left}", INTERRUPTED)) from None


def main() -> NoReturn:
    run(app, PROGRAM)


def _find_kvfs(name: str | None) -> Path:
    beside = Path(sys.executable).parent
    found = shutil.which(name) if name else shutil.which("kvfs", path=str(beside))
    if found is None:
        raise UsageError(
            f"--kvfs: expected a program, found none at {name or beside / 'kvfs'}", "run `tools/quickstart --setup`"
        )
    return Path(found)
