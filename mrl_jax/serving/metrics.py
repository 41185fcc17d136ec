"""Counters and timings of a service, in Prometheus' text format."""

from collections.abc import Callable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """Of one service; each has a registry of its own."""

    def __init__(
        self,
        waiting: Callable[[], float],
        compilations: Callable[[], float],
        documents: Callable[[], float],
    ):
        registry = self._registry = CollectorRegistry()
        self._requests = Counter(
            "mrl_requests", "Requests by path and status.", ["path", "status"], registry=registry
        )
        self._seconds = Histogram(
            "mrl_request_seconds",
            "Seconds from a request's whole body to its answer.",
            ["path"],
            buckets=SECONDS,
            registry=registry,
        )
        self._refused = Counter(
            "mrl_refused",
            "Requests refused by status, before their body was looked at.",
            ["status"],
            registry=registry,
        )
        for name, text, value in (
            ("mrl_queue_length", "Queries that wait.", waiting),
            ("mrl_compilations", "Programs compiled since the service began.", compilations),
            ("mrl_documents", "Documents of the index.", documents),
        ):
            Gauge(name, text, registry=registry).set_function(value)

    def record(self, path: str, status: int, seconds: float) -> None:
        """One request that was answered."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def refuse(self, status: int) -> None:
        """One request that was refused for its size, its key, or how many there are."""
        self._refused.labels(str(status)).inc()

    def text(self) -> bytes:
        """All of them, as a scraper reads them."""
        return generate_latest(self._registry)
