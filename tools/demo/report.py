"""What a person and a machine get to see of the results."""

import json
import math
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from demo.measure import FirstTurn, Run, Way
from demo.pages import READERS


@dataclass(frozen=True)
class Results:
    """``tail_tokens``: of the second prompt, those that no page of the first holds. Sizes in bytes."""

    model: str
    kv_bytes_per_token: int
    threads: int
    place: str
    store: str | None
    cold: str
    block_tokens: int
    turn1: FirstTurn
    turn2_tokens: int
    tail_tokens: int
    ways: list[Way]

    @property
    def loaded_bytes(self) -> int:
        return self.turn1.pages * self.turn1.page_bytes

    @property
    def is_first_token_same(self) -> bool:
        return len({run.token for way in self.ways for run in way.runs}) == 1

    @property
    def is_identical(self) -> bool:
        """Whether all logits of all runs are, to the bit, those of the recomputed run."""
        return all(way.is_identical for way in self.ways)


def show(console: Console, results: Results, first_token: str) -> None:
    """The table, and what it says about the logits."""
    base = results.ways[0].median(_first_token)
    table = Table(title=f"Turn 2, {results.turn2_tokens:,} tokens, to its first token", title_justify="left")
    table.add_column("medians")
    for way in results.ways:
        table.add_column(way.name, justify="right")

    def row(name: str, describe: Callable[[Way], str], *, recomputed: bool = False) -> None:
        """``recomputed``: the row means something for the way without pages as well."""
        table.add_row(name, *(describe(way) if way.has_pages or recomputed else "" for way in results.ways))

    row("time to first token", lambda way: f"[bold]{_seconds(way.median(_first_token))}[/bold]", recomputed=True)
    row("  least to most", _range, recomputed=True)
    row("  speed-up", lambda way: f"[bold]{base / way.median(_first_token):.1f}x[/bold]", recomputed=True)
    row("lookup", lambda way: _seconds(way.median(lambda run: run.lookup)))
    row("read", lambda way: _seconds(way.median(lambda run: run.read)))
    row("  rate", lambda way: f"{_read_rate(results, way):.2f} GB/s")
    row("copy into KV cache", lambda way: _seconds(way.median(lambda run: run.place)))
    row("prefill", lambda way: _seconds(way.median(lambda run: run.prefill)), recomputed=True)
    row(
        "  tokens",
        lambda way: f"{results.tail_tokens if way.has_pages else results.turn2_tokens:,}",
        recomputed=True,
    )
    row("logits as recomputed", lambda way: "to the bit" if way.is_identical else f"up to {way.difference:.3g} off")
    console.print(table)
    turn1 = results.turn1
    console.print(
        f"Pages: {turn1.pages} of {turn1.page_bytes:,} B ({results.block_tokens} tokens each), "
        f"{results.loaded_bytes:,} B in all; written by 1 thread at "
        f"{results.loaded_bytes / turn1.write / 1e9:.2f} GB/s, read by {READERS}."
    )
    console.print(f"Cold: {results.cold}. Warm: the same pages again, at once.")
    runs = sum(len(way.runs) for way in results.ways)
    token = (
        f"the same in all {runs} runs ({first_token!r})" if results.is_first_token_same else "[red]NOT the same[/red]"
    )
    console.print(f"First token: {token}. Logits: {_logits(results)}.", highlight=False)


def show_next_steps(console: Console, mountpoint: Path, kvfs: Path) -> None:
    """How to go on from here: one line for each engine, and how to unmount."""
    where = os.statvfs(mountpoint)
    size = max(1, where.f_bavail * where.f_frsize // 2**30)
    lmcache = {"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"}
    tiering = {
        "spec_name": "TieringOffloadingSpec",
        "cpu_bytes_to_use": 8 << 30,
        "secondary_tiers": [{"type": "fs", "root_dir": f"{mountpoint}/vllm"}],
    }
    vllm = {"kv_connector": "OffloadingConnector", "kv_role": "kv_both", "kv_connector_extra_config": tiering}
    lines = [
        f"\nkvfs stays mounted on {mountpoint}. To point an engine at it:",
        "\nLMCache (in vLLM)",
        f"LMCACHE_LOCAL_DISK={shlex.quote(f'file://{mountpoint}/lmcache/')} LMCACHE_MAX_LOCAL_DISK_SIZE={size} "
        f"vllm serve MODEL --kv-transfer-config {_argument(lmcache)}",
        "\nvLLM's own file tier",
        f"vllm serve MODEL --kv-transfer-config {_argument(vllm)}",
        "\nTo unmount",
        shlex.join([str(kvfs), "umount", str(mountpoint)]),
    ]
    for line in lines:
        # unbroken, so that a line can be copied
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def as_json(results: Results) -> str:
    """All figures: seconds, bytes, and bytes per second in GB/s (10^9)."""
    base = results.ways[0].median(_first_token)

    def describe(way: Way) -> dict[str, Any]:
        median = way.median(_first_token)
        return {
            "name": way.name,
            "first_token_seconds": median,
            "speed_up": base / median,
            "read_gb_per_second": _read_rate(results, way) if way.has_pages else None,
            "logits_identical": way.is_identical,
            "largest_logit_difference": way.difference if math.isfinite(way.difference) else None,
            "runs": [asdict(run) | {"first_token": run.first_token} for run in way.runs],
        }

    turn1 = asdict(results.turn1) | {"write_gb_per_second": results.loaded_bytes / results.turn1.write / 1e9}
    return json.dumps(
        asdict(results)
        | {
            "turn1": turn1,
            "ways": [describe(way) for way in results.ways],
            "loaded_bytes": results.loaded_bytes,
            "first_token_same": results.is_first_token_same,
            "logits_identical": results.is_identical,
        },
        indent=2,
    )


def _first_token(run: Run) -> float:
    return run.first_token


def _read_rate(results: Results, way: Way) -> float:
    return results.loaded_bytes / way.median(lambda run: run.read) / 1e9


def _logits(results: Results) -> str:
    if results.is_identical:
        return "identical to the bit"
    worst = max(way.difference for way in results.ways)
    return f"[red]they differ[/red], by up to {worst:.3g}"


def _range(way: Way) -> str:
    times = [run.first_token for run in way.runs]
    return f"{_seconds(min(times))} to {_seconds(max(times))}" if len(times) > 1 else "one run"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def _argument(value: Mapping[str, object]) -> str:
    return shlex.quote(json.dumps(value, separators=(",", ":")))
