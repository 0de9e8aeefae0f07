"""Long fine-tunes on several workers of a Ray cluster each: data parallel, by Ray Train's TorchTrainer.

A `TrainActor` per training calls Ray Train. Failed trainings are retried here, by the same rules as any other
evaluation, and not by Ray Train.
"""

import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from blendsearch.engine.ray_train_actor import TrainActor, WorkerSetup
from blendsearch.engine.retries import UNREACHABLE_SECONDS, PendingRequest, RetryQueue
from blendsearch.engine.telemetry import Telemetry
from blendsearch.errors import EngineError
from blendsearch.fitness.evaluator import Outcome, Request
from blendsearch.runs.config.schema import EngineConfig

RAY_TRAIN_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # data may lie under relative paths
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "2592000",  # a full cluster is waited for with `engine.patience`
}
"""Environment of processes that call Ray Train."""

NODE_CHECK_SECONDS = 5.0
"""Interval at which the nodes of trainings are checked."""


@dataclass(eq=False)
class Training:
    """A running fine-tune.

    Attributes
    ----------
    number: worker number for logs.
    changed_at: time at which it was requested, then at which its workers started.
    nodes: nodes of its workers once they have started.
    placement_group: Ray's reservation of their resources.
    """

    number: int
    pending: PendingRequest
    actor: Any
    changed_at: float
    nodes: frozenset[str] = frozenset()
    placement_group: Any = None


class RayTrainPool:
    """Trains networks on several workers each, as many at a time as there is room for; uses the whole cluster
    meanwhile.

    `count_slots` returns how many trainings have room. A training that dies or exceeds `engine.final_timeout` is
    retried, and fails after `engine.retries` more attempts.
    """

    def __init__(
        self,
        ray: Any,
        config: EngineConfig,
        setup: WorkerSetup,
        telemetry: Telemetry,
        *,
        workers_per_training: int,
        next_number: Callable[[], int],
        list_nodes: Callable[[], dict[str, dict[str, float]]],
        count_slots: Callable[[], int],
    ) -> None:
        self._ray, self._config, self._setup, self._telemetry = ray, config, setup, telemetry
        self._size = workers_per_training
        self._next_number, self._list_nodes, self._count_slots = next_number, list_nodes, count_slots
        self._queue: deque[PendingRequest] = deque()
        self._retry_queue = RetryQueue(self._queue, config.retries, telemetry)
        self._starting: dict[Any, Training] = {}
        self._running: dict[Any, Training] = {}
        self._unreachable: list[tuple[Training, BaseException]] = []
        # as many CPUs as any other worker reserves, independent of its threads
        self._resources = {"GPU": 1.0} if setup.device == "cuda" else {"CPU": float(config.threads or 1)}
        self._folder = ""
        self._last_node_check = 0.0

    @property
    def outstanding(self) -> bool:
        return bool(self._queue or self._running or self._unreachable)

    @property
    def busy_workers(self) -> int:
        return self._size * len(self._running)

    def attach_tuned(self, reference: Any) -> None:
        """Slice the networks out of another one from now on."""
        self._setup = self._setup._replace(tuned=reference)

    def submit(self, request: Request) -> None:
        self._queue.append(PendingRequest(request))

    def iter_outcomes(self, feed: Callable[[], None]) -> Iterator[Outcome]:
        """Yield the outcomes of all submitted requests. Raises EngineError if there is no room for `engine.patience`
        seconds.
        """
        while True:
            feed()
            if not self.outstanding:
                return
            yield from self._resolve_unreachable()
            while self._queue and len(self._running) < max(1, self._count_slots()):
                self._start_training(self._queue.popleft())
            self._telemetry.record_load(len(self._queue), self.busy_workers, self._size * max(1, self._count_slots()))
            if not self._running:
                time.sleep(0.2)
                continue
            ready, _ = self._ray.wait([*self._running, *self._starting], num_returns=1, timeout=1.0)
            for reference in ready:
                if reference in self._starting:
                    self._handle_started(reference)
                elif (outcome := self._receive_outcome(reference)) is not None:
                    yield outcome
            yield from self._stop_overdue()

    def close(self) -> None:
        for training in self._running.values():
            self._stop_training(training)
        self._queue.clear()
        self._starting.clear()
        self._running.clear()
        self._unreachable.clear()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _start_training(self, pending: PendingRequest) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._folder = self._folder or tempfile.mkdtemp(prefix="blendsearch-train-")
        here = self._ray.get_runtime_context().get_node_id()
        actor = (
            self._ray.remote(TrainActor)
            .options(
                num_cpus=0,
                max_restarts=0,
                # one call trains, one waits for the start, and all workers may report at once
                max_concurrency=self._size + 2,
                scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
                runtime_env={"env_vars": RAY_TRAIN_ENVIRONMENT},
            )
            .remote(self._setup, self._resources, self._size, self._folder)
        )
        training = Training(self._next_number(), pending, actor, time.monotonic())
        self._running[actor.train.remote(pending.request)] = training
        self._starting[actor.wait_for_workers.remote()] = training

    def _handle_started(self, reference: Any) -> None:
        training = self._starting.pop(reference)
        with suppress(self._ray.exceptions.RayError):  # then the call of `train` fails too, with the reason
            workers: list[tuple[str, int]]
            workers, training.placement_group = self._ray.get(reference)
            for node, process in workers:
                self._telemetry.record_start(training.number, node, process)
            training.nodes, training.changed_at = frozenset(node for node, _ in workers), time.monotonic()

    def _receive_outcome(self, reference: Any) -> Outcome | None:
        training = self._running.pop(reference)
        try:
            result: tuple[Outcome, list[str]] = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            cause, lost = find_cause(error, self._ray.exceptions.RayError)
            self._stop_training(training)
            if not lost:
                cause.add_note(str(error))  # Ray's traceback of the worker
                return self._retry_queue.retry(training.pending, training.number, cause, "failed")
            training.changed_at = time.monotonic()
            self._unreachable.append((training, cause))
            return None
        self._stop_training(training)
        self._telemetry.record_outcome(training.number, training.pending.request, *result)
        return result[0]

    def _resolve_unreachable(self) -> Iterator[Outcome]:
        """Retry trainings that lost a worker once its node is known to be lost, or after a waiting time."""
        unreachable, self._unreachable = self._unreachable, []
        nodes = self._list_nodes() if unreachable else {}
        here = self._ray.get_runtime_context().get_node_id() if unreachable else ""
        for training, error in unreachable:
            gone = not training.nodes <= nodes.keys()
            remote = bool(training.nodes - {here})  # the node of this process cannot be lost
            if remote and not gone and time.monotonic() - training.changed_at < UNREACHABLE_SECONDS:
                self._unreachable.append((training, error))
                continue
            outcome = self._retry_queue.retry_lost(training.pending, training.number, error, node_lost=gone)
            if outcome is not None:
                yield outcome

    def _stop_overdue(self) -> Iterator[Outcome]:
        """Stop trainings that exceed the time limit or lost a node. Raises EngineError for one that cannot start."""
        now = time.monotonic()
        check_nodes = now - self._last_node_check > NODE_CHECK_SECONDS
        nodes = self._list_nodes() if check_nodes else {}
        self._last_node_check = now if check_nodes else self._last_node_check
        for reference, training in list(self._running.items()):
            outcome = None
            if not training.nodes:
                self._check_patience(training, now)
            elif now - training.changed_at > self._config.final_timeout:
                del self._running[reference]
                self._stop_training(training)
                limit = TimeoutError(f"not done after {self._config.final_timeout:g} s (engine.final_timeout)")
                outcome = self._retry_queue.retry(training.pending, training.number, limit, "killed")
            elif check_nodes and not training.nodes <= nodes.keys():
                del self._running[reference]
                self._stop_training(training)
                lost = ConnectionError(f"node {min(training.nodes - nodes.keys())} is gone")
                outcome = self._retry_queue.retry_lost(training.pending, training.number, lost, node_lost=True)
            if outcome is not None:
                yield outcome

    def _check_patience(self, training: Training, now: float) -> None:
        if any(other.nodes for other in self._running.values()):
            training.changed_at = now  # it may start when the other one ends
        elif now - training.changed_at > self._config.patience:
            raise EngineError(
                f"no room for the {self._size} workers of a fine-tune (finals.workers) for {self._config.patience:g} s "
                "(engine.patience): no finished evaluation is lost; resume the run when the cluster has room again"
            )

    def _stop_training(self, training: Training) -> None:
        """Stop the actor of a training and everything it started.

        The placement group is removed here, since Ray Train only removes that of a killed training with a dashboard.
        """
        self._starting = {key: other for key, other in self._starting.items() if other is not training}
        with suppress(Exception):
            self._ray.kill(training.actor)
        if training.placement_group is not None:
            with suppress(Exception):
                self._ray.util.remove_placement_group(training.placement_group)


def find_cause(error: BaseException, ray_error: type[BaseException]) -> tuple[BaseException, bool]:
    """Return why a training failed, and True if the cause is a lost process (a `ray_error`).

    If one process dies, the others fail too because they cannot reach it; their errors are ignored.
    """
    cause = getattr(error, "cause", None) or error
    failures = getattr(cause, "worker_failures", None)
    if failures is None:
        cause = getattr(cause, "controller_failure", cause)
        return cause, isinstance(cause, ray_error) and cause is error
    errors = [_unwrap(item) for _, item in sorted(failures.items())]
    for item in errors:
        if isinstance(item, ray_error):
            return item, True
    causes = [item for item in errors if not _is_unreachable(item)]
    return (causes[0], False) if causes else (errors[0], True)


def _unwrap(error: BaseException) -> BaseException:
    """Return the error of a worker without Ray Train's wrapper."""
    inner = getattr(error, "_base_exc", None) or getattr(error, "health_check_failure", None)
    return inner if isinstance(inner, BaseException) else error


def _is_unreachable(error: BaseException) -> bool:
    """Return True for errors that torch.distributed raises when another process does not respond."""
    text = f"{type(error).__name__} {error}".lower()
    return any(word in text for word in ("gloo", "nccl", "connection", "distbackend", "distnetwork"))
