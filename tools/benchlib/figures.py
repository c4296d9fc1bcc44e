"""Figures from samples: latencies with counts, medians with their range, ratios that are taken round by round."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Latency:
    """Latencies seen: ``ns`` ascending and distinct, ``counts`` how often each was seen. Both int64, shape (n,)."""

    ns: NDArray[np.int64]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, samples: Iterable[int] | NDArray[np.int64]) -> Self:
        values = samples if isinstance(samples, np.ndarray) else np.fromiter(samples, dtype=np.int64)
        return cls(*np.unique(values, return_counts=True))

    @classmethod
    def merged(cls, parts: Sequence["Latency"]) -> Self:
        ns, where = np.unique(np.concatenate([part.ns for part in parts]), return_inverse=True)
        counts = np.zeros(len(ns), dtype=np.int64)
        np.add.at(counts, where, np.concatenate([part.counts for part in parts]))
        return cls(ns, counts)

    @property
    def samples(self) -> int:
        return int(self.counts.sum())

    def percentile(self, percent: float) -> int | None:
        """The smallest latency (ns) that ``percent`` of the samples do not exceed (nearest rank).

        ``None`` when none would lie above it: p99.9 of 500 samples is only their maximum.
        """
        rank = math.ceil(round(self.samples * percent / 100, 6))
        if rank >= self.samples:
            return None
        return int(self.ns[np.searchsorted(np.cumsum(self.counts), rank)])

    @property
    def maximum(self) -> int | None:
        return int(self.ns[-1]) if len(self.ns) else None


@dataclass(frozen=True)
class Measurement:
    """One row on one target in one round.

    ``seconds``: from the first client's start to the last one's end. ``units``: bytes or operations done.
    CPU in seconds, user and system: the clients', the daemon's where there is one, the kernel's own threads'.
    ``device_bytes``: read from block devices by the daemon. ``foreign_cpus``: how many CPUs others kept busy meanwhile.
    """

    seconds: float
    units: int
    latency: Latency
    client_cpu: float
    daemon_cpu: float | None = None
    kernel_cpu: float = 0.0
    device_bytes: int | None = None
    foreign_cpus: float = 0.0

    @property
    def rate(self) -> float:
        return self.units / self.seconds


@dataclass(frozen=True)
class Spread:
    """Median, minimum and maximum over the rounds."""

    median: float
    minimum: float
    maximum: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        values = list(values)
        return cls(statistics.median(values), min(values), max(values))


def paired_ratio(ours: Sequence[Measurement], theirs: Sequence[Measurement]) -> Spread:
    """Rate over rate within each round: what slowed the machine in a round slowed both."""
    return Spread.of(a.rate / b.rate for a, b in zip(ours, theirs, strict=True))
