"""``health`` and ``recover``: what ``kvfsctl recover`` asks of a mount by ``.kvfs/admin``.

A failed write of metadata turns a store read-only (``native/store/health.hpp``). ``recover`` only begins to bring it
back, as the device may take its time; ``health`` says how that goes. A store that another host has taken stays so.
"""

import errno
from typing import Any

from kvfs._native import Store
from kvfs.errors import VolumeOwned
from kvfs.fs.admin import AdminFile, Command


def add_health_commands(admin: AdminFile, store: Store) -> None:
    async def health(_: Command) -> dict[str, Any]:
        return store.health()

    async def recover(command: Command) -> dict[str, Any]:
        found = store.health()
        if found["state"] == "fenced":
            raise VolumeOwned(f"{found['reason']}: there is no way back for this mount", "unmount it")
        try:
            store.recover()
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EALREADY):  # well already, or at it already
                raise
        return await health(command)

    admin.add("health", Command, health)
    admin.add("recover", Command, recover)
