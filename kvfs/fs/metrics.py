"""Prometheus text from the same statistics that ``.kvfs/stats`` shows as JSON.

What statistics look like, and what becomes of them:

* a mapping inside a mapping is a sub-component and lengthens the name: ``{"store": {"cache": {"bytes": 1}}}`` is
  the gauge ``kvfs_store_cache_bytes``;
* a number whose key ends in ``_total`` is a counter, any other a gauge;
* a mapping whose key ends in ``_total`` is one counter with a label: ``{"fs": {"requests_total": {"read": 5}}}`` is
  ``kvfs_fs_requests_total{kind="read"} 5``;
* the strings of a mapping become the labels of ``<its name>_info``; what is None is left out.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

Statistics = Mapping[str, Any]

_COUNTER = "_total"


class StatisticsCollector(Collector):
    """Reads ``statistics()``, a mapping as above, anew for every scrape."""

    def __init__(self, statistics: Callable[[], Statistics]) -> None:
        self._statistics = statistics

    def collect(self) -> Iterable[Metric]:
        return _families("kvfs", self._statistics())


def prometheus_text(statistics: Callable[[], Statistics]) -> bytes:
    """The exposition format that Prometheus 0.0.4 text parsers read."""
    registry = CollectorRegistry()
    registry.register(StatisticsCollector(statistics))
    return generate_latest(registry)


def _families(name: str, statistics: Statistics) -> Iterable[Metric]:
    labels: dict[str, str] = {}
    for key, value in statistics.items():
        full = f"{name}_{_metric_name(key)}"
        help_text = f"{key} of {name.replace('_', ' ')}"
        if isinstance(value, Mapping) and key.endswith(_COUNTER):
            counter = CounterMetricFamily(full, help_text, labels=["kind"])
            for kind, count in value.items():
                counter.add_metric([str(kind)], count)
            yield counter
        elif isinstance(value, Mapping):
            yield from _families(full, value)
        elif isinstance(value, int | float):
            family = CounterMetricFamily if key.endswith(_COUNTER) else GaugeMetricFamily
            yield family(full, help_text, value=value)
        elif value is not None:
            labels[_metric_name(key)] = str(value)
    if labels:
        yield InfoMetricFamily(name, f"what {name.replace('_', ' ')} is", value=labels)


def _metric_name(key: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]", "_", key)
