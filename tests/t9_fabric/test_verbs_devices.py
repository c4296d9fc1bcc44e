"""RDMA devices as a host lists them, and which verbs library it takes; what needs such a kernel runs in the guest."""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from kvfs.cli import fabric_devices
from kvfs.cli.kvfsctl import main
from kvfs.errors import RdmaMissing
from kvfs.fabric.verbs import Device, backend, choose_gid, devices, find_pyverbs


def test_no_rdma_in_the_kernel_is_no_device(tmp_path: Path) -> None:
    assert devices.list_devices(root=tmp_path / "absent") == []
    assert devices.list_devices(root=tmp_path) == []


def test_the_command_says_so_plainly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(devices, "SYSFS", tmp_path)
    for arguments, holds in (([], "no RDMA device: this kernel has no RDMA"), (["--json"], '"devices": []')):
        monkeypatch.setattr(sys, "argv", ["kvfsctl", "fabric", "devices", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
        assert holds in capsys.readouterr().out


_GIDS = {
    "0": ("fe80:0000:0000:0000:0e42:a1ff:fe46:3f3c", "IB/RoCE v1"),
    "1": ("fe80:0000:0000:0000:0e42:a1ff:fe46:3f3c", "RoCE v2"),
    "2": ("0000:0000:0000:0000:0000:ffff:0a00:0001", "IB/RoCE v1"),
    "3": ("0000:0000:0000:0000:0000:ffff:0a00:0001", "RoCE v2"),
    "4": ("0000:0000:0000:0000:0000:0000:0000:0000", ""),
    "10": ("2001:0db8:0000:0000:0000:0000:0000:0001", "RoCE v2"),
}


def _make_device(root: Path, name: str, layer: str, state: str, lid: str, gids: dict[str, tuple[str, str]]) -> None:
    port = root / name / "ports/1"
    for folder in ("gids", "gid_attrs/types", "gid_attrs/ndevs"):
        (port / folder).mkdir(parents=True)
    (root / name / "node_guid").write_text("0c42:a103:0046:3f3c\n")
    for attribute, text in {
        "rate": "100 Gb/sec (4X EDR)",
        "link_layer": layer,
        "state": state,
        "phys_state": "5: LinkUp",
        "lid": lid,
    }.items():
        (port / attribute).write_text(text + "\n")
    for index, (gid, kind) in gids.items():
        (port / "gids" / index).write_text(gid + "\n")
        if kind:
            (port / "gid_attrs/types" / index).write_text(kind + "\n")
            (port / "gid_attrs/ndevs" / index).write_text("eth0\n")


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> backend.Backend:
        raise ImportError(f"no {name} here")

    monkeypatch.setattr(backend, "_load", fail)


@pytest.mark.usefixtures("no_library")
def test_links_and_addresses_are_seen_without_any_library(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _make_device(tmp_path, "mlx5_0", "Ethernet", "4: ACTIVE", "0x0", _GIDS)
    _make_device(
        tmp_path, "mlx5_1", "InfiniBand", "1: DOWN", "0x17", {"0": ("fe80:0000:0000:0000:0002:c903:00ef:5ea1", "")}
    )
    roce, infiniband = devices.list_devices(root=tmp_path)
    (port,) = roce.ports
    assert (port.link_layer, port.state, port.rate, port.width_and_speed) == ("Ethernet", "ACTIVE", 100.0, "4X EDR")
    assert [gid.index for gid in port.gids] == [0, 1, 2, 3, 10]
    chosen = choose_gid(port)
    assert chosen is not None
    assert (chosen.index, chosen.address, chosen.kind) == (3, "::ffff:10.0.0.1", "RoCE v2")
    assert chosen.raw == bytes(10) + b"\xff\xff\x0a\x00\x00\x01"
    assert roce.limits is None
    assert roce.has_dmabuf is None
    assert "no pyverbs here" in roce.problem
    assert "python3-pyverbs" in roce.problem
    (port,) = infiniband.ports
    assert (port.link_layer, port.state, port.lid) == ("InfiniBand", "DOWN", 0x17)
    assert [gid.kind for gid in port.gids] == ["IB"]

    fabric_devices.print_devices([roce, infiniband])
    shown = capsys.readouterr().out
    for words in ("mlx5_0", "RoCE v2", "10.0.0.1", "mlx5_1", "InfiniBand", "DOWN", "no verbs library"):
        assert words in shown
    assert fabric_devices.describe(roce) == "mlx5_0 (RoCE v2, 100 Gbit/s, ACTIVE)"
    assert fabric_devices.describe(Device("x", (), None, "", None)) == "x (no port)"


@pytest.mark.parametrize(
    ("indexes", "expected"),
    [(("0", "1"), 1), (("0", "1", "10"), 10), (("0", "2"), 0), (("1", "3", "10"), 3), ((), None)],
)
def test_the_address_that_reaches_farthest_is_chosen(
    indexes: tuple[str, ...], expected: int | None, tmp_path: Path
) -> None:
    _make_device(tmp_path, "d", "Ethernet", "4: ACTIVE", "0x0", {index: _GIDS[index] for index in indexes})
    chosen = choose_gid(devices.read_port(tmp_path / "d/ports/1"))
    assert (chosen.index if chosen else None) == expected


def test_a_table_of_addresses_may_have_gaps_and_is_not_read_to_its_end(tmp_path: Path) -> None:
    nothing = ("0000:0000:0000:0000:0000:0000:0000:0000", "")
    gids = {str(index): nothing for index in range(300)}
    _make_device(tmp_path, "d", "Ethernet", "4: ACTIVE", "0x0", gids | dict.fromkeys(("2", "60", "250"), _GIDS["3"]))
    assert [gid.index for gid in devices.read_port(tmp_path / "d/ports/1").gids] == [2, 60]


@pytest.mark.usefixtures("no_library")
def test_without_a_library_both_reasons_and_the_way_out_are_said() -> None:
    with pytest.raises(RdmaMissing) as failed:
        backend.choose_backend()
    for words in ("no pyverbs here", "no ibverbs here", "python3-pyverbs", "kvfs[rdma]"):
        assert words in str(failed.value)


def test_an_unknown_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVFS_VERBS", "libfabric")
    with pytest.raises(RdmaMissing, match="expected one of pyverbs, ibverbs, found 'libfabric'"):
        backend.choose_backend()


# Imports are tried in processes of their own: extension modules cannot be loaded twice.
_PROGRAM = """
import json, sys
from pathlib import Path
from kvfs.fabric.verbs.find_pyverbs import import_pyverbs
try:
    modules = import_pyverbs([Path(place) for place in sys.argv[1:]])
    print(json.dumps({name: module.__file__ for name, module in modules.items()}))
except ImportError as error:
    print(json.dumps(str(error)))
assert "apt_pkg" not in sys.modules
print(json.dumps(sorted(name for name in sys.modules if name.startswith("pyverbs"))))
"""


def _try_import(*places: Path) -> tuple[dict[str, str] | str, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *map(str, places)], capture_output=True, text=True, timeout=60, check=True
    )
    said, loaded = done.stdout.splitlines()
    return json.loads(said), json.loads(loaded)


def _make_pyverbs(place: Path, suffix: str, text: str) -> None:
    (place / "pyverbs").mkdir(parents=True)
    (place / "pyverbs/__init__.py").write_text(text)
    (place / f"pyverbs/device{suffix}").write_bytes(b"")


def test_pyverbs_for_another_python_is_not_touched(tmp_path: Path) -> None:
    _make_pyverbs(tmp_path, ".cpython-27-x86_64-linux-gnu.so", "raise SystemExit('imported')")
    said, loaded = _try_import(tmp_path)
    assert "is for another Python" in said
    assert loaded == []


def test_a_pyverbs_that_does_not_load_is_forgotten_and_the_next_is_tried(tmp_path: Path) -> None:
    suffix = str(sysconfig.get_config_var("EXT_SUFFIX"))
    _make_pyverbs(tmp_path, suffix, "")  # the other modules are missing
    said, loaded = _try_import(tmp_path)
    assert "pyverbs.addr" in said
    assert loaded == []
    place = Path("/usr/lib/python3/dist-packages")
    if not (place / f"pyverbs/device{suffix}").exists():
        pytest.skip("NOT TESTED: that the next is tried: no python3-pyverbs for this Python")
    said, loaded = _try_import(tmp_path, place)
    assert isinstance(said, dict), said
    assert said["device"] == str(place / f"pyverbs/device{suffix}")
    assert "pyverbs.qp" in loaded


def test_folders_are_of_this_python() -> None:
    assert Path("/usr/lib/python3/dist-packages") in find_pyverbs.folders()
