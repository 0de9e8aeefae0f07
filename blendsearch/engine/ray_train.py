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

from blendsearch.engine.ray_train_actor import Conductor
from blendsearch.engine.retries import DOUBT_SECONDS, Asked, Attempts
from blendsearch.engine.telemetry import Watching
from blendsearch.errors import EngineError
from blendsearch.fitness.evaluator import Outcome, Request
from blendsearch.runs.config.schema import EngineConfig

SURROUNDINGS = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # data may lie under relative paths
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "2592000",  # a full cluster is waited for with `engine.patience`
}
"""What Ray Train reads from the environment, where it is called."""

LOOK_SECONDS = 5.0
"""How often it is looked whether the nodes of a training are still there."""


@dataclass(eq=False)
class Training:
    """One fine-tune under way: its number, conductor, since when; once it has begun, on which nodes, held by what.

    `since` is when it was asked for, then when its workers had begun.
    """

    number: int
    asked: Asked
    conductor: Any
    since: float
    nodes: frozenset[str] = frozenset()
    group: Any = None


class Several:
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
        watching: Watching,
        number: Callable[[], int],
        nodes: Callable[[], dict[str, dict[str, float]]],
        room: Callable[[], int],
    ) -> None:
        self._ray, self._config, self._size, self._payload = ray, config, size, payload
        self._threads, self._device, self._watching = threads, device, watching
        self._number, self._nodes, self._room = number, nodes, room
        self._queue: deque[Asked] = deque()
        self._attempts = Attempts(self._queue, config.retries, watching)
        self._starting: dict[Any, Training] = {}
        self._running: dict[Any, Training] = {}
        self._doubtful: list[tuple[Training, BaseException]] = []
        # as many CPUs as any other worker asks for, however many threads it has
        self._needs = {"GPU": 1.0} if device == "cuda" else {"CPU": float(config.threads or 1)}
        self._folder = ""
        self._looked = 0.0

    @property
    def outstanding(self) -> bool:
        return bool(self._queue or self._running or self._doubtful)

    @property
    def busy(self) -> int:
        return self._size * len(self._running)

    def submit(self, asked: Request) -> None:
        self._queue.append(Asked(asked))

    def completed(self, feed: Callable[[], None]) -> Iterator[Outcome]:
        """The outcomes of all that was submitted. Raises EngineError when no room is found in `engine.patience`."""
        while True:
            feed()
            if not self.outstanding:
                return
            yield from self._decided()
            while self._queue and len(self._running) < max(1, self._room()):
                self._begin(self._queue.popleft())
            self._watching.load(len(self._queue), self.busy, self._size * max(1, self._room()))
            if not self._running:
                time.sleep(0.2)
                continue
            ready, _ = self._ray.wait([*self._running, *self._starting], num_returns=1, timeout=1.0)
            for reference in ready:
                if reference in self._starting:
                    self._begun(reference)
                elif (outcome := self._received(reference)) is not None:
                    yield outcome
            yield from self._overdue()

    def close(self) -> None:
        for training in self._running.values():
            self._end(training)
        self._queue.clear()
        self._starting.clear()
        self._running.clear()
        self._doubtful.clear()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _begin(self, asked: Asked) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._folder = self._folder or tempfile.mkdtemp(prefix="blendsearch-train-")
        here = self._ray.get_runtime_context().get_node_id()
        conductor = (
            self._ray.remote(Conductor)
            .options(
                num_cpus=0,
                max_restarts=0,
                # one call trains, one waits for the beginning, and all workers may speak at once
                max_concurrency=self._size + 2,
                scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False),
                runtime_env={"env_vars": SURROUNDINGS},
            )
            .remote([self._payload], self._threads, self._needs, self._device, self._size, self._folder)
        )
        training = Training(self._number(), asked, conductor, time.monotonic())
        self._running[conductor.train.remote(asked.request)] = training
        self._starting[conductor.begun.remote()] = training

    def _begun(self, reference: Any) -> None:
        training = self._starting.pop(reference)
        with suppress(self._ray.exceptions.RayError):  # then its training fails too, and says why
            standing: list[tuple[str, int]]
            standing, training.group = self._ray.get(reference)
            for node, process in standing:
                self._watching.started(training.number, node, process)
            training.nodes, training.since = frozenset(node for node, _ in standing), time.monotonic()

    def _received(self, reference: Any) -> Outcome | None:
        training = self._running.pop(reference)
        try:
            answer: tuple[Outcome, list[str]] = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            cause, lost = reason(error, self._ray.exceptions.RayError)
            self._end(training)
            if not lost:
                cause.add_note(str(error))  # the trace, as Ray brings it along
                return self._attempts.again(training.asked, training.number, cause, "failed")
            training.since = time.monotonic()
            self._doubtful.append((training, cause))
            return None
        self._end(training)
        self._watching.evaluated(training.number, training.asked.request, *answer)
        return answer[0]

    def _decided(self) -> Iterator[Outcome]:
        """Trainings that lost a worker, once it is known whether its node was lost, or was waited for long enough."""
        waiting, self._doubtful = self._doubtful, []
        nodes = self._nodes() if waiting else {}
        here = self._ray.get_runtime_context().get_node_id() if waiting else ""
        for training, error in waiting:
            gone = not training.nodes <= nodes.keys()
            elsewhere = bool(training.nodes - {here})  # this process's own node is there as long as it is
            if elsewhere and not gone and time.monotonic() - training.since < DOUBT_SECONDS:
                self._doubtful.append((training, error))
                continue
            outcome = self._attempts.gone(training.asked, training.number, error, node_too=gone)
            if outcome is not None:
                yield outcome

    def _overdue(self) -> Iterator[Outcome]:
        """End trainings that take too long, or whose nodes are gone. Raises EngineError for one that cannot begin."""
        now = time.monotonic()
        looks = now - self._looked > LOOK_SECONDS
        nodes = self._nodes() if looks else {}
        self._looked = now if looks else self._looked
        for reference, training in list(self._running.items()):
            outcome = None
            if not training.nodes:
                self._wait_for_room(training, now)
            elif now - training.since > self._config.final_timeout:
                del self._running[reference]
                self._end(training)
                limit = TimeoutError(f"not done after {self._config.final_timeout:g} s (engine.final_timeout)")
                outcome = self._attempts.again(training.asked, training.number, limit, "killed")
            elif looks and not training.nodes <= nodes.keys():
                del self._running[reference]
                self._end(training)
                lost = ConnectionError(f"node {min(training.nodes - nodes.keys())} is gone")
                outcome = self._attempts.gone(training.asked, training.number, lost, node_too=True)
            if outcome is not None:
                yield outcome

    def _wait_for_room(self, training: Training, now: float) -> None:
        if any(other.nodes for other in self._running.values()):
            training.since = now  # whose room it may get
        elif now - training.since > self._config.patience:
            raise EngineError(
                f"no room for the {self._size} workers of a fine-tune (finals.workers) for {self._config.patience:g} s "
                "(engine.patience): nothing that was evaluated is lost; resume the run when the cluster has room again"
            )

    def _end(self, training: Training) -> None:
        """Let go of the conductor, and with it of all it has started.

        Ray Train gives the place of a training that was killed back only where the cluster has a dashboard to ask.
        """
        self._starting = {key: other for key, other in self._starting.items() if other is not training}
        with suppress(Exception):
            self._ray.kill(training.conductor)
        if training.group is not None:
            with suppress(Exception):
                self._ray.util.remove_placement_group(training.group)


def reason(error: BaseException, of_ray: type[BaseException]) -> tuple[BaseException, bool]:
    """Why a training failed, and whether that is for a process that was lost (an error `of_ray`).

    Where a process dies the others fail too, since they cannot reach it: that says nothing.
    """
    cause = getattr(error, "cause", None) or error
    failures = getattr(cause, "worker_failures", None)
    if failures is None:
        cause = getattr(cause, "controller_failure", cause)
        return cause, isinstance(cause, of_ray) and cause is error
    found = [_unwrapped(item) for _, item in sorted(failures.items())]
    for item in found:
        if isinstance(item, of_ray):
            return item, True
    own = [item for item in found if not _unreached(item)]
    return (own[0], False) if own else (found[0], True)


def _unwrapped(error: BaseException) -> BaseException:
    """What a worker raised, or was lost by, without Ray Train's wrapping."""
    inner = getattr(error, "_base_exc", None) or getattr(error, "health_check_failure", None)
    return inner if isinstance(inner, BaseException) else error


def _unreached(error: BaseException) -> bool:
    """Whether this is what torch.distributed says where another process does not answer."""
    text = f"{type(error).__name__} {error}".lower()
    return any(word in text for word in ("gloo", "nccl", "connection", "distbackend", "distnetwork"))
