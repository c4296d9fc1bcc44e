"""A console script of kvfs run in a fork of this process, which has imported what it needs.

In an emulated machine the start of an interpreter with kvfs's modules takes five to ten seconds, most of a test's
time. Only there: elsewhere commands are started as a user starts them.
"""

import importlib
import os
import pkgutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from functools import cache
from typing import BinaryIO

import kvfs

_MAINS = {"kvfs": "kvfs.cli.kvfs", "kvfsctl": "kvfs.cli.kvfsctl"}
_SELDOM = "kvfs.replay"


def can_fork(name: str) -> bool:
    """Whether this is the guest, and ``name`` a script that is known here."""
    return os.environ.get("KVFS_GUEST") == "1" and name in _MAINS


def run_forked(name: str, arguments: Sequence[str], output: BinaryIO, timeout: float) -> int | None:
    """Exit status of the script, whose output goes to ``output``; None when it was killed because time was up."""
    _import_all()
    main: Callable[[], None] = importlib.import_module(_MAINS[name]).main
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _child(main, [name, *arguments], output.fileno())
    deadline = time.monotonic() + timeout
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.01)


@cache
def _import_all() -> None:
    """What commands, and the daemon, import late: each of them would do so anew."""
    for module in pkgutil.walk_packages(kvfs.__path__, "kvfs."):
        if not module.name.startswith(_SELDOM) and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    # typer imports a good deal when it parses its first path
    app = importlib.import_module("kvfs.cli.kvfs").app
    app(["umount", "--quiet", "/nonexistent"], standalone_mode=False)


def _child(main: Callable[[], None], words: list[str], output: int) -> None:
    """Does not return, and runs nothing of pytest's own clean-up."""
    status = 1
    try:
        for number in (signal.SIGINT, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - pytest has put its own there
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        sys.argv = words
        main()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else error.code is not None
    except BaseException:  # noqa: BLE001 - what an interpreter would print
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)
