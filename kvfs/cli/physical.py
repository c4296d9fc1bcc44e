"""``kvfsctl physical``: the physical space under a store or a device, once or published again and again."""

import time
from pathlib import Path
from typing import Any

from kvfs.errors import UsageError, VolumeError
from kvfs.fabric.physical import Reading, Source, choose_source
from kvfs.fabric.physical_agent import publish
from kvfs.units import format_size


def source_of(store: Path) -> Source:
    """VolumeError where the store is not there, or says nothing of physical space."""
    try:
        source = choose_source(store)
    except OSError as error:
        raise VolumeError(f"{store}: {error.strerror}", "check the path") from error
    if source is None:
        raise VolumeError(
            f"{store}: expected a file, a thin-provisioned NVMe namespace or a ScaleFlux drive, found none of them",
            "then the space that it has is the space that there is; as root, and on the host that has the drive",
        )
    return source


def look(source: Source) -> Reading | None:
    """VolumeError when it cannot be read."""
    try:
        return source.read()
    except (OSError, ValueError) as error:
        raise VolumeError(f"{source.name}: cannot be read: {error}", "the kernel log may say more") from error


def keep_publishing(source: Source, path: Path, interval: float) -> None:
    """Until it is interrupted. What is published counts for three intervals. A look that fails publishes nothing."""
    if interval <= 0:
        raise UsageError(f"expected an interval, found {interval:g} s", "write it as in 5s")
    while True:
        try:
            reading = source.read()
            if reading is not None:
                publish(path, reading, source.name, 3 * interval)
        except (OSError, ValueError) as error:
            print(f"kvfsctl: {source.name}: {error}", flush=True)
        time.sleep(interval)


def describe(source: Source, reading: Reading | None) -> dict[str, Any]:
    return {
        "source": source.name,
        "limits": reading is not None,
        "total_bytes": reading.total if reading else None,
        "free_bytes": reading.free if reading else None,
    }


def print_reading(source: Source, reading: Reading | None) -> None:
    if reading is None:
        print(f"{source.name}: limits nothing")
    else:
        share = 100 * reading.free / reading.total
        print(f"{source.name}: {format_size(reading.free)} free of {format_size(reading.total)} ({share:.1f} %)")
