"""A kvfs mount of a block device, which is formatted for it and stays when the mount is gone."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.mount import KvfsMount, data_path, is_mounted, run_command, unmounted_clean


class DeviceMount(KvfsMount):
    """``store`` is the device, which may be another one for each ``mount``: a store is what is on it."""

    def __init__(self, device: Path, options: tuple[str, ...] = ()) -> None:
        self.device = device
        # without a second's trial of what is faster here
        super().__init__(options=("--request-loop", "clones", *options))

    def mount(self) -> None:
        self.store = self.device
        run_command(
            "kvfs", "mount", "--log", self.log, "--data-path", data_path(), *self.options, self.store, self.path
        )
        assert is_mounted(self.path), f"kvfs mount returned 0, but {self.path} is not mounted"
        self.pid = self._holder_of_store()


def format_device(device: Path) -> None:
    run_command("kvfsctl", "format", "--segment-size", "4M", device)


@contextmanager
def device_mount(device: Path, *options: str) -> Iterator[DeviceMount]:
    """An empty store on ``device``, mounted; unmounted in the end, when it has to pass fsck."""
    format_device(device)
    mount = DeviceMount(device, options)
    with unmounted_clean(mount):
        yield mount
