"""The clients' tests on a namespace, over each transport: those by their signature, which need nothing but the mount.

The engines themselves take minutes to be imported in an emulated guest.
"""

from collections.abc import Iterator

import pytest
from support.device_mount import device_mount
from support.mount import TestMount
from support.nvme_host import connect
from support.nvmet import SERVICE, Nvmet, discard, disconnect_all, nvme_drives
from test_signatures import (
    test_aibrix,
    test_dynamo_kvbm,
    test_llmd_evictor,
    test_llmd_write_and_tail_read,
    test_lmcache_gds,
    test_pool_file,
    test_ucm,
    test_vllm_disk_backend,
)

__all__ = [
    "test_aibrix",
    "test_dynamo_kvbm",
    "test_llmd_evictor",
    "test_llmd_write_and_tail_read",
    "test_lmcache_gds",
    "test_pool_file",
    "test_ucm",
    "test_vllm_disk_backend",
]

pytestmark = [pytest.mark.guest, pytest.mark.ci]


@pytest.fixture(scope="module", params=["tcp", "rdma"])
def kvfs_mount(request: pytest.FixtureRequest) -> Iterator[TestMount]:
    """One mount for all of them: of an empty store on the first drive."""
    address = "127.0.0.1" if request.param == "tcp" else request.getfixturevalue("rdma_address")
    drives = nvme_drives()[:1]
    discard(drives[0])
    with Nvmet() as nvmet:
        target = nvmet.port(request.param, address, SERVICE).expose(
            nvmet.subsystem("nqn.2026-11.test.kvfs:clients", drives)
        )
        with device_mount(connect(target)) as mount:
            yield mount
        disconnect_all()
