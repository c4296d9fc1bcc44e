"""A mount whose store is full: engines go on writing, and what is there is right."""

import errno
import json
import os
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.mount import GONE, CommandError, KvfsMount, close_test_mount, make_test_mount, run_command
from support.styles import MIB, STYLES, LlmdFs, LmcacheDisk, SglangFile, Style, VllmTier, check_page, page_bytes

pytestmark = pytest.mark.kvfs_only

SIZE = "96M"
SIZES = {VllmTier: MIB, LmcacheDisk: 300_000, SglangFile: 65_536, LlmdFs: 3 * MIB // 2 + 5}


@contextmanager
def mounted(*options: str, size: str = SIZE) -> Iterator[KvfsMount]:
    """In order at the end, and clean."""
    mount = make_test_mount(size, options)
    try:
        assert isinstance(mount, KvfsMount)
        yield mount
        mount.umount()
        mount.fsck()
    finally:
        close_test_mount(mount)


def statistics(mount: KvfsMount) -> dict[str, object]:
    found: dict[str, object] = json.loads((mount / ".kvfs/stats").read_text())["components"]["store"]["eviction"]
    return found


def capacity(mount: KvfsMount) -> int:
    space = os.statvfs(mount)
    return space.f_blocks * space.f_frsize


def evicted_files(mount: KvfsMount) -> int:
    files = statistics(mount)["files_total"]
    assert isinstance(files, dict)
    return sum(files.values())


def clients(mount: KvfsMount) -> list[Style]:
    return [style(mount / style.__name__, SIZES[style]) for style in STYLES]  # type: ignore[attr-defined, index]


def all_at_once(actions: list[Callable[[], None]]) -> None:
    """Each in a thread; raises what the first of them raised."""
    with ThreadPoolExecutor(len(actions)) as pool:
        for done in [pool.submit(action) for action in actions]:
            done.result()


def fill(client: Style, total: int, seed: int) -> int:
    """Stores pages of ``total`` bytes, and now and then loads an earlier one; how many pages."""
    chance = random.Random(seed)
    count = -(-total // client.size)
    for number in range(count):
        client.store(number)
        if number % 3 == 0:
            client.verify(chance.randrange(number + 1))
    return count


def test_four_clients_fill_it_three_times() -> None:
    """Never an error; what is opened or being written stays; what is left is right, also after a remount."""
    with mounted() as mount, ExitStack() as opened:
        styles = clients(mount)
        room = capacity(mount)
        held = LmcacheDisk(mount / "held", MIB)
        for number in range(4):
            held.store(number)
        handles = [opened.enter_context(open(held.path(number), "rb")) for number in range(4)]
        slow = opened.enter_context(open(mount / "slow.tmp", "wb", buffering=0))
        content = page_bytes(9, 16 * 65_536)
        counts: dict[str, int] = {}

        def work(index: int) -> None:
            client = styles[index]
            counts[type(client).__name__] = fill(client, 3 * room // 4, index)

        def write_slowly() -> None:
            """A piece for each of the pages that evictions have taken meanwhile."""
            for at in range(0, len(content), 65_536):
                assert slow.write(content[at : at + 65_536]) == 65_536
                before = evicted_files(mount)
                for number in range(40):
                    SglangFile(mount / "beside", 65_536).store(number)
                assert evicted_files(mount) >= before

        all_at_once([*(lambda index=index: work(index) for index in range(len(styles))), write_slowly])
        slow.close()
        os.rename(mount / "slow.tmp", mount / "slow")
        check_page((mount / "slow").read_bytes(), 9, "slow")
        for number, handle in enumerate(handles):
            check_page(handle.read(), number, "open since before")
            assert held.path(number).exists()
            handle.close()
        assert evicted_files(mount) > 0
        before = {type(client).__name__: left(client, counts) for client in styles}
        used = sum(len(numbers) * SIZES[type(client)] for client, numbers in zip(styles, before.values(), strict=True))
        assert used > room // 2, "a full store is full"
        mount.remount(drop_caches=False)
        assert {type(client).__name__: left(client, counts) for client in styles} == before


def left(client: Style, counts: dict[str, int]) -> list[int]:
    return [number for number in range(counts[type(client).__name__]) if client.verify(number)]


def test_after_kill_9() -> None:
    """Killed while four clients write into a full store: every page that is there is whole, and it goes on."""
    with mounted() as mount:
        styles = clients(mount)
        total = capacity(mount) // 3
        counts = [fill(client, total, 1) for client in styles]
        begun = threading.Event()
        wrong: list[OSError] = []

        def work(client: Style, first: int) -> None:
            try:
                for number in range(first, first + 100_000):
                    client.store(number)
                    if evicted_files(mount) > 0:
                        begun.set()
            except OSError as error:
                if error.errno not in GONE:
                    wrong.append(error)
            finally:
                begun.set()

        threads = [threading.Thread(target=work, args=each) for each in zip(styles, counts, strict=True)]
        for thread in threads:
            thread.start()
        begun.wait()
        mount.abort()
        for thread in threads:
            thread.join()
        assert wrong == []
        mount.kill9()
        for client in styles:
            names = os.listdir(client.directory)
            for name in names:
                if ".tmp" not in name and not isinstance(client, LmcacheDisk):
                    assert client.verify(int(name.removesuffix(".kv"), 16))
        all_at_once([lambda client=client: check_round(client, total) for client in styles])


def check_round(client: Style, total: int) -> None:
    count = fill(client, total, 2)
    assert client.verify(count - 1)


def test_enospc_mode_refuses_and_keeps() -> None:
    """ENOSPC on write or close, never at the rename; nothing that was stored goes."""
    with mounted("--on-full", "enospc") as mount:
        client = VllmTier(mount / "pages", MIB)
        number = 0
        while True:
            temporary = mount / "pages" / "tmp"
            try:
                with open(temporary, "wb", buffering=0) as file:
                    file.write(page_bytes(number, MIB))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                temporary.unlink()
                break
            temporary.rename(client.path(number))
            number += 1
        assert number * MIB > 0.8 * capacity(mount)
        assert all(client.verify(each) for each in range(number))
        assert evicted_files(mount) == 0
        assert statistics(mount)["evicts"] == 0


def test_statvfs_and_atime_serve_a_clients_own_evictor() -> None:
    """As llm-d's: scandir and st_atime, from a share of the store on, down to another."""
    with mounted() as mount:
        client = SglangFile(mount / "pages", 65_536)
        for number in range(capacity(mount) * 9 // 10 // client.size):
            client.store(number)
        client.verify(0)

        def used() -> float:
            space = os.statvfs(mount)
            return 1 - space.f_bavail / space.f_blocks

        assert used() > 0.85
        assert evicted_files(mount) == 0, "the client's watermark comes first"
        entries = sorted(os.scandir(mount / "pages"), key=lambda entry: entry.stat().st_atime_ns)
        assert entries[-1].name == client.path(0).name
        for entry in entries:
            if used() < 0.7:
                break
            os.unlink(entry.path)
        assert client.verify(0)


def test_a_name_that_the_kernel_remembers(tmp_path: Path) -> None:
    """Whoever names an evicted file is told that there is none, and may make one; nobody meets ESTALE."""
    with mounted() as mount:
        client = LmcacheDisk(mount / "pages", MIB)
        for number in range(8):
            client.store(number)
            client.verify(number)
        kept = os.open(mount / "pages", os.O_RDONLY)
        run_command("kvfsctl", "evict", mount, mount / "pages")
        for number in range(8):
            name = client.path(number).name
            for call in (
                lambda name=name: os.stat(name, dir_fd=kept),
                lambda name=name: os.open(name, os.O_RDONLY, dir_fd=kept),
                lambda name=name: os.utime(name, dir_fd=kept),
                lambda name=name: os.unlink(name, dir_fd=kept),
            ):
                with pytest.raises(FileNotFoundError):
                    call()
            assert not os.access(name, os.F_OK, dir_fd=kept)
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, dir_fd=kept))
        os.close(kept)


class TestCommand:
    def test_evict_so_much(self) -> None:
        with mounted() as mount:
            client = SglangFile(mount / "pages", 65_536)
            for number in range(100):
                client.store(number)
            tried = json.loads(run_command("kvfsctl", "evict", mount, "--bytes", "1M", "--dry-run", "--json"))
            assert (tried["files"], tried["bytes"], tried["dry_run"]) == (16, MIB, True)
            done = json.loads(run_command("kvfsctl", "evict", mount, "--bytes", "1M", "--json"))
            assert (done["files"], done["bytes"], done["kept"]) == (16, MIB, [])
            assert [client.path(number).exists() for number in range(100)] == [False] * 16 + [True] * 84
            run_command("kvfsctl", "evict", mount, "--to", "3%")
            space = os.statvfs(mount)
            assert space.f_blocks - space.f_bfree <= 0.03 * space.f_blocks

    def test_drain_says_what_stays(self) -> None:
        with mounted() as mount:
            client = SglangFile(mount / "pages", 65_536)
            for number in range(20):
                client.store(number)
            with open(client.path(7), "rb"), pytest.raises(CommandError) as caught:
                run_command("kvfsctl", "drain", mount)
            said = str(caught.value)
            assert ": 1\n" in said, "the exit status"
            assert "19 files, 1.19 MiB evicted" in said
            assert "1 file, 64 KiB stay: open" in said
            assert os.listdir(client.directory) == [client.path(7).name]
            assert "1 file, 64 KiB evicted" in run_command("kvfsctl", "drain", client.directory)
            assert os.listdir(client.directory) == []

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ((), "expected how much to evict, found nothing"),
            (("--bytes", "1M", "--to", "80%"), "expected --bytes or --to, found both"),
            (("--to", "80"), "expected a share of the store, found '80'"),
            (("/",), "expected a path in a kvfs mount"),
        ],
    )
    def test_what_is_wrong_is_said(self, kvfs_mount: KvfsMount, arguments: tuple[str, ...], said: str) -> None:
        with pytest.raises(AssertionError, match=said):
            run_command("kvfsctl", "evict", kvfs_mount, *arguments)
