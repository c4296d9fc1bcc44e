"""Where a serving process writes: its log file, or standard error in the foreground.

The file becomes standard output and error themselves, so that a line of the native code, a sanitizer's report
or a traceback lands in it as well. It is opened for appending: logrotate's ``copytruncate`` works on it.
"""

import logging
import os
import sys
from pathlib import Path

from kvfs.errors import KvfsError

_FORMAT = "%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s"
_DATE = "%Y-%m-%dT%H:%M:%S"


def open_log(path: Path) -> int:
    """A descriptor that appends to ``path``, made with its directory when absent; KvfsError when it cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise KvfsError(f"{path}: cannot write the log: {error.strerror}", "name another file with --log") from error


def redirect_output(log: int) -> None:
    """Make descriptor ``log`` standard output and error, and /dev/null standard input."""
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(null)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)


def configure_logging(path: Path | None = None, *, verbose: bool = False) -> None:
    """Every record as one line, local time, to standard error or appended to ``path``.

    ``verbose`` adds kvfs's own debug records. KvfsError when ``path`` cannot be written.
    """
    handler = logging.StreamHandler(sys.stderr if path is None else os.fdopen(open_log(path), "a", buffering=1))
    handler.setFormatter(logging.Formatter(_FORMAT, _DATE))
    root = logging.getLogger()
    # replaced, not closed: what a parent process logged to is not this one's to flush
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    if verbose:
        logging.getLogger("kvfs").setLevel(logging.DEBUG)
