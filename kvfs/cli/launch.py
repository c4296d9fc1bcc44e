"""Starting the process that serves a mount: detached, or as this very process."""

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from kvfs.cli import mounting
from kvfs.cli.daemon import run_detached
from kvfs.cli.logs import configure_logging
from kvfs.cli.notify import notify
from kvfs.cli.plan import MountRequest
from kvfs.cli.stores import disconnect_left, stable_name

_logger = logging.getLogger(__name__)


def start_in_background(request: MountRequest, *, verbose: bool = False) -> str:
    """Check, start the daemon, wait until the mount answers; a line that says what runs now."""
    assert request.log is not None
    mounting.check(request)
    for line in disconnect_left():  # here, as what the daemon says of it is in its log only
        print(f"kvfs: {line}", file=sys.stderr)
    pid = run_detached(
        partial(mounting.serve, request), request.log, verbose=verbose, meanwhile=lambda: _spinner(request)
    )
    return f"{_name(request)} is mounted on {request.mountpoint} (pid {pid}, log {request.log})"


def serve_in_foreground(request: MountRequest, *, verbose: bool = False) -> None:
    """Check, then serve until unmounted or told to end. Under systemd, say when the mount answers."""
    mounting.check(request)
    configure_logging(request.log, verbose=verbose)
    # until trio takes the signal over it ends the start in order
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    def ready() -> None:
        _logger.info("%s answers", request.mountpoint)
        notify(f"READY=1\nSTATUS=serving {_name(request)} on {request.mountpoint}")

    mounting.serve(request, ready)


def _name(request: MountRequest) -> str:
    return stable_name(request.store) if isinstance(request.store, Path) else str(request.store)


@contextmanager
def _spinner(request: MountRequest) -> Iterator[None]:
    """A large store that was not closed in order takes seconds to recover."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(f"opening {request.store}"):
        yield
