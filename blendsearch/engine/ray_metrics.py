"""Ray metrics of a search, for monitoring (Prometheus, Grafana).

The node of the searching process exports them, each tagged with the run's name: ``ray_blendsearch_evaluations_total``
(by `status`: done, failed, retried), ``ray_blendsearch_evaluation_seconds`` (a histogram by `fidelity`),
``ray_blendsearch_queue`` (requests that wait for a worker), ``ray_blendsearch_running``, ``ray_blendsearch_workers``,
``ray_blendsearch_best_loss`` and ``ray_blendsearch_hypervolume``.
"""

from typing import Any

from blendsearch.events import Event, GenerationDone

SECONDS_BOUNDARIES = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3600.0, 14400.0]
"""Boundaries of the histogram, in seconds: a recalibration takes seconds, a long fine-tune hours."""


class Metrics:
    """Metrics of one run. Ray must be connected."""

    def __init__(self, run: str) -> None:
        from ray.util.metrics import Counter, Gauge, Histogram

        def make_metric(kind: Any, name: str, description: str, *tags: str, **more: Any) -> Any:
            made = kind(f"blendsearch_{name}", description=description, tag_keys=("run", *tags), **more)
            made.set_default_tags({"run": run})
            return made

        self._evaluations = make_metric(Counter, "evaluations", "Evaluations by how they ended", "status")
        self._seconds = make_metric(
            Histogram, "evaluation_seconds", "Seconds of an evaluation", "fidelity", boundaries=SECONDS_BOUNDARIES
        )
        self._queue = make_metric(Gauge, "queue", "Requests that wait for a worker")
        self._running = make_metric(Gauge, "running", "Requests that are worked on")
        self._workers = make_metric(Gauge, "workers", "Workers there is room for")
        self._best = make_metric(Gauge, "best_loss", "Lowest validation loss so far")
        self._hypervolume = make_metric(Gauge, "hypervolume", "Hypervolume of the front")

    def record_evaluation(self, status: str, fidelity: str = "", seconds: float = 0.0) -> None:
        """Record that an evaluation, or an attempt, ended as `status`: done, failed or retried."""
        self._evaluations.inc(1, {"status": status})
        if status == "done":
            self._seconds.observe(seconds, {"fidelity": fidelity})

    def record_load(self, queue: int, running: int, workers: int) -> None:
        """Record the numbers of waiting requests, of running requests and of workers."""
        self._queue.set(queue)
        self._running.set(running)
        self._workers.set(workers)

    def receive_event(self, event: Event) -> None:
        """Update the metrics of a finished generation."""
        if isinstance(event, GenerationDone):
            self._hypervolume.set(event.hypervolume)
            if event.best_loss is not None:
                self._best.set(event.best_loss)
