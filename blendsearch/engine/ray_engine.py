"""Evaluations on Ray: long-lived actors that hold model and data, and are sent requests of a few hundred bytes."""

import contextlib
import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

from blendsearch.engine.base import submit_nothing
from blendsearch.engine.ray_connection import connect
from blendsearch.engine.ray_metrics import Metrics
from blendsearch.engine.ray_train import RayTrainPool
from blendsearch.engine.ray_train_checks import check_batches
from blendsearch.engine.ray_worker import Worker
from blendsearch.engine.retries import UNREACHABLE_SECONDS, PendingRequest, RetryQueue
from blendsearch.engine.telemetry import Telemetry
from blendsearch.errors import EngineError
from blendsearch.events import Event
from blendsearch.fitness.evaluator import Evaluator, Outcome, Request
from blendsearch.runs.config.schema import EngineConfig
from blendsearch.runs.worker_logs import WorkerLogs

RESIZE_SECONDS = 5.0
"""How often the cluster is asked what it has room for now."""

MAX_FAILED_STARTS = 6
"""Workers that may fail to start, one after another with none in between that does, before that is an error."""


@dataclass(eq=False)
class WorkerHandle:
    """A worker: its number, its actor, and the node it runs on once it has started."""

    number: int
    actor: Any
    node: str = ""


@dataclass
class RunningRequest:
    """A request on its way: on which worker, and since when."""

    pending: PendingRequest
    worker: WorkerHandle
    started_at: float


class RayEngine:
    """One actor per GPU share or CPU slot, as many as the cluster has room for at the time.

    A worker that dies or exceeds the time limit is replaced, and its request tried again elsewhere; after `retries`
    more attempts the request comes back as failed. A node that dies takes no attempt away. Evaluations are pure, so one
    that is repeated does no harm. Workers of nodes that join are put to work. Raises EngineError, from `completed`,
    when no worker can be started, or none is there for `engine.patience` seconds.

    With `several` above 1, every final takes so many workers of its own, by Ray Train. All actors go first: they hold
    what those wait for. So no final begins before everything else is back; afterwards actors are started again.
    """

    def __init__(self, config: EngineConfig, evaluator: Evaluator, workers_per_final: int = 1) -> None:
        self._config = config
        self._ray, self._owns_connection = connect(config.ray)
        self._device = evaluator.device.type if config.device == "same" else config.device
        self._on_gpu = self._device == "cuda"
        try:
            check_batches(evaluator, workers_per_final)
            self.workers = config.workers or self._require_slots(workers_per_final)
        except EngineError:
            self._disconnect()
            raise
        cores = int(self._ray.cluster_resources().get("CPU", 1))
        # fixed now, and the same everywhere: sums over another number of threads end in other last digits
        self._threads = config.threads or max(1, cores // self.workers)
        # the model as one copy per worker, which may write to its own; image arrays are shared memory, read only
        resting = dataclasses.replace(evaluator, model=evaluator.model.cpu())
        self._payload = self._ray.put(resting)
        evaluator.model.to(evaluator.device)
        self._queue: deque[PendingRequest] = deque()
        self._starting: dict[Any, WorkerHandle] = {}
        self._idle: deque[WorkerHandle] = deque()
        self._running: dict[Any, RunningRequest] = {}
        self._unreachable: list[tuple[RunningRequest, BaseException, float]] = []
        self._failed_starts = 0
        self._worker_numbers = count()
        self._telemetry = Telemetry()
        self._retry_queue = RetryQueue(self._queue, config.retries, self._telemetry)
        self._workers_per_final = workers_per_final
        self._train_pool = RayTrainPool(
            *(self._ray, config, workers_per_final, self._payload, self._threads, self._device, self._telemetry),
            next_number=lambda: next(self._worker_numbers),
            list_nodes=self._list_nodes,
            count_slots=lambda: self._count_final_slots() // workers_per_final,
        )
        self._last_resize = self._last_activity = self._last_node_check = time.monotonic()
        self._adjust_workers()

    @property
    def busy_workers(self) -> int:
        return len(self._running) + self._train_pool.busy_workers

    def submit(self, request: Request) -> None:
        if self._workers_per_final > 1 and request.fidelity == "final":
            self._train_pool.submit(request)
        else:
            self._queue.append(PendingRequest(request))

    def iter_outcomes(self, feed: Callable[[], None] = submit_nothing) -> Iterator[Outcome]:
        self._last_activity = time.monotonic()
        while True:
            feed()
            if not (self._queue or self._running or self._unreachable):
                if not self._train_pool.outstanding:
                    return
                self._stop_idle_workers()
                yield from self._train_pool.iter_outcomes(feed)
                self._last_activity = time.monotonic()
                continue
            self._resize()
            self._adjust_workers()
            yield from self._resolve_unreachable()
            self._dispatch()
            self._telemetry.record_load(len(self._queue), len(self._running), self.workers)
            waiting = [*self._running, *self._starting]
            if not waiting:
                time.sleep(0.2)
                continue
            ready, _ = self._ray.wait(waiting, num_returns=1, timeout=1.0)
            for reference in ready:
                if reference in self._starting:
                    self._handle_started(reference)
                elif (outcome := self._receive_outcome(reference)) is not None:
                    yield outcome
            yield from self._stop_overdue()
            yield from self._drop_dead_nodes()

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
        self._disconnect()

    def list_processes(self) -> dict[int, str]:
        """Process ids of the workers that wait for work, with their node; to see, and to test by killing them."""
        found: list[tuple[str, int]] = self._ray.get([place.actor.start.remote() for place in self._idle])
        return {process: node for node, process in found}

    def _dispatch(self) -> None:
        while self._queue and self._idle:
            asked, place = self._queue.popleft(), self._idle.popleft()
            self._running[place.actor.evaluate.remote(asked.request)] = RunningRequest(asked, place, time.monotonic())

    def _handle_started(self, reference: Any) -> None:
        place = self._starting.pop(reference)
        try:
            place.node, process = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._kill(place)
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                cause = getattr(error, "cause", None) or error
                reason = next((line for line in reversed(str(cause).splitlines()) if line.strip()), str(type(cause)))
                raise EngineError(
                    f"{MAX_FAILED_STARTS} workers in turn did not start: {reason.strip()}; has every node this "
                    "code, the "
                    "same versions, and memory for the data?"
                ) from error
            self._adjust_workers()
        else:
            self._failed_starts = 0
            self._telemetry.record_start(place.number, place.node, process)
            self._idle.append(place)

    def _receive_outcome(self, reference: Any) -> Outcome | None:
        """The outcome of a finished call; None when it failed and is tried again."""
        item = self._running.pop(reference)
        self._last_activity = time.monotonic()
        try:
            answer: tuple[Outcome, list[str]] = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            self._idle.append(item.worker)
            cause = error.cause if isinstance(error.cause, Exception) else error
            return self._retry_queue.retry(item.pending, item.worker.number, cause, "failed", error)
        except self._ray.exceptions.RayError as error:  # the worker, its node or its memory is gone
            self._kill(item.worker)
            self._adjust_workers()
            if not isinstance(error, self._ray.exceptions.ActorUnavailableError):
                return self._retry_lost(item, error)
            self._unreachable.append((item, error, time.monotonic()))
            return None
        self._idle.append(item.worker)
        self._telemetry.record_outcome(item.worker.number, item.pending.request, *answer)
        return answer[0]

    def _retry_lost(self, item: RunningRequest, error: BaseException) -> Outcome | None:
        """What becomes of a request whose worker is gone: it is blamed unless the whole node is gone too."""
        node_too = item.worker.node not in self._list_nodes()
        return self._retry_queue.retry_lost(item.pending, item.worker.number, error, node_lost=node_too)

    def _resolve_unreachable(self) -> Iterator[Outcome]:
        """Requests whose worker could not be reached, once it is known why, or was waited for long enough."""
        waiting, self._unreachable = self._unreachable, []
        nodes = self._list_nodes() if waiting else {}
        for item, error, since in waiting:
            if item.worker.node in nodes and time.monotonic() - since < UNREACHABLE_SECONDS:
                self._unreachable.append((item, error, since))
            elif (outcome := self._retry_lost(item, error)) is not None:
                yield outcome

    def _stop_overdue(self) -> Iterator[Outcome]:
        """Kill and replace workers whose evaluation exceeds the time limit."""
        now = time.monotonic()
        for reference, item in list(self._running.items()):
            final = item.pending.request.fidelity == "final"
            allowed = self._config.final_timeout if final else self._config.timeout
            if now - item.started_at > allowed:
                del self._running[reference]
                self._kill(item.worker)
                self._adjust_workers()
                limit = TimeoutError(f"not done after {allowed:g} s (engine.timeout, engine.final_timeout)")
                outcome = self._retry_queue.retry(item.pending, item.worker.number, limit, "killed")
                if outcome is not None:
                    yield outcome

    def _drop_dead_nodes(self) -> Iterator[Outcome]:
        """Give up on workers whose node counts as dead: for minutes, a call to one may only seem to be under way."""
        if not self._running or time.monotonic() - self._last_node_check < RESIZE_SECONDS:
            return
        self._last_node_check, nodes = time.monotonic(), self._list_nodes()
        for reference, item in list(self._running.items()):
            if item.worker.node not in nodes:
                del self._running[reference]
                self._kill(item.worker)
                self._adjust_workers()
                outcome = self._retry_lost(item, ConnectionError(f"node {item.worker.node} is gone"))
                if outcome is not None:
                    yield outcome

    def _resize(self) -> None:
        """Every few seconds: as many workers as the cluster now has room for. Raises EngineError out of patience."""
        now = time.monotonic()
        if self._running or self._idle:
            self._last_activity = now
        elif now - self._last_activity > self._config.patience:
            raise EngineError(
                f"no worker for {self._config.patience:g} s (engine.patience): nothing that was evaluated is lost; "
                "resume the run when the cluster has room again"
            )
        if now - self._last_resize < RESIZE_SECONDS:
            return
        self._last_resize = now
        if self._config.workers is None:
            # never none: a worker that waits for a place is what makes an autoscaler start a node
            self.workers = max(1, self._count_slots())
        self._adjust_workers()

    def _adjust_workers(self) -> None:
        """Start the workers that are missing; of too many, those that wait for a place go."""
        surplus = len(self._starting) + len(self._idle) + len(self._running) - self.workers
        for reference in list(self._starting)[: max(0, surplus)]:
            self._kill(self._starting.pop(reference))
        for _ in range(-surplus):
            place = self._create_worker()
            # the first call returns when the worker has started: until then no request waits on it, and no clock runs
            self._starting[place.actor.start.remote()] = place

    def _stop_idle_workers(self) -> None:
        """End the workers that have nothing to do."""
        for place in [*self._starting.values(), *self._idle]:
            self._kill(place)
        self._starting.clear()
        self._idle.clear()

    def _create_worker(self) -> WorkerHandle:
        options: dict[str, Any] = {"max_restarts": 0, "max_task_retries": 0}
        share = self._config.gpus_per_worker
        if self._on_gpu:
            options |= {"num_gpus": share, "num_cpus": 0}
        else:
            options |= {"num_cpus": self._config.threads or 1, "num_gpus": 0}
        actor = self._ray.remote(Worker).options(**options)
        return WorkerHandle(
            next(self._worker_numbers), actor.remote(self._payload, self._threads, self._device, min(1.0, share))
        )

    def _kill(self, worker: WorkerHandle) -> None:
        with contextlib.suppress(Exception):
            self._ray.kill(worker.actor)

    def _list_nodes(self) -> dict[str, dict[str, float]]:
        """What every living node offers in all."""
        return {node["NodeID"]: node["Resources"] for node in self._ray.nodes() if node["Alive"]}

    def _count_slots(self) -> int:
        """How many workers the living nodes have room for, each node as it comes; a share of a GPU is of one GPU."""
        if self._on_gpu:
            share = self._config.gpus_per_worker
            return sum(count_node_slots(offer.get("GPU", 0.0), share) for offer in self._list_nodes().values())
        return sum(int(offer.get("CPU", 0.0) // (self._config.threads or 1)) for offer in self._list_nodes().values())

    def _count_final_slots(self) -> int:
        """The same for the workers of a final, of which each takes a whole GPU."""
        if self._on_gpu:
            return sum(int(offer.get("GPU", 0.0)) for offer in self._list_nodes().values())
        return self._count_slots()

    def _require_slots(self, workers_per_final: int) -> int:
        """`_places`, where there are any. Raises EngineError where there are none, or not as many as a final takes."""
        places = self._count_slots()
        if places and self._count_final_slots() >= workers_per_final:
            return places
        need = f"{self._config.threads or 1} CPU per worker (engine.threads)"
        if self._on_gpu:
            need = f"{self._config.gpus_per_worker:g} GPU per worker (engine.gpus_per_worker)"
        what = "one worker"
        if places:
            what = f"the {workers_per_final} workers of a fine-tune (finals.workers)"
            need = "a GPU for each of them" if self._on_gpu else need
        offers = ", ".join(
            f"{offer.get('CPU', 0):g} CPU and {offer.get('GPU', 0):g} GPU" for offer in self._list_nodes().values()
        )
        raise EngineError(
            f"the cluster has no room for {what}: its nodes offer {offers}, expected {need}; to wait for nodes "
            "that are yet to come, set engine.workers"
        )

    def _disconnect(self) -> None:
        if self._owns_connection:
            self._ray.shutdown()


def count_node_slots(gpus: float, share: float) -> int:
    """How many workers of `share` GPU a node of `gpus` has room for: a share below one never spans two GPUs."""
    slack = 1e-6  # 1 / 0.1 is 9.99... to some
    if share <= 1:
        return int(gpus + slack) * int(1 / share + slack)
    return int(gpus / share + slack)
