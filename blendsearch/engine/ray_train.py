"""Long fine-tunes of which each takes several workers of a Ray cluster: data parallel, by Ray Train's TorchTrainer.

For each there is a conductor (engine.conductor), which calls Ray Train. Whatever fails is begun again from here, by the
same count as any other evaluation, and not by Ray Train.
"""

import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from blendsearch.engine.ray_train_actor import TrainActor
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
"""What Ray Train reads from the environment, where it is called."""

NODE_CHECK_SECONDS = 5.0
"""How often it is looked whether the nodes of a training are still there."""


@dataclass(eq=False)
class Training:
    """One fine-tune under way: its number, conductor, since when; once it has begun, on which nodes, held by what.

    `since` is when it was asked for, then when its workers had begun.
    """

    number: int
    pending: PendingRequest
    actor: Any
    changed_at: float
    nodes: frozenset[str] = frozenset()
    placement_group: Any = None


class RayTrainPool:
    """Trains one network after the other, or as many at a time as there is room for; the cluster is theirs meanwhile.

    `room` says how many at a time. A training that dies or exceeds `engine.final_timeout` is begun again, and comes
    back as failed after `engine.retries` more attempts.
    """

    def __init__(
        self,
        ray: Any,
        config: EngineConfig,
        size: int,
        payload: Any,
        threads: int,
        device: str,
        telemetry: Telemetry,
        next_number: Callable[[], int],
        list_nodes: Callable[[], dict[str, dict[str, float]]],
        count_slots: Callable[[], int],
    ) -> None:
        self._ray, self._config, self._size, self._payload = ray, config, size, payload
        self._threads, self._device, self._telemetry = threads, device, telemetry
        self._next_number, self._list_nodes, self._count_slots = next_number, list_nodes, count_slots
        self._queue: deque[PendingRequest] = deque()
        self._retry_queue = RetryQueue(self._queue, config.retries, telemetry)
        self._starting: dict[Any, Training] = {}
        self._running: dict[Any, Training] = {}
        self._unreachable: list[tuple[Training, BaseException]] = []
        # as many CPUs as any other worker asks for, however many threads it has
        self._resources = {"GPU": 1.0} if device == "cuda" else {"CPU": float(config.threads or 1)}
        self._folder = ""
        self._last_node_check = 0.0

    @property
    def outstanding(self) -> bool:
        return bool(self._queue or self._running or self._unreachable)

    @property
    def busy_workers(self) -> int:
        return self._size * len(self._running)

    def submit(self, request: Request) -> None:
        self._queue.append(PendingRequest(request))

    def iter_outcomes(self, feed: Callable[[], None]) -> Iterator[Outcome]:
        """The outcomes of all that was submitted. Raises EngineError when no room is found in `engine.patience`."""
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
        conductor = (
            self._ray.remote(TrainActor)
            .options(
                num_cpus=0,
                max_restarts=0,
                # one call trains, one waits for the beginning, and all workers may speak at once
                max_concurrency=self._size + 2,
                scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
                runtime_env={"env_vars": RAY_TRAIN_ENVIRONMENT},
            )
            .remote([self._payload], self._threads, self._resources, self._device, self._size, self._folder)
        )
        training = Training(self._next_number(), pending, conductor, time.monotonic())
        self._running[conductor.train.remote(pending.request)] = training
        self._starting[conductor.wait_for_workers.remote()] = training

    def _handle_started(self, reference: Any) -> None:
        training = self._starting.pop(reference)
        with suppress(self._ray.exceptions.RayError):  # then its training fails too, and says why
            standing: list[tuple[str, int]]
            standing, training.placement_group = self._ray.get(reference)
            for node, process in standing:
                self._telemetry.record_start(training.number, node, process)
            training.nodes, training.changed_at = frozenset(node for node, _ in standing), time.monotonic()

    def _receive_outcome(self, reference: Any) -> Outcome | None:
        training = self._running.pop(reference)
        try:
            answer: tuple[Outcome, list[str]] = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            cause, lost = find_cause(error, self._ray.exceptions.RayError)
            self._stop_training(training)
            if not lost:
                cause.add_note(str(error))  # the trace, as Ray brings it along
                return self._retry_queue.retry(training.pending, training.number, cause, "failed")
            training.changed_at = time.monotonic()
            self._unreachable.append((training, cause))
            return None
        self._stop_training(training)
        self._telemetry.record_outcome(training.number, training.pending.request, *answer)
        return answer[0]

    def _resolve_unreachable(self) -> Iterator[Outcome]:
        """Trainings that lost a worker, once it is known whether its node was lost, or was waited for long enough."""
        waiting, self._unreachable = self._unreachable, []
        nodes = self._list_nodes() if waiting else {}
        here = self._ray.get_runtime_context().get_node_id() if waiting else ""
        for training, error in waiting:
            gone = not training.nodes <= nodes.keys()
            elsewhere = bool(training.nodes - {here})  # this process's own node is there as long as it is
            if elsewhere and not gone and time.monotonic() - training.changed_at < UNREACHABLE_SECONDS:
                self._unreachable.append((training, error))
                continue
            outcome = self._retry_queue.retry_lost(training.pending, training.number, error, node_lost=gone)
            if outcome is not None:
                yield outcome

    def _stop_overdue(self) -> Iterator[Outcome]:
        """End trainings that take too long, or whose nodes are gone. Raises EngineError for one that cannot begin."""
        now = time.monotonic()
        looks = now - self._last_node_check > NODE_CHECK_SECONDS
        nodes = self._list_nodes() if looks else {}
        self._last_node_check = now if looks else self._last_node_check
        for reference, training in list(self._running.items()):
            outcome = None
            if not training.nodes:
                self._check_patience(training, now)
            elif now - training.changed_at > self._config.final_timeout:
                del self._running[reference]
                self._stop_training(training)
                limit = TimeoutError(f"not done after {self._config.final_timeout:g} s (engine.final_timeout)")
                outcome = self._retry_queue.retry(training.pending, training.number, limit, "killed")
            elif looks and not training.nodes <= nodes.keys():
                del self._running[reference]
                self._stop_training(training)
                lost = ConnectionError(f"node {min(training.nodes - nodes.keys())} is gone")
                outcome = self._retry_queue.retry_lost(training.pending, training.number, lost, node_lost=True)
            if outcome is not None:
                yield outcome

    def _check_patience(self, training: Training, now: float) -> None:
        if any(other.nodes for other in self._running.values()):
            training.changed_at = now  # whose room it may get
        elif now - training.changed_at > self._config.patience:
            raise EngineError(
                f"no room for the {self._size} workers of a fine-tune (finals.workers) for {self._config.patience:g} s "
                "(engine.patience): nothing that was evaluated is lost; resume the run when the cluster has room again"
            )

    def _stop_training(self, training: Training) -> None:
        """Let go of the conductor, and with it of all it has started.

        Ray Train gives the place of a training that was killed back only where the cluster has a dashboard to ask.
        """
        self._starting = {key: other for key, other in self._starting.items() if other is not training}
        with suppress(Exception):
            self._ray.kill(training.actor)
        if training.placement_group is not None:
            with suppress(Exception):
                self._ray.util.remove_placement_group(training.placement_group)


def find_cause(error: BaseException, ray_error: type[BaseException]) -> tuple[BaseException, bool]:
    """Why a training failed, and whether that is for a process that was lost (an error `of_ray`).

    Where a process dies the others fail too, since they cannot reach it: that says nothing.
    """
    cause = getattr(error, "cause", None) or error
    failures = getattr(cause, "worker_failures", None)
    if failures is None:
        cause = getattr(cause, "controller_failure", cause)
        return cause, isinstance(cause, ray_error) and cause is error
    found = [_unwrap(item) for _, item in sorted(failures.items())]
    for item in found:
        if isinstance(item, ray_error):
            return item, True
    own = [item for item in found if not _is_unreachable(item)]
    return (own[0], False) if own else (found[0], True)


def _unwrap(error: BaseException) -> BaseException:
    """What a worker raised, or was lost by, without Ray Train's wrapping."""
    inner = getattr(error, "_base_exc", None) or getattr(error, "health_check_failure", None)
    return inner if isinstance(inner, BaseException) else error


def _is_unreachable(error: BaseException) -> bool:
    """Whether this is what torch.distributed says where another process does not answer."""
    text = f"{type(error).__name__} {error}".lower()
    return any(word in text for word in ("gloo", "nccl", "connection", "distbackend", "distnetwork"))
