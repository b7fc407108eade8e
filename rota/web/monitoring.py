"""What monitoring asks: ``/metrics`` for Prometheus, ``/healthz``, ``/readyz``.

Figures of the database are read at most once in a few seconds, however many scrape; when it does not answer, the
metrics say so and hold what is known of this process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from rota import __version__
from rota.client import Rota
from rota.errors import RotaError
from rota.store.figures import Figures, read_figures, read_last_round
from rota.store.migrate import check_schema

KEPT_SECONDS = 5.0
METHODS = frozenset({"GET", "POST", "PATCH", "DELETE"})


class Monitoring:
    """The metrics of one server, in a registry of its own."""

    def __init__(self, rota: Rota, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rota = rota
        self._clock = clock
        self._reading = threading.Lock()
        self._figures: Figures | None = None
        self._read_at = -KEPT_SECONDS
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "rota_web_requests", "Requests answered", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "rota_web_request_seconds", "How long answers took", ["method", "route"], registry=self.registry
        )
        self.viewers = Gauge("rota_web_event_viewers", "Who looks on at events", registry=self.registry)
        Gauge("rota_web_info", "This server", ["version"], registry=self.registry).labels(__version__).set(1)
        self.registry.register(self)

    def count(self, scope: Mapping[str, Any], status: int, seconds: float) -> None:
        """Count a request that is answered; by its route, of which there are few, and not by its address."""
        route: str = getattr(scope.get("route"), "path", "none")
        method: str = scope["method"] if scope["method"] in METHODS else "other"
        self.requests.labels(method, route, str(status)).inc()
        self.seconds.labels(method, route).observe(seconds)

    def describe(self) -> list[Metric]:
        """Tell the registry nothing beforehand: it would have to ask the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Give the figures of the database, for the registry."""
        figures = self.figures()
        yield GaugeMetricFamily("rota_database_up", "Whether the database answers", value=figures is not None)
        if figures is None:
            return
        yield _by("rota_runs", "Runs that have not ended", "state", figures.runs)
        yield _by("rota_recent_runs", "The latest 10,000 runs", "state", figures.recent)
        yield CounterMetricFamily("rota_runs_made", "The number of the newest run", value=figures.last_run)
        yield GaugeMetricFamily(
            "rota_oldest_ready_seconds",
            "How long the oldest ready run has been due",
            value=figures.oldest_ready_seconds,
        )
        yield _by("rota_nodes", "Nodes; silent: its lease is over", "state", figures.nodes)
        yield GaugeMetricFamily("rota_slots", "Runs at once, of all nodes that are there", value=figures.slots)
        yield _by(
            "rota_findings", "What does not go on by itself, as `rota check` tells it", "severity", figures.findings
        )
        if figures.last_round_seconds is not None:
            yield GaugeMetricFamily(
                "rota_last_round_seconds", "Since a node last did a good round", value=figures.last_round_seconds
            )

    def figures(self) -> Figures | None:
        """Return figures that are a few seconds old at most; None: the database does not answer."""
        with self._reading:
            if self._clock() - self._read_at >= KEPT_SECONDS:
                try:
                    self._figures = read_figures(self._rota.database)
                except RotaError:
                    self._figures = None
                self._read_at = self._clock()
            return self._figures

    def write(self) -> bytes:
        """Write all metrics as Prometheus reads them."""
        return generate_latest(self.registry)


def check_ready(rota: Rota) -> float | None:
    """Check that requests can be answered; return how long ago a node did its last good round, None: never.

    Raises:
        DatabaseUnavailable: nobody answers.
        DatabaseVersion: the schema is not one that this program knows.
    """
    check_schema(rota.database)
    return read_last_round(rota.database)


def _by(name: str, text: str, label: str, numbers: dict[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, number in sorted(numbers.items()):
        family.add_metric([value], number)
    return family
