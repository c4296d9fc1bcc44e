"""What a kvfs offers is read from its help, whichever way that is laid out."""

from pathlib import Path

import pytest
from benchlib.offer import Offer, offer_of
from benchlib.system import BenchError


def _command(path: Path, said: str) -> Path:
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{said}\nEND\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def enabled(tmp_path: Path) -> Path:
    path = tmp_path / "enable_uring"
    path.write_text("Y\n")
    return path


def test_part_one(tmp_path: Path, enabled: Path) -> None:
    offer = offer_of(_command(tmp_path / "kvfs", "│ --data-path   <pyfuse3>   Who serves. │"), enabled)
    assert offer == Offer(("pyfuse3",), (), False, False, "this kvfs has no --request-loop uring")
    assert offer.options("pyfuse3") == ["--data-path", "pyfuse3"]


def test_all_of_it(tmp_path: Path, enabled: Path) -> None:
    said = "--data-path [native|pyfuse3]\n--request-loop  <clones|uring|auto>\n--passthrough  --no-passthrough"
    _command(tmp_path / "kvfsctl", "")
    offer = offer_of(_command(tmp_path / "kvfs", said), enabled)
    assert offer == Offer(("native", "pyfuse3"), ("clones", "uring", "auto"), True, True, "")
    assert offer.options("native", "clones") == ["--data-path", "native", "--request-loop", "clones"]
    assert offer.options("native", "uring", passthrough=False)[2:] == ["--request-loop", "uring", "--no-passthrough"]
    enabled.write_text("N\n")
    assert offer_of(tmp_path / "kvfs", enabled).ring_problem == f"{enabled} is N: root may write Y there"
    enabled.unlink()
    assert "no FUSE over io_uring" in offer_of(tmp_path / "kvfs", enabled).ring_problem


def test_a_command_without_such_options(tmp_path: Path) -> None:
    assert offer_of(_command(tmp_path / "kvfs", "usage")).options("pyfuse3", passthrough=False) == []
    with pytest.raises(BenchError, match="exit status"):
        offer_of(Path("/bin/false"))
