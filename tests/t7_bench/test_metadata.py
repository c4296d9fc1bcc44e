"""The native clients of metadata calls, against a plain directory."""

import os
from pathlib import Path

import numpy as np
import pytest
from benchlib import pattern
from benchlib.metadata import MetadataClient
from benchlib.system import BenchError
from benchlib.workloads import FileSet

_FILES = FileSet(first_id=70, count=200, size=4096)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> MetadataClient:
    return MetadataClient(tmp_path_factory.mktemp("client"))


def test_each_file_is_published_once_with_its_own_bytes(client: MetadataClient, tmp_path: Path) -> None:
    measured = client.publish(tmp_path, _FILES, 4)
    assert measured.units == measured.latency.samples == _FILES.count
    assert measured.seconds > 0
    paths = _FILES.paths_in(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(Path(path).name for path in paths)
    for file_id, path in zip(_FILES.ids, paths, strict=True):
        pattern.check_all(pattern.as_blocks(Path(path).read_bytes()), file_id, 0)
    with pytest.raises(BenchError, match=r"\.tmp: open: No such file or directory"):
        client.publish(tmp_path / "absent", _FILES, 2)


def test_absent_names_are_absent(client: MetadataClient, tmp_path: Path) -> None:
    names = [str(tmp_path / f"{number}") for number in range(50)]
    assert client.look_up_absent(names).units == 50
    assert client.look_up_absent([""] * 20).latency.samples == 20
    Path(names[30]).touch()
    with pytest.raises(BenchError, match=f"{names[30]}: expected no such file"):
        client.look_up_absent(names)


def test_samples_are_nanoseconds(client: MetadataClient, tmp_path: Path) -> None:
    measured = client.look_up_absent([str(tmp_path / "none")] * 1000)
    assert 0 < int(np.dot(measured.latency.ns, measured.latency.counts)) <= measured.seconds * 1e9
