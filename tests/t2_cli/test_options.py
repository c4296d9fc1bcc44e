"""``-o``, and what the command line makes of it."""

import os
from pathlib import Path

import pytest

from kvfs import paths
from kvfs.cli import plan as planning
from kvfs.cli.options import FstabOptions, parse_options
from kvfs.cli.plan import MountRequest
from kvfs.cli.settings import MountSettings
from kvfs.errors import UsageError


def plan(names: list[str], fstab: FstabOptions, *given: MountSettings, foreground: bool = False) -> MountRequest:
    return planning.plan(names, fstab, *given, foreground=foreground).request


def test_options_of_fstab() -> None:
    assert parse_options(["ro,size=64G", "allow_other,log=/l,nosuid,config=/c"]) == FstabOptions(
        MountSettings(read_only=True, allow_other=True, size=64 << 30, log=Path("/l")),
        extra=("nosuid",),
        config=Path("/c"),
    )


def test_options_of_the_fabric() -> None:
    found = parse_options(["nr_io_queues=4,ctrl_loss_tmo=10m,tls=true,dhchap_secret_file=/k"])
    assert found.fabric == {
        "nr_io_queues": 4,
        "ctrl_loss_tmo": 600,
        "tls": True,
        "dhchap_secret_file": Path("/k"),
    }


def test_what_is_for_others_is_accepted() -> None:
    text = "defaults,auto,noauto,nofail,_netdev,user,x-systemd.automount,x-foo=1,X-bar,default_permissions,,comment=a"
    assert parse_options([text]) == FstabOptions()


def test_the_later_option_wins() -> None:
    assert parse_options(["ro,rw,allow_other,noallow_other"]) == FstabOptions(
        MountSettings(read_only=False, allow_other=False)
    )
    assert parse_options(["size=1G,size=2G"]).settings.size == 2 << 30


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("foo", "unknown mount option 'foo'; known: allow_other"),
        ("fsname=x", "unknown mount option 'fsname'"),
        ("alow_other", "did you mean allow_other?"),
        ("ro=1", "option ro takes no value, found 'ro=1'"),
        ("size", "option size needs a value"),
        ("size=", "option size needs a value"),
        ("size=big", "expected a size, found 'big'"),
        ("remount,ro", "remount is not supported"),
        ("suid", "option suid is not supported; kvfs mounts are always nosuid and nodev"),
        ("rw,dev", "option dev is not supported"),
        ("nr_io_queue=3", "did you mean nr_io_queues?"),
        ("nr_io_queues=many", "mount option: nr_io_queues: expected a number, found 'many'"),
        ("nr_io_queues", "option nr_io_queues needs a value"),
        ("dhchap_secret=DHHC-1:00:c2VjcmV0", "did you mean dhchap_secret_file?"),
    ],
)
def test_what_is_wrong_is_said(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_options([text])
    assert says in str(caught.value)


def test_sloppy_ignores_the_unknown_only() -> None:
    assert parse_options(["foo,bar=1,ro"], sloppy=True) == FstabOptions(MountSettings(read_only=True))
    with pytest.raises(UsageError):
        parse_options(["size="], sloppy=True)


def test_the_command_line_wins_over_options(tmp_path: Path) -> None:
    fstab = parse_options(["size=1G,log=/a,allow_other"])
    request = plan(["s", str(tmp_path)], fstab, MountSettings(size=2 << 30, allow_other=False, log=Path("b")))
    assert (request.size, request.allow_other, request.log) == (2 << 30, False, Path.cwd() / "b")
    assert plan(["s", "m"], fstab).size == 1 << 30


def test_paths_are_made_absolute_and_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    request = plan(["link/s", "link"], FstabOptions())
    assert request.store == tmp_path / "real" / "s"
    assert request.mountpoint == tmp_path / "real"


def test_several_stores_are_for_later() -> None:
    with pytest.raises(UsageError, match=r"found 2: a, b; .*one namespace as yet"):
        plan(["a", "b", "/mnt"], FstabOptions())


@pytest.mark.parametrize(("user", "default"), [(0, True), (1000, False)])
def test_only_root_lets_others_in_by_default(user: int, default: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert plan(["s", "/mnt"], FstabOptions()).allow_other is default
    assert plan(["s", "/mnt"], parse_options(["allow_other"])).allow_other is True
    assert plan(["s", "/mnt"], parse_options(["noallow_other"])).allow_other is False


def test_foreground_logs_to_standard_error() -> None:
    assert plan(["s", "/mnt/a"], FstabOptions(), foreground=True).log is None
    assert plan(["s", "/mnt/a"], FstabOptions()).log == paths.default_log(Path("/mnt/a"))


@pytest.mark.parametrize(
    ("user", "variables", "store", "log"),
    [
        (0, {"XDG_DATA_HOME": "/d"}, "/var/lib/kvfs/default.kvfs", "/var/log/kvfs/mnt-a-b.log"),
        (1000, {}, "/h/.local/share/kvfs/default.kvfs", "/h/.local/state/kvfs/mnt-a-b.log"),
        (1000, {"XDG_DATA_HOME": "/d", "XDG_STATE_HOME": "/s"}, "/d/kvfs/default.kvfs", "/s/kvfs/mnt-a-b.log"),
        (
            1000,
            {"XDG_DATA_HOME": "d", "XDG_STATE_HOME": ""},
            "/h/.local/share/kvfs/default.kvfs",
            "/h/.local/state/kvfs/mnt-a-b.log",
        ),
    ],
)
def test_default_places(
    user: int, variables: dict[str, str], store: str, log: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    for name in ("XDG_DATA_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/h")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert plan(["/mnt"], FstabOptions()).store == Path(store)
    assert paths.default_log(Path("/mnt/a b")) == Path(log)
