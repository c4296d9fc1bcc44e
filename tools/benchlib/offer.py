"""What this kvfs can be mounted with: its data paths and request loops, asked of the command itself.

A data path that is not there is not measured, and said so; the benchmark of one version runs with another.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from benchlib.system import BenchError, run_command

_URING_PARAMETER = Path("/sys/module/fuse/parameters/enable_uring")
_WIDE = {"COLUMNS": "400", "NO_COLOR": "1", "TERM": "dumb"}  # so that no word of a help text is broken
_TIMEOUT = 60.0  # s


@dataclass(frozen=True)
class Offer:
    """``data_paths`` and ``request_loops``: the words that the options of ``kvfs mount`` take, none without the option.

    ``skips_passthrough``: warm pages can be made to come through the request loop. ``warms``: there is `kvfsctl warm`.
    ``ring_problem``: why FUSE over io_uring cannot be measured, empty when it can.
    """

    data_paths: tuple[str, ...]
    request_loops: tuple[str, ...]
    skips_passthrough: bool
    warms: bool
    ring_problem: str

    def options(self, data_path: str, request_loop: str = "", *, passthrough: bool = True) -> list[str]:
        """Options of ``kvfs mount``, as far as there are such: one data path alone needs no choice."""
        options = ["--data-path", data_path] if self.data_paths else []
        if request_loop in self.request_loops:
            options += ["--request-loop", request_loop]
        if not passthrough and self.skips_passthrough:
            options.append("--no-passthrough")
        return options


def offer_of(kvfs: Path, parameter: Path = _URING_PARAMETER) -> Offer:
    """Asks ``kvfs`` and the ``kvfsctl`` beside it. BenchError when ``kvfs mount --help`` fails."""
    said = run_command([str(kvfs), "mount", "--help"], _TIMEOUT, environment=_WIDE).decode()
    loops = _choices(said, "--request-loop")
    return Offer(
        data_paths=_choices(said, "--data-path"),
        request_loops=loops,
        skips_passthrough="--no-passthrough" in said,
        warms=_has_warm(kvfs.with_name("kvfsctl")),
        ring_problem=_ring_problem(loops, parameter),
    )


def _choices(said: str, option: str) -> tuple[str, ...]:
    """``--option <a|b>``, or with square brackets: typer has had both."""
    match = re.search(rf"{option}\s+[<\[]([\w|-]+)[>\]]", said)
    return tuple(match[1].split("|")) if match else ()


def _has_warm(kvfsctl: Path) -> bool:
    try:
        run_command([str(kvfsctl), "warm", "--help"], _TIMEOUT)
    except (BenchError, FileNotFoundError):
        return False
    return True


def _ring_problem(loops: tuple[str, ...], parameter: Path) -> str:
    if "uring" not in loops:
        return "this kvfs has no --request-loop uring"
    try:
        enabled = parameter.read_text().strip()
    except FileNotFoundError:
        return "this kernel has no FUSE over io_uring (6.14 and later)"
    return "" if enabled == "Y" else f"{parameter} is {enabled}: root may write Y there"
