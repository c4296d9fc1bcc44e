"""SGLang 0.5.23: the HiCacheFile storage backend, without limits and with its own LRU."""

from pathlib import Path
from typing import Any

import pytest
from client_process import Clients
from support.mount import TestMount

pytestmark = pytest.mark.clients

DRIVER = "sglang_hicache_file"
SHAPES = {
    "2MiB": {"model": "llama-8b", "page_tokens": 16},
    "5.6MB-metadata-cache": {"model": "qwen-7b", "page_tokens": 98, "metadata_cache": True},
    "32MiB": {"model": "llama-8b", "page_tokens": 256},
    "22KiB": {"model": "smol-135m", "page_tokens": 1},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_hicache_file(clients: Clients, kvfs_mount: TestMount, workdir: Path, shape: dict[str, Any]) -> None:
    stored = clients.run(DRIVER, "store", workdir, **shape)
    assert stored["pages"] == 8
    assert sum(path.stat().st_size for path in workdir.iterdir()) == stored["bytes"]
    stored.assert_opened(r"^\.[0-9a-f]{32}\.tmp$", with_flags="O_CREAT O_TRUNC", without="O_DIRECT")
    stored.assert_opened(r"\.bin$", with_flags="O_RDONLY", without="O_DIRECT")
    kvfs_mount.remount()
    assert clients.run(DRIVER, "load", workdir, **shape)["hits"] == 8
    assert list(workdir.iterdir()) == []


def test_lru(clients: Clients, kvfs_mount: TestMount, workdir: Path) -> None:
    """Limits by size and by free space; after the remount SGLang takes the age of each file from its mtime."""
    shape = SHAPES["2MiB"]
    assert clients.run(DRIVER, "lru_store", workdir, **shape)["kept"] == 5
    kvfs_mount.remount()
    assert clients.run(DRIVER, "lru_load", workdir, **shape)["kept"] == 4
