"""NIXL 1.5.1: the POSIX plugin with each kind of queue, buffered and with O_DIRECT."""

from pathlib import Path

import pytest
from client_process import Clients
from support.mount import TestMount

pytestmark = pytest.mark.clients

DRIVER = "nixl_posix"
LOGGED = {"linux_aio": "AIO", "posix_aio": "POSIXAIO", "io_uring": "URING"}


@pytest.mark.parametrize("direct", [False, True], ids=["buffered", "direct"])
@pytest.mark.parametrize("queue", LOGGED)
def test_posix(clients: Clients, kvfs_mount: TestMount, workdir: Path, queue: str, direct: bool) -> None:
    stored = clients.run(DRIVER, "store", workdir, queue=queue, direct=direct)
    assert stored["pages"] == 18
    assert f"POSIX backend initialized using io queue type: {LOGGED[queue]}\n" in stored.output
    flags = (
        {"with_flags": "O_RDWR O_CREAT O_DIRECT"} if direct else {"with_flags": "O_RDWR O_CREAT", "without": "O_DIRECT"}
    )
    stored.assert_opened(r"^(page-\d+|pool)\.bin$", **flags)
    kvfs_mount.remount()
    assert clients.run(DRIVER, "load", workdir, queue=queue, direct=direct)["pages"] == 18
