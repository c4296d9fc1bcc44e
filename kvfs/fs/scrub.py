"""The ``scrub`` command of ``.kvfs/admin``: reading everything to find damage early, by ``native/store/scrub.hpp``.

::

    {"command": "scrub", "action": "start", "rate": 200000000}

Every action is answered with the status after it (``kvfs._native.scrub_status``).
"""

from typing import Annotated, Any, Literal

import msgspec
import trio

from kvfs._native import Store, scrub_cancel, scrub_pause, scrub_start, scrub_status
from kvfs.fs.admin import AdminFile, Command

Action = Literal["start", "pause", "cancel", "status"]


class ScrubCommand(Command, frozen=True):
    """``rate``: bytes a second at most, 0: unlimited; of ``start`` only."""

    action: Action
    rate: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)] = 0


def add_scrub(admin: AdminFile, store: Store) -> None:
    async def scrub(command: ScrubCommand) -> dict[str, Any]:
        match command.action:
            case "start":
                scrub_start(store, command.rate)
            case "pause":
                await trio.to_thread.run_sync(scrub_pause, store)
            case "cancel":
                await trio.to_thread.run_sync(scrub_cancel, store)
            case "status":
                pass
        return scrub_status(store)

    admin.add("scrub", ScrubCommand, scrub)
