"""The configuration file: what is taken, what is refused, and what wins over what."""

import json
from pathlib import Path

import pytest
from place import Place

from kvfs.cli.config import Config, config_text, load_config
from kvfs.cli.options import FstabOptions, parse_options
from kvfs.cli.plan import plan
from kvfs.cli.settings import SETTING_NAMES, MountSettings
from kvfs.errors import UsageError
from kvfs.fabric.settings import OPTION_NAMES
from kvfs.fabric.store import FabricStore

NQN = "nqn.2026-11.test:pages"
WHOLE = f"""
[mount]
size = "64G"
read_only = false
allow_other = true
log = "logs/kvfs.log"
data_path = "native"
threads = 8
request_loop = "uring"
passthrough = false
warm_size = 0
sweep_after = "2h"
io_timeout = "500ms"
physical_space = "/run/space"
on_full = "enospc"

[fabric]
nr_io_queues = 8
ctrl_loss_tmo = "10m"
tls = true

[fabric.subsystem."{NQN}"]
hostnqn = "nqn.2014-08.org.nvmexpress:uuid:0"
dhchap_secret_file = "pages.key"
nr_io_queues = 2
host_iface = "eth1"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "kvfs.toml"
    path.write_text(WHOLE)
    return path


def test_everything_is_taken(file: Path) -> None:
    found = load_config(file)
    assert found == Config(
        path=file,
        mount=MountSettings(
            size=64 << 30,
            read_only=False,
            allow_other=True,
            log=file.parent / "logs/kvfs.log",
            data_path="native",
            threads=8,
            request_loop="uring",
            passthrough=False,
            warm_size=0,
            sweep_after=7200,
            io_timeout=0.5,
            physical_space=Path("/run/space"),
            on_full="enospc",
        ),
        fabric={"nr_io_queues": 8, "ctrl_loss_tmo": 600, "tls": True},
        subsystems={
            NQN: {
                "hostnqn": "nqn.2014-08.org.nvmexpress:uuid:0",
                "dhchap_secret_file": file.parent / "pages.key",
                "nr_io_queues": 2,
                "host_iface": "eth1",
            }
        },
    )
    assert all(getattr(found.mount, name) is not None for name in SETTING_NAMES), "has to show every setting"


def test_its_normal_form_means_the_same(file: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.toml"
    found = load_config(file)
    again.write_text(config_text(found))
    loaded = load_config(again)
    assert (loaded.mount, loaded.fabric, loaded.subsystems) == (found.mount, found.fabric, found.subsystems)


def test_none_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("kvfs.cli.config.DEFAULT_PATH", tmp_path / "absent")
    assert load_config(None) == Config()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[mount\n", "expected TOML, found an error: "),
        ("[mounts]\n", ": unknown section 'mounts'; did you mean mount?"),
        ("mount = 3\n", ": expected a table mount, found 3; write [mount]"),
        ("[mount]\nthread = 8\n", ": [mount]: unknown setting 'thread'; did you mean threads?"),
        ("[mount]\nthreads = 'many'\n", "[mount]: threads: expected a number from 0 to 256, found 'many'"),
        ("[mount]\nthreads = 257\n", "[mount]: threads: expected a number from 0 to 256, found 257"),
        ("[mount]\nsize = 'big'\n", "[mount]: size: expected a size, as in 64G, found 'big'"),
        ("[mount]\nsize = true\n", "[mount]: size: expected a size, as in 64G, found True"),
        ("[mount]\nio_timeout = '2 weeks'\n", "[mount]: io_timeout: expected a time, as in 30s, found '2 weeks'"),
        ("[mount]\non_full = 'panic'\n", "[mount]: on_full: expected evict or enospc, found 'panic'"),
        ("[mount]\nread_only = 1\n", "[mount]: read_only: expected true or false, found 1"),
        ("[mount]\nlog = ''\n", "[mount]: log: expected the path of a file, found ''"),
        ("[fabric]\nnr_io_queue = 8\n", "[fabric]: unknown transport option 'nr_io_queue'; did you mean nr_io_queues?"),
        ("[fabric]\nnr_io_queues = 1.5\n", "[fabric]: nr_io_queues: expected a number, found 1.5"),
        ("[fabric]\nnsid = 1\n", "[fabric]: unknown transport option 'nsid'; "),
        ("[fabric]\ntls_key_file = 3\n", "[fabric]: tls_key_file: expected the path of a file, found 3"),
        ("[fabric.subsystem.pages]\n", "[fabric.subsystem.\"pages\"]: expected an NQN, found 'pages'"),
        (f"[fabric.subsystem]\n'{NQN}' = 1\n", f"[fabric.subsystem]: expected a table {NQN}, found 1"),
        (f"[fabric.subsystem.'{NQN}']\ndhchap_secret = 'DHHC-1'\n", "did you mean dhchap_secret_file?"),
    ],
)
def test_what_is_wrong_is_said(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "kvfs.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)
    assert "DHHC-1" not in str(caught.value)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such configuration file; check the path"):
        load_config(tmp_path / "absent")
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        load_config(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="found something that is not UTF-8"):
        load_config(tmp_path / "binary")


def test_what_wins(file: Path) -> None:
    config = load_config(file)
    given = MountSettings(threads=2, passthrough=True)
    fstab = parse_options(["size=1G,on_full=evict,ro,queue_size=64"])
    url = f"nvme+tcp://10.0.0.1/{NQN}?nr_io_queues=4&queue_size=32"
    request, _, origins = plan([url, "/mnt"], fstab, given, config=config)
    assert (request.native.threads, request.native.passthrough, request.native.request_loop) == (2, True, "uring")
    assert (request.size, request.on_full, request.read_only, request.sweep_after) == (1 << 30, "evict", True, 7200)
    assert (origins["threads"], origins["size"], origins["sweep_after"]) == ("command line", "-o", str(file))
    assert isinstance(request.store, FabricStore)
    (path,) = request.store.paths
    options = path.options
    assert (options.queue_size, options.nr_io_queues, options.ctrl_loss_tmo, options.tls) == (64, 4, 600, True)
    assert (options.dhchap_secret_file, path.address.host_iface) == (file.parent / "pages.key", "eth1")
    assert path.origins["queue_size"] == "-o"
    assert path.origins["nr_io_queues"] == "URL"
    assert path.origins["hostnqn"] == f'{file} [fabric.subsystem."{NQN}"]'
    assert path.origins["ctrl_loss_tmo"] == f"{file} [fabric]"


def test_another_subsystem_s_options_are_not_taken(file: Path) -> None:
    store = plan(
        ["nvme+tcp://h/nqn.2026-11.test:other", "/mnt"], FstabOptions(), config=load_config(file)
    ).request.store
    assert isinstance(store, FabricStore)
    assert (store.paths[0].options.hostnqn, store.paths[0].options.nr_io_queues) == (None, 8)


def test_fabric_options_of_a_path_are_refused() -> None:
    with pytest.raises(UsageError, match=r"/a: expected a URL together with nr_io_queues, found a path"):
        plan(["/a", "/mnt"], parse_options(["nr_io_queues=4"]))


def test_every_option_is_known_by_its_own_name() -> None:
    assert not set(SETTING_NAMES) & set(OPTION_NAMES), "-o has both"


def test_print_config(place: Place) -> None:
    config = place.root / "kvfs.toml"
    config.write_text(WHOLE)
    url = f"nvme+tcp://10.0.0.1/{NQN}?nsid=3&nr_io_queues=4"
    command = ("mount", "--config", config, "--print-config", "--threads", "3", url, place.mountpoint)
    done = place.run("kvfs", *command)
    assert done.status == 0, done
    for line in (
        f"# {url} on {place.mountpoint}",
        "threads = 3  # command line",
        f"sweep_after = 7200  # {config}",
        "# nsid: 3",
        f'[fabric.subsystem."{NQN}"]',
        "nr_io_queues = 4  # URL",
        f"tls = true  # {config} [fabric]",
    ):
        assert line in done.output.splitlines()
    printed = place.root / "printed.toml"
    printed.write_text(done.output)
    checked = json.loads(place.run("kvfsctl", "config", "check", "--json", printed).output)
    assert (checked["path"], checked["mount"]["threads"]) == (str(printed), 3)
    found = json.loads(place.run("kvfs", *command, "--json").output)
    assert found["settings"]["threads"] == {"value": 3, "origin": "command line"}
    assert found["paths"][0]["options"]["nr_io_queues"] == {"value": 4, "origin": "URL"}
    assert found["paths"][0]["nsid"] == 3


def test_config_check(place: Place) -> None:
    config = place.root / "kvfs.toml"
    config.write_text("[mount]\nthread = 8\n")
    for command in (
        ("kvfsctl", "config", "check", config),
        ("kvfs", "mount", "--config", config, place.store, place.mountpoint),
        ("mount.kvfs", place.store, place.mountpoint, "-o", f"config={config}"),
    ):
        done = place.run(*command)
        done.says("unknown setting 'thread'; did you mean threads?")
        assert done.status == 2, done
    assert not place.store.exists()


def test_a_mount_takes_it(place: Place) -> None:
    config = place.root / "kvfs.toml"
    config.write_text(f'[mount]\nsize = "64M"\nlog = "{place.log}"\non_full = "enospc"\nthreads = 2\n')
    done = place.run("kvfs", "mount", "--config", config, "--threads", "1", place.store, place.mountpoint)
    assert done.status == 0, done
    options = json.loads((place.mountpoint / ".kvfs" / "stats").read_bytes())["options"]
    assert (options["on_full"], options["threads"]) == ("enospc", 1)
    assert place.log.exists()
    assert place.run("kvfs", "umount", place.mountpoint).status == 0
