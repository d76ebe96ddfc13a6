"""What the server counts, for Prometheus. Owner of prometheus_client."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_BATCHES = (1, 2, 4, 8, 16, 32)


class ServerMetrics:
    """Counters of one server, in a registry of its own."""

    def __init__(self, waiting: Callable[[], float]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter("detloop_requests", "Requests answered", ["path", "status"], registry=self._registry)
        self._seconds = Histogram("detloop_request_seconds", "Time to answer a request", ["path"], buckets=_SECONDS, registry=self._registry)
        self._images = Counter("detloop_images", "Images that came, by what became of them", ["outcome"], registry=self._registry)
        self._detections = Counter("detloop_detections", "Boxes found", ["class"], registry=self._registry)
        self._batch = Histogram("detloop_batch_images", "Images that went through the network together", buckets=_BATCHES, registry=self._registry)
        self._feedback = Counter("detloop_feedback", "Complaints taken", ["complaint"], registry=self._registry)
        Gauge("detloop_waiting_images", "Images in the queue", registry=self._registry).set_function(waiting)

    def request(self, path: str, status: int, seconds: float) -> None:
        """One request was answered; `path` is the route's, so that their number stays bounded."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def detected(self, class_names: list[str], batch: int) -> None:
        """One image was answered."""
        self._images.labels("detected").inc()
        self._batch.observe(batch)
        for name in class_names:
            self._detections.labels(name).inc()

    def refused(self, status: int) -> None:
        """One image was refused."""
        self._images.labels(f"refused_{status}").inc()

    def complained(self, complaint: str) -> None:
        """One complaint was taken."""
        self._feedback.labels(complaint).inc()

    def page(self) -> tuple[bytes, str]:
        """The text for Prometheus, and its media type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
