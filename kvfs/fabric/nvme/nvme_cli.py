"""Running nvme-cli: always with a time limit, always for JSON, and never with a key among the arguments.

Versions 2.3 and later. What differs between them and is evened out here:

* errors: 2.3 prints text on standard error, mostly with its usage after it; from 2.9 on also ``{"error": "..."}``;
* numbers of 128 bits: strings in 2.x built with json-c, plain numbers otherwise and in 1.x.
"""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from kvfs.errors import FabricError, NamespaceVanished, TimedOut, ToolMissing
from kvfs.fabric.nvme.bounded import find_tool

_OLDEST = (2, 3)


def run_json(arguments: list[str], device: Path, timeout: float, *, as_json: tuple[str, ...] = ("-o", "json")) -> Any:
    """What ``nvme ARGUMENTS DEVICE`` prints, decoded. ``timeout``: s; then the command is killed.

    Raises ToolMissing, TimedOut, NamespaceVanished where the device is gone, FabricError for what it refuses.
    """
    status, output, errors = run_text([*arguments, str(device), *as_json], timeout)
    if status != 0:
        raise _failure(arguments, device, output, errors)
    try:
        return json.loads(output)
    except ValueError:
        failure = _failure(arguments, device, output, errors)  # 2.3 ends some of its errors with status 0
        if errors.strip():
            raise failure from None
        raise ToolMissing(
            f"nvme {' '.join(arguments)}: expected JSON, found {output.strip()[:60]!r}",
            f"needs nvme-cli {'.'.join(map(str, _OLDEST))} or later",
        ) from None


def run_text(arguments: list[str], timeout: float) -> tuple[int, str, str]:
    """Exit status, standard output, standard error. Raises ToolMissing, TimedOut."""
    tool = find_tool("nvme")
    if tool is None:
        raise ToolMissing("nvme: not found", "install the package nvme-cli")
    try:
        done = subprocess.run(
            [tool, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        raise TimedOut(f"nvme {arguments[0]}: no end within {timeout:g} s", "is the device's path lost?") from None
    except OSError as error:
        raise ToolMissing(f"{tool}: {error.strerror}", "install the package nvme-cli anew") from None
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


def version(timeout: float = 10.0) -> tuple[int, ...]:
    """As in (2, 11). Raises ToolMissing, TimedOut."""
    _, output, errors = run_text(["version"], timeout)
    found = re.search(r"nvme version (\d+(?:\.\d+)+)", output + errors)
    if found is None:
        raise ToolMissing(f"nvme version: found {output.strip()[:60]!r}", "install the package nvme-cli anew")
    return tuple(map(int, found[1].split(".")))


def as_number(value: Any) -> int:
    """Of what JSON has as a number or a string. Raises ValueError, TypeError."""
    return int(value, 0) if isinstance(value, str) else int(value)


def _failure(arguments: list[str], device: Path, output: str, errors: str) -> FabricError:
    said = _first_line(errors) or _first_line(_error_member(output)) or _first_line(output) or "failed"
    if not device.exists() or re.search(r"No such (file|device)|ENODEV|not a block or character", said):
        return NamespaceVanished(f"{device}: no such device", "see what there is: kvfsctl fabric list")
    if re.search(r"Permission denied|Operation not permitted", said):
        return FabricError(f"{device}: not permitted", "run this as root")
    if "Inappropriate ioctl" in said:
        return FabricError(f"{device}: expected an NVMe device, found another", "name one of `kvfsctl fabric list`")
    said = said.removeprefix("NVMe status: ")
    return FabricError(f"{device}: {' '.join(arguments)}: {said}", "the device refuses it or does not have it")


def _error_member(output: str) -> str:
    try:
        found = json.loads(output)
    except ValueError:
        return ""
    return str(found["error"]) if isinstance(found, dict) and "error" in found else ""


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
