"""A store that a host which died has left, as the commands show it to another host. A live owner, and a real target:
tests/t9_fabric/test_fencing.py."""

import json
from collections.abc import Iterator

import pytest
from support.mount import CommandError, KvfsMount, run_command, wait_for

from kvfs import _native
from kvfs.store import ownership

SIZE = "16M"


@pytest.fixture
def mount(monkeypatch: pytest.MonkeyPatch) -> Iterator[KvfsMount]:
    """Of host a, with a durable file ``old``; its daemon is dead."""
    monkeypatch.setenv("KVFS_HOST_ID", "a")
    mount = KvfsMount(SIZE, ("--warm-size", "0", "--request-loop", "clones"))
    try:
        (mount / "old").write_bytes(b"old")
        run_command("kvfsctl", "sync", mount.path)
        wait_for(lambda: ownership.read(mount.store).beat, "the first sign of life")
        mount.abort()
        mount.umount()
        yield mount
    finally:
        mount.close()


@pytest.mark.ci  # takes two leases
def test_takeover(mount: KvfsMount, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVFS_HOST_ID", "b")
    with pytest.raises(CommandError, match=r"belongs to host a \(mounted on .* since .*, last sign of life .*takeover"):
        mount.mount()
    options, mount.options = mount.options, (*mount.options, "--read-only")
    mount.mount()
    assert (mount / "old").read_bytes() == b"old"
    mount.umount()
    mount.options = options

    with pytest.raises(CommandError, match="expected --force to name the owner, 'a', found 'c'"):
        run_command("kvfsctl", "takeover", mount.store, "--force", "c")
    taken = json.loads(run_command("kvfsctl", "takeover", mount.store, "--json"))
    assert taken["previous"].startswith("host a ")
    assert {key: taken[key] for key in ("path", "was_alive", "fenced_by", "yielded")} == {
        "path": str(mount.store),
        "was_alive": False,
        "fenced_by": "record",
        "yielded": False,
    }
    assert taken["seconds"] >= _native.LEASE
    assert "by host b" in json.loads(run_command("kvfsctl", "info", mount.store, "--json"))["claimed"]
    assert "nothing to take over" in run_command("kvfsctl", "takeover", mount.store)

    monkeypatch.setenv("KVFS_HOST_ID", "a")
    with pytest.raises(CommandError, match="belongs to host b, which took it over"):
        mount.mount()
    monkeypatch.setenv("KVFS_HOST_ID", "b")
    mount.mount()
    assert (mount / "old").read_bytes() == b"old"
    mount.umount()
    mount.fsck()
    assert mount.take_log_problems() == []
