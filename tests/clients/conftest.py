"""Real clients in a subprocess each: their environment, their drivers, and what they opened how.

The clients live in an environment of their own, which ``tools/clients-env`` makes: ``.clients`` at the top of the
checkout, or the directory that ``KVFS_CLIENTS_ENV`` names. Without it these tests are skipped, and fail where
``KVFS_CI=1`` says that nothing may be left out.
"""

import os
from pathlib import Path

import pytest
from client_process import Clients

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Clients:
    environment = Path(os.environ.get("KVFS_CLIENTS_ENV", CHECKOUT / ".clients"))
    if not (environment / "stamp").is_file():
        message = f"no clients' environment in {environment}: run tools/clients-env {environment}"
        if os.environ.get("KVFS_CI") == "1":
            pytest.fail(message, pytrace=False)
        pytest.skip(f"NOT TESTED: {message}")
    return Clients(environment, tmp_path_factory.mktemp("clients-home"))
