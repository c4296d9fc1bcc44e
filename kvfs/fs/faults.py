"""Faults on request, for tests: commands of ``.kvfs/admin`` that a mount has only with ``--inject-faults``.

WHY by the running mount and not by an environment variable that lists them: a test has to choose the moment. WHY
nobody gets there by accident: the option is hidden, the daemon's log says so, ``kvfsctl status`` shows it among the
mount's options, and without it neither the commands nor the tap exist.
"""

import errno
import logging
from typing import Any

from kvfs._native import FaultInjector
from kvfs.fs.admin import AdminFile, Command

log = logging.getLogger(__name__)


class AddFault(Command, frozen=True):
    """``kinds``: read, write, sync, punch. ``effect``: error, short, delay or hang; ``error``: an errno's name.

    ``offset`` to ``end``: bytes of the device (``end`` 0: to its end). ``count``: requests, None: all; ``skip`` first.
    """

    kinds: list[str]
    effect: str
    error: str = "EIO"
    seconds: float = 0
    offset: int = 0
    end: int = 0
    count: int | None = None
    skip: int = 0
    probability: float = 1


def add_fault_commands(admin: AdminFile, injector: FaultInjector) -> None:
    """``fault-add`` answers with the rule's id, ``fault-clear`` takes all away, ``fault-list`` says what they hit."""
    log.info("faults can be injected into this mount (--inject-faults): it is for tests only")

    async def add(rule: AddFault) -> int:
        code = getattr(errno, rule.error, None)
        if not isinstance(code, int):
            raise OSError(errno.EINVAL, f"expected the name of an errno, found {rule.error!r}")
        try:
            return injector.add(
                rule.kinds,
                rule.effect,
                error=code,
                seconds=rule.seconds,
                offset=rule.offset,
                end=rule.end,
                count=rule.count,
                skip=rule.skip,
                probability=rule.probability,
            )
        except ValueError as error:
            raise OSError(errno.EINVAL, str(error)) from error

    async def clear(_: Command) -> None:
        injector.clear()

    async def show(_: Command) -> dict[str, Any]:
        return injector.statistics()

    admin.add("fault-add", AddFault, add)
    admin.add("fault-clear", Command, clear)
    admin.add("fault-list", Command, show)
