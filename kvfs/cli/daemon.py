"""Running a service in a process of its own whose start the caller waits for.

The parent forks while it has one thread and has imported none of pyfuse3, trio and the native store: locks
held by other threads and io_uring instances do not survive a fork. Then::

    parent                                child
    read(pipe) ... waits                  new session, output to the log, other descriptors closed
                                          service(ready)
                                            opens, mounts
    '{"ready": true}'     <-------------    ready()
    returns                                 serves on
    or an error's class, message, hint      failed before ready
    raises it                             exits with 1
    or end of file: the child died        killed, crashed
    raises KvfsError naming the log

Ctrl-C in the parent ends the child, which is then still starting, and waits for it.
"""

import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from kvfs import errors
from kvfs.cli.logs import configure_logging, open_log, redirect_output
from kvfs.errors import KvfsError

Service = Callable[[Callable[[], None]], None]
_logger = logging.getLogger("kvfs")


def run_detached(
    service: Service,
    log: Path,
    *,
    verbose: bool = False,
    meanwhile: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> int:
    """Start ``service(ready)`` in the background; its process id once it has called ``ready``.

    ``meanwhile()`` is entered, in the parent, while it waits; after the fork, so that it may start threads.

    Raises what the service raised before that when it is a KvfsError, and a KvfsError that names ``log``
    otherwise.
    """
    log_file = open_log(log)
    receiver, sender = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(receiver)
        _child(service, log_file, sender, verbose)  # does not return
    os.close(log_file)
    os.close(sender)
    try:
        with os.fdopen(receiver, "rb") as channel, meanwhile():
            answer = channel.readline()
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
        raise
    if not answer:
        raise _death(child, log)
    outcome = json.loads(answer)
    if "ready" in outcome:
        return child
    os.waitpid(child, 0)
    kind = getattr(errors, outcome["kind"], KvfsError)
    raise kind(outcome["message"], outcome["hint"] or f"see {log}")


def _child(service: Service, log: int, sender: int, verbose: bool) -> None:
    status = 1
    try:
        status = _serve(service, log, sender, verbose)
    finally:
        logging.shutdown()
        os._exit(status)


def _serve(service: Service, log: int, sender: int, verbose: bool) -> int:
    """Become a daemon and run the service; the exit status. What fails before ready() is the parent's to print."""
    pending = [sender]

    def answer(outcome: dict[str, object]) -> bool:
        if not pending:
            return False
        with os.fdopen(pending.pop(), "wb") as channel, contextlib.suppress(BrokenPipeError):  # the parent was killed
            channel.write(json.dumps(outcome).encode() + b"\n")
            channel.flush()
        return True

    def ready() -> None:
        answer({"ready": True})

    try:
        os.setsid()
        os.chdir("/")
        redirect_output(log)
        _close_all_but(sender)
        os.environ.pop("NOTIFY_SOCKET", None)  # it is the caller's to answer
        configure_logging(verbose=verbose)
        # until the service takes the signal over it ends the start in order, so that no half-made mount stays
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        service(ready)
    except KvfsError as error:
        if not answer({"kind": type(error).__name__, "message": error.message, "hint": error.hint}):
            _logger.error("%s", error)
        return 1
    except KeyboardInterrupt:
        return 1
    except BaseException as error:
        _logger.critical("unexpected failure", exc_info=True)
        answer({"kind": "KvfsError", "message": f"unexpected {type(error).__name__}: {error}", "hint": ""})
        return 1
    return 0


def _close_all_but(kept: int) -> None:
    """Descriptors that the caller left open (a lock, a pipe) are not the daemon's to keep."""
    os.closerange(3, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))


def _death(child: int, log: Path) -> KvfsError:
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    return KvfsError(f"the daemon {how} before the mount answered", f"see {log}")
