"""Evaluations on Ray: long-lived actors hold model and data and receive requests of a few hundred bytes."""

import contextlib
import copy
import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

from torch import nn

from blendsearch.engine.base import submit_nothing
from blendsearch.engine.ray_connection import connect
from blendsearch.engine.ray_metrics import Metrics
from blendsearch.engine.ray_train import RayTrainPool
from blendsearch.engine.ray_train_actor import WorkerSetup
from blendsearch.engine.ray_train_checks import check_batches
from blendsearch.engine.ray_training_store import RayStore, start_store_actor
from blendsearch.engine.ray_worker import Worker
from blendsearch.engine.retries import UNREACHABLE_SECONDS, LossSeries, PendingRequest, RetryQueue
from blendsearch.engine.running_request import RunningRequest, WorkerHandle
from blendsearch.engine.telemetry import Telemetry
from blendsearch.errors import EngineError
from blendsearch.events import Event
from blendsearch.fitness.evaluator import Evaluator, Outcome, Request
from blendsearch.runs.config.schema import EngineConfig
from blendsearch.runs.worker_logs import WorkerLogs
from blendsearch.training.recovery import LONG_FIDELITIES
from blendsearch.training.training_store import NO_STORE, FolderStore, TrainingStore

RESIZE_SECONDS = 5.0
"""Interval at which the engine checks how many workers the cluster has room for."""

MAX_READY = 64
"""Largest number of outcomes that are received together; the search stores them in one transaction."""

MAX_FAILED_STARTS = 6
"""Number of consecutive workers that fail to start before the engine raises an error."""


class RayEngine:
    """One actor per GPU share or CPU slot, as many as the cluster has room for.

    A worker that dies or exceeds the time limit is replaced, and its request is retried on another one. After `retries`
    more attempts the request fails. The loss of a node does not count as an attempt. Evaluations are pure, so repeating
    one does no harm. Workers on nodes that join are used. `iter_outcomes` raises EngineError if workers fail to start,
    or if there is no worker for `engine.patience` seconds.

    With `workers_per_final` above 1, Ray Train trains every final on as many workers of its own. All actors are stopped
    first, since they occupy the resources. So no final starts before all other requests are done; afterwards actors are
    started again. A training that stops before the end of its schedule runs on one ordinary worker.
    """

    def __init__(self, config: EngineConfig, evaluator: Evaluator, workers_per_final: int = 1) -> None:
        self._config = config
        self._connection = connect(config.ray)
        self._ray = self._connection.ray
        self._device = evaluator.device.type if config.device == "same" else config.device
        self._on_gpu = self._device == "cuda"
        try:
            check_batches(evaluator, workers_per_final)
            self.workers = config.workers or self._require_slots(workers_per_final)
        except EngineError:
            self._connection.close()
            raise
        cores = int(self._ray.cluster_resources().get("CPU", 1))
        # fixed, and equal on all nodes: the number of threads changes the last digits of sums
        self._threads = config.threads or max(1, cores // self.workers)
        self._store_actor = start_store_actor(self._ray)
        self._store: TrainingStore = NO_STORE
        # every worker has its own copy of the model; image arrays are read-only shared memory
        store = RayStore(self._store_actor)
        self._payload = self._ray.put(
            dataclasses.replace(evaluator, model=evaluator.model.cpu(), store=store, tuned=None)
        )
        evaluator.model.to(evaluator.device)
        self._tuned = None if evaluator.tuned is None else self._put_network(evaluator.tuned)
        self._queue: deque[PendingRequest] = deque()
        self._starting: dict[Any, WorkerHandle] = {}
        self._idle: deque[WorkerHandle] = deque()
        self._running: dict[Any, RunningRequest] = {}
        self._unreachable: list[tuple[RunningRequest, BaseException, float]] = []
        self._failed_starts = 0
        self._worker_numbers = count()
        self._telemetry = Telemetry()
        self._retry_queue = RetryQueue(self._queue, config.retries, self._telemetry)
        self._losses = LossSeries()
        self._workers_per_final = workers_per_final
        self._train_pool = RayTrainPool(
            self._ray,
            config,
            WorkerSetup(self._payload, self._threads, self._device, self._tuned),
            self._telemetry,
            workers_per_training=workers_per_final,
            next_number=lambda: next(self._worker_numbers),
            list_nodes=self._list_nodes,
            count_slots=lambda: self._count_final_slots() // workers_per_final,
        )
        self._last_resize = self._last_activity = self._last_node_check = self._last_report = time.monotonic()
        self._adjust_workers()

    @property
    def busy_workers(self) -> int:
        return len(self._running) + self._train_pool.busy_workers

    def submit(self, request: Request) -> None:
        if self._workers_per_final > 1 and request.fidelity == "final" and request.stop == 1:
            self._train_pool.submit(request)
        else:
            self._queue.append(PendingRequest(request))

    def iter_outcomes(self, feed: Callable[[], None] = submit_nothing) -> Iterator[Outcome]:
        self._last_activity = time.monotonic()
        while True:
            feed()
            yield from self._losses.iter_released()
            if not (self._queue or self._running or self._unreachable):
                if self._losses.withheld:
                    yield from self._losses.iter_released(is_last=True)
                    continue
                if not self._train_pool.outstanding:
                    return
                self._stop_idle_workers()
                yield from self._train_pool.iter_outcomes(feed)
                self._last_activity = time.monotonic()
                continue
            self._resize()
            self._adjust_workers()
            self._resolve_unreachable()
            self._dispatch()
            self._telemetry.record_load(len(self._queue), len(self._running), self.workers)
            pending = [*self._running, *self._starting]
            if not pending:
                time.sleep(0.2)
                continue
            ready, _ = self._ray.wait(pending, num_returns=1, timeout=1.0)
            if ready:
                ready, _ = self._ray.wait(pending, num_returns=min(len(pending), MAX_READY), timeout=0)
            self._report_progress()
            for reference in ready:
                if reference in self._starting:
                    self._handle_started(reference)
                elif (outcome := self._receive_outcome(reference)) is not None:
                    yield outcome
            self._stop_overdue()
            self._drop_dead_nodes()

    def attach_store(self, store: TrainingStore) -> None:
        self._store = store
        if isinstance(store, FolderStore):
            self._ray.get(self._store_actor.attach.remote(str(store.folder.absolute())))

    def attach_tuned(self, network: nn.Module) -> None:
        """Restart the workers, which have their own copy of the network."""
        self._tuned = self._put_network(network)
        self._train_pool.attach_tuned(self._tuned)
        self._stop_idle_workers()
        self._adjust_workers()

    def start_telemetry(self, run: str, logs: WorkerLogs) -> None:
        self._telemetry.logs, self._telemetry.metrics = logs, Metrics(run)

    def receive_event(self, event: Event) -> None:
        self._telemetry.receive_event(event)

    def close(self) -> None:
        self._queue.clear()
        self._train_pool.close()
        self._stop_idle_workers()
        for item in self._running.values():
            self._kill(item.worker)
        self._running.clear()
        self._unreachable.clear()
        self._connection.close()

    def _report_progress(self) -> None:
        """Pass on the progress of trainings, at most every second."""
        if time.monotonic() - self._last_report >= 1.0:
            self._last_report = time.monotonic()
            with contextlib.suppress(self._ray.exceptions.RayError):  # progress is shown, and nothing depends on it
                for progress in self._ray.get(self._store_actor.take_progress.remote()):
                    self._store.report(progress)

    def _dispatch(self) -> None:
        while self._queue and self._idle:
            pending, worker = self._queue.popleft(), self._idle.popleft()
            reference = worker.actor.evaluate.remote(pending.request)
            self._running[reference] = RunningRequest(pending, worker, time.monotonic())

    def _handle_started(self, reference: Any) -> None:
        worker = self._starting.pop(reference)
        try:
            worker.node, process = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._kill(worker)
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                cause = getattr(error, "cause", None) or error
                reason = next((line for line in reversed(str(cause).splitlines()) if line.strip()), str(type(cause)))
                raise EngineError(
                    f"{MAX_FAILED_STARTS} workers in turn did not start: {reason.strip()}; every node needs this code, "
                    "the same versions, and memory for the data"
                ) from error
            self._adjust_workers()
        else:
            self._failed_starts = 0
            self._telemetry.record_start(worker.number, worker.node, process)
            self._idle.append(worker)

    def _receive_outcome(self, reference: Any) -> Outcome | None:
        """Return the outcome of a finished call; None if it failed and is retried."""
        item = self._running.pop(reference)
        self._last_activity = time.monotonic()
        try:
            result: tuple[Outcome, list[str]] = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            self._idle.append(item.worker)
            self._losses.end()
            cause = error.cause if isinstance(error.cause, Exception) else error
            return self._retry_queue.retry(item.pending, item.worker.number, cause, "failed", error)
        except self._ray.exceptions.RayError as error:  # the worker, its node or its memory is gone
            self._kill(item.worker)
            self._adjust_workers()
            if not isinstance(error, self._ray.exceptions.ActorUnavailableError):
                self._retry_lost(item, error)
            else:
                self._unreachable.append((item, error, time.monotonic()))
            return None
        self._idle.append(item.worker)
        self._losses.end()
        self._telemetry.record_outcome(item.worker.number, item.pending.request, *result)
        return result[0]

    def _retry_lost(self, item: RunningRequest, error: BaseException) -> None:
        """Retry a request whose worker is gone; it counts as an attempt unless the whole node is gone too."""
        node_lost = item.worker.node not in self._list_nodes()
        if not node_lost:
            self._losses.record(item.pending, error, self.workers)
        outcome = self._retry_queue.retry_lost(item.pending, item.worker.number, error, node_lost=node_lost)
        self._losses.withhold(outcome)

    def _resolve_unreachable(self) -> None:
        """Retry requests with an unreachable worker once its node is known to be lost, or after a waiting time."""
        unreachable, self._unreachable = self._unreachable, []
        # the node of this process cannot be lost
        nodes = self._list_nodes().keys() - {self._ray.get_runtime_context().get_node_id()} if unreachable else set()
        for item, error, since in unreachable:
            if item.worker.node in nodes and time.monotonic() - since < UNREACHABLE_SECONDS:
                self._unreachable.append((item, error, since))
            else:
                self._retry_lost(item, error)

    def _stop_overdue(self) -> None:
        """Kill and replace workers whose evaluation exceeds the time limit."""
        for reference, item in self._find_overdue().items():
            del self._running[reference]
            self._kill(item.worker)
            self._adjust_workers()
            name, limit = self._get_time_limit(item)
            error = TimeoutError(f"not done after {limit:g} s ({name})")
            self._losses.record(item.pending, error, self.workers)
            self._losses.withhold(self._retry_queue.retry(item.pending, item.worker.number, error, "killed"))

    def _find_overdue(self) -> dict[Any, RunningRequest]:
        """Find evaluations that exceed the time limit; an outcome that waits to be received is in time."""
        now = time.monotonic()
        overdue = {
            reference: item
            for reference, item in self._running.items()
            if now - item.started_at > self._get_time_limit(item)[1]
        }
        if overdue:
            ready, _ = self._ray.wait([*overdue], num_returns=len(overdue), timeout=0)
            overdue = {reference: item for reference, item in overdue.items() if reference not in ready}
        return overdue

    def _get_time_limit(self, item: RunningRequest) -> tuple[str, float]:
        if item.pending.request.fidelity in LONG_FIDELITIES:
            return "engine.final_timeout", self._config.final_timeout
        return "engine.timeout", self._config.timeout

    def _drop_dead_nodes(self) -> None:
        """Drop workers on dead nodes: their calls may seem to be running for minutes."""
        if not self._running or time.monotonic() - self._last_node_check < RESIZE_SECONDS:
            return
        self._last_node_check, nodes = time.monotonic(), self._list_nodes()
        for reference, item in list(self._running.items()):
            if item.worker.node not in nodes:
                del self._running[reference]
                self._kill(item.worker)
                self._adjust_workers()
                self._retry_lost(item, ConnectionError(f"node {item.worker.node} is gone"))

    def _resize(self) -> None:
        """Adapt the number of workers to the cluster every few seconds. Raises EngineError after `engine.patience`."""
        now = time.monotonic()
        if self._running or self._idle:
            self._last_activity = now
        elif now - self._last_activity > self._config.patience:
            raise EngineError(
                f"no worker for {self._config.patience:g} s (engine.patience): no finished evaluation is lost; "
                "resume the run when the cluster has room again"
            )
        if now - self._last_resize < RESIZE_SECONDS:
            return
        self._last_resize = now
        if self._config.workers is None:
            # at least one: a pending worker makes an autoscaler start a node
            self.workers = max(1, self._count_slots())
        self._adjust_workers()

    def _adjust_workers(self) -> None:
        """Start missing workers; stop surplus workers that have not started yet."""
        surplus = len(self._starting) + len(self._idle) + len(self._running) - self.workers
        for reference in list(self._starting)[: max(0, surplus)]:
            self._kill(self._starting.pop(reference))
        for _ in range(-surplus):
            worker = self._create_worker()
            # this call returns when the worker has started; only then requests are sent and timed
            self._starting[worker.actor.start.remote()] = worker

    def _stop_idle_workers(self) -> None:
        """Stop the workers without a request."""
        for worker in [*self._starting.values(), *self._idle]:
            self._kill(worker)
        self._starting.clear()
        self._idle.clear()

    def _create_worker(self) -> WorkerHandle:
        options: dict[str, float] = {"max_restarts": 0, "max_task_retries": 0}
        share = self._config.gpus_per_worker
        if self._on_gpu:
            options |= {"num_gpus": share, "num_cpus": 0}
        else:
            options |= {"num_cpus": self._config.threads or 1, "num_gpus": 0}
        actor = self._ray.remote(Worker).options(**options)
        setup = (self._payload, self._threads, self._device, min(1.0, share), self._tuned)
        return WorkerHandle(next(self._worker_numbers), actor.remote(*setup))

    def _put_network(self, network: nn.Module) -> Any:
        """Return a reference to a copy of `network` on the CPU."""
        return self._ray.put(copy.deepcopy(network).cpu())

    def _kill(self, worker: WorkerHandle) -> None:
        with contextlib.suppress(Exception):
            self._ray.kill(worker.actor)

    def _list_nodes(self) -> dict[str, dict[str, float]]:
        """Return the total resources of every living node."""
        return {node["NodeID"]: node["Resources"] for node in self._ray.nodes() if node["Alive"]}

    def _count_slots(self) -> int:
        """Count the workers that living nodes have room for; a share of a GPU is always of one GPU."""
        if self._on_gpu:
            share = self._config.gpus_per_worker
            return sum(count_node_slots(node.get("GPU", 0.0), share) for node in self._list_nodes().values())
        return sum(int(node.get("CPU", 0.0) // (self._config.threads or 1)) for node in self._list_nodes().values())

    def _count_final_slots(self) -> int:
        """Count the workers of finals that living nodes have room for; each takes a whole GPU."""
        if self._on_gpu:
            return sum(int(node.get("GPU", 0.0)) for node in self._list_nodes().values())
        return self._count_slots()

    def _require_slots(self, workers_per_final: int) -> int:
        """Count the slots. Raises EngineError if there are none, or fewer than a final needs."""
        slots = self._count_slots()
        if slots and self._count_final_slots() >= workers_per_final:
            return slots
        need = f"{self._config.threads or 1} CPU per worker (engine.threads)"
        if self._on_gpu:
            need = f"{self._config.gpus_per_worker:g} GPU per worker (engine.gpus_per_worker)"
        what = "one worker"
        if slots:
            what = f"the {workers_per_final} workers of a fine-tune (finals.workers)"
            need = "a GPU for each of them" if self._on_gpu else need
        resources = ", ".join(
            f"{node.get('CPU', 0):g} CPU and {node.get('GPU', 0):g} GPU" for node in self._list_nodes().values()
        )
        raise EngineError(
            f"the cluster has no room for {what}: its nodes have {resources}, expected {need}; to wait for further "
            "nodes, set engine.workers"
        )


def count_node_slots(gpus: float, share: float) -> int:
    """Count the workers of `share` GPUs that a node of `gpus` GPUs has room for; a share below one never spans two
    GPUs.
    """
    slack = 1e-6  # 1 / 0.1 may round below 10
    if share <= 1:
        return int(gpus + slack) * int(1 / share + slack)
    return int(gpus / share + slack)
