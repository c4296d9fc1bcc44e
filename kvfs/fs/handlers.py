"""What stands between pyfuse3 and every request handler: counting, and errors as errnos.

pyfuse3 takes ``FUSEError`` for an answer and anything else for the end of the mount, leaving the client without
a reply. So every handler is wrapped: ``OSError`` becomes its errno; another exception is a bug, is logged with its
traceback, and becomes EIO.

DESIGN 8.9 gives names colours: a handler that never waits is written as a plain method (``immediate``),
one that may wait for the device as a coroutine (``waiting``). For pyfuse3 both are coroutines.
"""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from errno import EIO
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from pyfuse3 import FUSEError

log = logging.getLogger(__name__)


class Counting(Protocol):
    """``requests``, ``errors``: by handler name; errors counts bugs and failed I/O (EIO), not refusals."""

    requests: Counter[str]
    errors: Counter[str]


S = TypeVar("S", bound=Counting)
P = ParamSpec("P")
R = TypeVar("R")


def immediate(function: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """Make a method that never waits a request handler."""
    name = function.__name__

    @wraps(function)
    async def handler(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        self.requests[name] += 1
        try:
            return function(self, *args, **kwargs)
        except FUSEError:
            raise
        except Exception as error:
            raise _answer(self, name, error) from error

    return handler


def waiting(
    function: Callable[Concatenate[S, P], Awaitable[R]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """Make a coroutine method a request handler."""
    name = function.__name__

    @wraps(function)
    async def handler(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        self.requests[name] += 1
        try:
            return await function(self, *args, **kwargs)
        except FUSEError:
            raise
        except Exception as error:
            raise _answer(self, name, error) from error

    return handler


def _answer(self: Counting, name: str, error: Exception) -> FUSEError:
    if isinstance(error, OSError) and error.errno:
        code = error.errno
    else:
        code = EIO
        log.error("%s failed unexpectedly", name, exc_info=error)
    if code == EIO:
        self.errors[name] += 1
    return FUSEError(code)
