"""LMCache 0.5.6: the LocalDisk backend, the FS connector and the NIXL backend, buffered and with O_DIRECT."""

from pathlib import Path
from typing import Any

import pytest
from client_process import Clients
from support.mount import TestMount

pytestmark = pytest.mark.clients

DRIVER = "lmcache_storage"
# a chunk of 16 tokens of an 8B model is 2 MiB, of 256 tokens 32 MiB; 98 tokens of Qwen2.5-7B are 5.6 MB;
# 101 tokens of SmolLM are no multiple of 4 KiB: with O_DIRECT asked for, LMCache writes such a chunk buffered
SMALL = {"model": "llama-8b", "chunk_size": 16}
MIDDLE = {"model": "qwen-7b", "chunk_size": 98}
LARGE = {"model": "llama-8b", "chunk_size": 256}
ODD = {"model": "smol-135m", "chunk_size": 101}


@pytest.mark.parametrize(
    ("shape", "odirect"),
    [(SMALL, False), (MIDDLE, True), (LARGE, True), (ODD, True)],
    ids=["2MiB-buffered", "5.6MB-direct", "32MiB-direct", "odd-direct"],
)
def test_local_disk(
    clients: Clients, kvfs_mount: TestMount, workdir: Path, shape: dict[str, Any], odirect: bool
) -> None:
    """Its index is in RAM: after the remount a new process stores over the files that are there."""
    options = {"backend": "disk", "odirect": odirect, **shape}
    stored = clients.run(DRIVER, "store", workdir, **options)
    assert stored["chunks"] == 8
    assert stored["odirect"] == odirect
    assert stored["block_size"] == 4096, "LMCache takes f_bsize for its O_DIRECT alignment"
    direct = "O_DIRECT" if odirect and shape is not ODD else ""
    stored.assert_opened(
        r"\.pt$", with_flags=f"O_CREAT {direct}", without="" if direct else "O_DIRECT", access="O_WRONLY"
    )
    stored.assert_opened(r"\.pt$", with_flags=direct, without="" if direct else "O_DIRECT", access="O_RDONLY")
    kvfs_mount.remount()
    assert clients.run(DRIVER, "load", workdir, **options)["hits"] == 0
    assert list(workdir.iterdir()) == []


@pytest.mark.parametrize(
    "options",
    [
        {**SMALL, "chunk_meta": True},
        {**SMALL, "tmp_dir": "tmp"},
        {**MIDDLE, "odirect": True},
        {**LARGE, "odirect": True, "tmp_dir": "tmp"},
        {**ODD, "read_ahead": 4096},
        {**ODD, "odirect": True},
    ],
    ids=["2MiB-header", "2MiB-tmpdir", "5.6MB-direct", "32MiB-direct-tmpdir", "odd-readahead", "odd-direct"],
)
def test_fs_connector(clients: Clients, kvfs_mount: TestMount, workdir: Path, options: dict[str, Any]) -> None:
    """Its index is the directory: after the remount a new process finds and reads every chunk."""
    options = {"backend": "fs", **options}
    odirect = bool(options.get("odirect"))
    stored = clients.run(DRIVER, "store", workdir, **options)
    assert stored["chunks"] == 8
    assert stored["odirect"] == odirect
    temporary = "^tmp/" if "tmp_dir" in options else r"\.tmp$"
    direct = "O_DIRECT" if odirect and options["model"] != ODD["model"] else ""
    stored.assert_opened(temporary, with_flags=direct, without="" if direct else "O_DIRECT", access="O_WRONLY")
    stored.assert_opened(r"\.data$", with_flags=direct, without="" if direct else "O_DIRECT", access="O_RDONLY")
    kvfs_mount.remount()
    assert clients.run(DRIVER, "load", workdir, **options)["hits"] == 8
    assert [path for path in workdir.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(("shape", "odirect"), [(SMALL, False), (MIDDLE, True)], ids=["2MiB-buffered", "5.6MB-direct"])
def test_nixl_storage(
    clients: Clients, kvfs_mount: TestMount, workdir: Path, shape: dict[str, Any], odirect: bool
) -> None:
    """NIXL's POSIX plugin as LMCache uses it: written in place, so the name is there before the bytes are."""
    options = {"backend": "nixl", "odirect": odirect, **shape}
    stored = clients.run(DRIVER, "store", workdir, **options)
    assert stored["chunks"] == 8
    assert stored["odirect"] == odirect
    direct = "O_DIRECT" if odirect else ""
    stored.assert_opened(
        "bfloat16", with_flags=f"O_CREAT {direct}", without="" if direct else "O_DIRECT", access="O_RDWR"
    )
    stored.assert_opened("bfloat16", with_flags=direct, without="" if direct else "O_DIRECT", access="O_RDONLY")
    kvfs_mount.remount()
    assert clients.run(DRIVER, "load", workdir, **options)["hits"] == 8
    assert [path for path in workdir.rglob("*") if path.is_file()] == []
