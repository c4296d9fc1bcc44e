"""nvme-cli's output and its failures, from recorded data (``support.nvme_cli_output``), and with stand-ins for it."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support import nvme_cli_output as output

from kvfs.errors import FabricError, NamespaceVanished, TimedOut, ToolMissing
from kvfs.fabric.nvme import bounded, identify_controller, nvme_cli, smart_log
from kvfs.fabric.nvme.identify import parse_controller, parse_namespace, parse_reservations, parse_smart_log

Install = Callable[[str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a shell script in the place of nvme-cli; before that there is none."""
    monkeypatch.setattr(bounded, "_PATH", str(tmp_path))

    def put(script: str) -> None:
        tool = tmp_path / "nvme"
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)

    return put


def test_controller() -> None:
    found = parse_controller(json.loads(output.CONTROLLER))
    assert (found.model, found.nqn, found.cntlid) == ("Linux", "nqn.2026-11.test:rec", 1)
    assert found.has_reservations
    assert found.keep_alive_granularity_ms == 1000
    assert found.raw["sgls"] == 1048577


def test_namespace() -> None:
    found = parse_namespace(json.loads(output.NAMESPACE))
    assert (found.size, found.capacity, found.used, found.lba_size) == (64 << 20, 64 << 20, 64 << 20, 512)
    assert not found.is_thin
    assert found.reservations == 254


def test_smart() -> None:
    found = parse_smart_log(json.loads(output.SMART_OF_A_DRIVE))
    assert (found.critical_warning, found.temperature_kelvin, found.data_units_read) == (0, 323, 1)
    later = parse_smart_log(json.loads(output.LATER_SMART))
    assert (later.critical_warning, later.percentage_used, later.data_units_read) == (5, 101, 1 << 64)


def test_reservations() -> None:
    found = parse_reservations(json.loads(output.RESERVATIONS))
    assert (found.type, found.generation, found.persists_through_power_loss) == (1, 1, False)
    (registrant,) = found.registrants
    assert (registrant.hostid, registrant.key, registrant.is_holder) == (
        "11111111222233334444555555555555",
        0xABC,
        True,
    )
    later = parse_reservations(json.loads(output.LATER_RESERVATIONS))
    assert [each.is_holder for each in later.registrants] == [True, False]
    assert [each.key for each in later.registrants] == [10, (1 << 64) - 1]
    assert later.registrants[1].hostid == "aaaaaaaa222233334444555555555555"
    short = parse_reservations(json.loads(output.LATER_RESERVATIONS_SHORT))
    assert [each.hostid for each in short.registrants] == ["00000000000000ff"]


@pytest.mark.parametrize("wrong", ["[]", "{}", '{"gen":1,"rtype":0,"ptpls":0,"regctlext":[{}]}', '{"gen":"x"}', "3"])
def test_other_json_is_refused(wrong: str) -> None:
    for parse in (parse_controller, parse_namespace, parse_smart_log, parse_reservations):
        with pytest.raises(FabricError, match=r"^nvme [a-z-]+: "):
            parse(json.loads(wrong))


def _says(install: Install, text: str, status: int, *, on: str = "stderr") -> None:
    stream = ">&2" if on == "stderr" else ""
    install(f"cat {stream} <<'END'\n{text}\nEND\nexit {status}")


def test_recorded_failures(install: Install) -> None:
    _says(install, output.NO_DEVICE, 1)
    with pytest.raises(NamespaceVanished, match=r"^/dev/nvme1n1: no such device; "):
        smart_log(Path("/dev/nvme1n1"))
    _says(install, output.NO_NVME, 1)
    with pytest.raises(FabricError, match=r"^/dev/null: expected an NVMe device"):
        smart_log(Path("/dev/null"))
    _says(install, output.NO_RESERVATIONS, 1)
    with pytest.raises(FabricError, match=r"^/dev/null: smart-log: Invalid Command Opcode"):
        smart_log(Path("/dev/null"))
    _says(install, output.NO_RESERVATIONS, 0)  # some commands of 2.3 end so
    with pytest.raises(FabricError, match="Invalid Command Opcode"):
        smart_log(Path("/dev/null"))
    _says(install, output.LATER_ERROR, 1, on="stdout")
    with pytest.raises(FabricError, match=r"^/dev/null: not permitted; run this as root"):
        smart_log(Path("/dev/null"))


def test_no_nvme_cli(install: Install) -> None:
    with pytest.raises(ToolMissing, match=r"^nvme: not found; install the package nvme-cli$"):
        identify_controller(Path("/dev/null"))


def test_what_prints_no_json_is_too_old(install: Install) -> None:
    install("echo Smart Log for NVME device")
    with pytest.raises(ToolMissing, match=r"expected JSON, found 'Smart Log.*2\.3 or later"):
        smart_log(Path("/dev/null"))


def test_a_hung_nvme_cli_is_killed(install: Install) -> None:
    install("exec sleep 1000")
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    before = children.read_text()
    with pytest.raises(TimedOut, match=r"^nvme id-ctrl: no end within 0\.3 s; "):
        nvme_cli.run_json(["id-ctrl"], Path("/dev/null"), 0.3)
    assert children.read_text() == before


def test_version(install: Install) -> None:
    install("echo 'nvme version 2.3 (git 2.3)'; echo 'libnvme version 1.3 (git 1.3)'")
    assert nvme_cli.version() == (2, 3)
    install("echo 'nvme version 3.0-rc.1 (git 3.0)'")
    assert nvme_cli.version() == (3, 0)
