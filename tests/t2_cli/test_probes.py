"""``kvfsctl doctor``: every probe answers, whatever the machine has, and knows a way out."""

import errno
import json
import os
from pathlib import Path

import pytest
from place import Place

from kvfs.cli import doctor
from kvfs.cli.probes import devices, fuse, host, io, native, system
from kvfs.cli.probes.finding import Finding, State


def test_every_feature_is_found_once_and_explained() -> None:
    findings = [finding for area in doctor.diagnose().areas.values() for finding in area]
    names = [finding.feature for finding in findings]
    assert len(names) >= 20
    assert len(set(names)) == len(names)
    for finding in findings:
        assert finding.found, finding
        assert finding.purpose, finding
        assert finding.remedy or finding.state in (State.OK, State.UNKNOWN), finding
        assert "\n" not in finding.found + finding.remedy, finding


def test_json_is_what_the_table_says(place: Place) -> None:
    done = place.run("kvfsctl", "doctor", "--json")
    report = json.loads(done.output)
    assert done.status == (0 if report["able"] else 1)
    table = place.run("kvfsctl", "doctor")
    assert table.status == done.status
    for feature in report["features"]:
        assert feature["state"] in {*State}
        assert feature["feature"] in table.output


def test_what_is_required_and_missing_makes_it_fail() -> None:
    def finding(state: State, required: bool) -> Finding:
        return Finding("x", state, "f", "p", "r", required)

    assert not doctor.Diagnosis({"a": (finding(State.MISSING, True),)}).is_able
    assert doctor.Diagnosis({"a": (finding(State.MISSING, False), finding(State.LIMITED, True))}).is_able


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (errno.ENOENT, "modprobe fuse"),
        (errno.EACCES, "chmod 666"),
        (errno.EPERM, "--device /dev/fuse"),
        (errno.EIO, "log"),
    ],
)
def test_each_way_of_lacking_fuse_has_its_remedy(code: int, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", refuse)
    found = fuse.device()
    assert found.state is State.MISSING
    assert found.required
    assert says in found.remedy


def test_fusermount_has_to_be_root_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "install the package fuse3" in fuse.fusermount().remedy
    program = tmp_path / "fusermount3"
    program.touch(mode=0o755)
    assert "chmod u+s" in fuse.fusermount().remedy


@pytest.mark.parametrize(
    ("version", "option", "rights", "state"),
    [
        ((6, 8), "y", True, State.MISSING),
        ((6, 9), "n", True, State.MISSING),
        ((6, 9), "y", False, State.LIMITED),
        ((6, 9), "y", True, State.OK),
        ((7, 0), None, True, State.OK),
    ],
)
def test_passthrough_depends_on_kernel_configuration_and_rights(
    version: tuple[int, int], option: str | None, rights: bool, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuse, "kernel_version", lambda: version)
    monkeypatch.setattr(fuse, "kernel_option", lambda _: option)
    monkeypatch.setattr(fuse, "has_capability", lambda _: rights)
    assert fuse.passthrough().state is state


@pytest.mark.parametrize(
    ("parameter", "disabled", "version", "options", "state", "says"),
    [
        (None, None, (6, 13), {}, State.MISSING, "6.14"),
        (None, None, (6, 14), {"FUSE_IO_URING": "n"}, State.MISSING, "CONFIG_FUSE_IO_URING=y"),
        (None, None, (6, 14), {"FUSE_IO_URING": "y"}, State.UNKNOWN, "modprobe fuse"),
        ("N", "0", (6, 14), {"FUSE_FS": "m"}, State.MISSING, "options fuse enable_uring=1"),
        ("N", "0", (6, 14), {"FUSE_FS": "y"}, State.MISSING, "fuse.enable_uring=1"),
        ("Y", "2", (6, 14), {}, State.MISSING, "io_uring_disabled=0"),
        ("Y", "0", (6, 14), {}, State.OK, ""),
        ("Y", None, (6, 14), {}, State.OK, ""),
    ],
)
def test_rings_depend_on_kernel_parameter_and_sysctl(
    parameter: str | None,
    disabled: str | None,
    version: tuple[int, int],
    options: dict[str, str],
    state: State,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = {"/sys/module/fuse/parameters/enable_uring": parameter, "/proc/sys/kernel/io_uring_disabled": disabled}
    monkeypatch.setattr(fuse, "read", texts.get)
    monkeypatch.setattr(fuse, "kernel_version", lambda: version)
    monkeypatch.setattr(fuse, "kernel_option", options.get)
    found = fuse.over_io_uring()
    assert found.state is state
    assert says in found.remedy


def test_the_ring_is_really_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """With no descriptors left a ring cannot be had, and the probe says so instead of failing."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        found = io.io_uring()
        buffers = io.registered_buffers()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found.state is State.MISSING
    assert os.strerror(errno.EMFILE) in found.found
    assert buffers.state is State.UNKNOWN


def test_direct_io_is_tried_where_the_default_store_would_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(io.paths, "data_directory", lambda: tmp_path / "not" / "yet")
    assert str(tmp_path) in io.direct_io().found
    assert io.hole_punching().state in (State.OK, State.MISSING)
    assert list(tmp_path.iterdir()) == []


def test_native_probes_survive_a_module_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise ImportError("liburing.so.2: cannot open shared object file")

    monkeypatch.setattr(native, "import_module", refuse)
    module, *others = (probe() for probe in native.PROBES)
    assert (module.state, module.required) == (State.MISSING, True)
    assert "liburing.so.2" in module.found
    assert all(other.state is State.UNKNOWN for other in others)


def test_kernel_modules_by_state() -> None:
    assert system.module_state("no_such_module") == "absent"
    assert devices.nvme_tcp().state in (State.OK, State.MISSING)


def test_capabilities_are_this_process_s() -> None:
    if os.geteuid() == 0:
        assert system.has_capability(0)  # CAP_CHOWN, which every container leaves to root
    assert not system.has_capability(63)


@pytest.mark.parametrize(
    ("is_root", "shared", "state", "says"),
    [
        (True, "always within_size advise [never] deny force", State.OK, "tmpfs"),
        (False, "always within_size [advise] never deny force", State.OK, "memfds (advise)"),
        (False, "always within_size advise [never] deny force", State.LIMITED, "small folios"),
        (True, "always within_size advise never [deny] force", State.LIMITED, "deny"),
        (True, None, State.LIMITED, "not supported"),
    ],
)
def test_memory_for_warm_pages(
    is_root: bool, shared: str | None, state: State, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "has_capability", lambda _: is_root)
    monkeypatch.setattr(host, "read", lambda _: shared)
    finding = host.warm_memory()
    assert finding.state is state
    assert says in finding.found
    assert bool(finding.remedy) == (state is not State.OK)
