"""safetensors 0.8: saved to the mount, saved over, loaded through memory mappings."""

from pathlib import Path

import pytest
from client_process import Clients
from support.mount import TestMount

pytestmark = pytest.mark.clients

DRIVER = "safetensors_files"


@pytest.mark.parametrize("framework", ["torch", "numpy"])
def test_save_and_load(clients: Clients, kvfs_mount: TestMount, workdir: Path, framework: str) -> None:
    assert clients.run(DRIVER, "store", workdir, framework=framework)["files"] == 20
    kvfs_mount.remount()
    assert clients.run(DRIVER, "load", workdir, framework=framework)["files"] == 20
