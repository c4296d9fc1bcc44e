"""vLLM 0.33: the file-system tier of its tiered KV offloading."""

from pathlib import Path
from typing import Any

import pytest
from client_process import Clients
from support.mount import TestMount

pytestmark = pytest.mark.clients

DRIVER = "vllm_fs_tier"


@pytest.mark.parametrize(
    "options",
    [
        {"chunk_bytes": 2 << 20, "chunks": 24},
        {"chunk_bytes": 98 * 57_344, "chunks": 16},
        {"chunk_bytes": 32 << 20, "chunks": 8},
        {"chunk_bytes": 4096, "chunks": 24, "python_io": True},
    ],
    ids=["2MiB", "5.6MB", "32MiB", "4KiB-python"],
)
def test_fs_tier(clients: Clients, kvfs_mount: TestMount, workdir: Path, options: dict[str, Any]) -> None:
    """Stored by many threads, promoted again; after the remount a new engine finds and promotes all of it."""
    stored = clients.run(DRIVER, "store", workdir, **options)
    assert stored["chunks"] == options["chunks"]
    assert stored["odirect"], "vLLM's probe found that O_DIRECT does not work here"
    stored.assert_opened(r"\.bin_\d+\.tmp$", with_flags="O_CREAT O_EXCL O_WRONLY O_TRUNC O_DIRECT")
    stored.assert_opened(r"\.bin$", with_flags="O_RDONLY O_DIRECT")
    kvfs_mount.remount()
    loaded = clients.run(DRIVER, "load", workdir, **options)
    assert loaded["hits"] == options["chunks"]
    assert loaded["odirect"]
    assert len(list(workdir.rglob("*.bin"))) == options["chunks"] + 2
