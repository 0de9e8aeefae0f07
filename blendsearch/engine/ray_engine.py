"""Evaluations on Ray: long-lived actors that hold model and data, and are sent requests of a few hundred bytes."""

import contextlib
import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from blendsearch.engine.base import nothing_more
from blendsearch.engine.ray_connection import connect
from blendsearch.engine.ray_metrics import Metrics
from blendsearch.engine.ray_train import Several
from blendsearch.engine.ray_train_checks import check_batches
from blendsearch.engine.ray_worker import Worker
from blendsearch.engine.retries import DOUBT_SECONDS, Asked, Attempts
from blendsearch.engine.telemetry import Watching
from blendsearch.errors import EngineError
from blendsearch.fitness.evaluator import Evaluator, Outcome, Request
from blendsearch.runs.config.schema import EngineConfig
from blendsearch.runs.worker_logs import WorkerLogs

RESIZE_SECONDS = 5.0
"""How often the cluster is asked what it has room for now."""

FAILED_STARTS = 6
"""Workers that may fail to start, one after another with none in between that does, before that is an error."""


@dataclass(eq=False)
class Place:
    """A worker: its number, its actor, and the node it runs on once it has started."""

    number: int
    actor: Any
    node: str = ""


@dataclass
class Running:
    """A request on its way: on which worker, and since when."""

    asked: Asked
    place: Place
    since: float


class RayEngine:
    """One actor per GPU share or CPU slot, as many as the cluster has room for at the time.

    A worker that dies or exceeds the time limit is replaced, and its request tried again elsewhere; after `retries`
    more attempts the request comes back as failed. A node that dies takes no attempt away. Evaluations are pure, so one
    that is repeated does no harm. Workers of nodes that join are put to work. Raises EngineError, from `completed`,
    when no worker can be started, or none is there for `engine.patience` seconds.

    With `several` above 1, every final takes so many workers of its own, by Ray Train. All actors go first: they hold
    what those wait for. So no final begins before everything else is back; afterwards actors are started again.
    """

    def __init__(self, config: EngineConfig, evaluator: Evaluator, several: int = 1) -> None:
        self._config = config
        self._ray, self._ours = connect(config.ray)
        self._device = evaluator.device.type if config.device == "same" else config.device
        self._on_gpu = self._device == "cuda"
        try:
            check_batches(evaluator, several)
            self.workers = config.workers or self._room(several)
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
        self._queue: deque[Asked] = deque()
        self._starting: dict[Any, Place] = {}
        self._idle: deque[Place] = deque()
        self._running: dict[Any, Running] = {}
        self._doubtful: list[tuple[Running, BaseException, float]] = []
        self._failed_starts = 0
        self._born = count()
        self._watching = Watching()
        self._attempts = Attempts(self._queue, config.retries, self._watching)
        self._several = several
        self._together = Several(
            *(self._ray, config, several, self._payload, self._threads, self._device, self._watching),
            number=lambda: next(self._born),
            nodes=self._nodes,
            room=lambda: self._whole_places() // several,
        )
        self._resized = self._worked = self._looked = time.monotonic()
        self._fill()

    @property
    def busy(self) -> int:
        return len(self._running) + self._together.busy

    def submit(self, asked: Request) -> None:
        if self._several > 1 and asked.fidelity == "final":
            self._together.submit(asked)
        else:
            self._queue.append(Asked(asked))

    def completed(self, feed: Callable[[], None] = nothing_more) -> Iterator[Outcome]:
        self._worked = time.monotonic()
        while True:
            feed()
            if not (self._queue or self._running or self._doubtful):
                if not self._together.outstanding:
                    return
                self._let_go()
                yield from self._together.completed(feed)
                self._worked = time.monotonic()
                continue
            self._resize()
            self._fill()
            yield from self._decided()
            self._dispatch()
            self._watching.load(len(self._queue), len(self._running), self.workers)
            waiting = [*self._running, *self._starting]
            if not waiting:
                time.sleep(0.2)
                continue
            ready, _ = self._ray.wait(waiting, num_returns=1, timeout=1.0)
            for reference in ready:
                if reference in self._starting:
                    self._started(reference)
                elif (outcome := self._received(reference)) is not None:
                    yield outcome
            yield from self._overdue()
            yield from self._stranded()

    def watch(self, run: str, logs: WorkerLogs) -> None:
        self._watching.logs, self._watching.metrics = logs, Metrics(run)

    def heard(self, kind: str, facts: Mapping[str, Any]) -> None:
        self._watching.heard(kind, facts)

    def close(self) -> None:
        self._queue.clear()
        self._together.close()
        self._let_go()
        for item in self._running.values():
            self._kill(item.place)
        self._running.clear()
        self._doubtful.clear()
        self._disconnect()

    def processes(self) -> dict[int, str]:
        """Process ids of the workers that wait for work, with their node; to see, and to test by killing them."""
        found: list[tuple[str, int]] = self._ray.get([place.actor.start.remote() for place in self._idle])
        return {process: node for node, process in found}

    def _dispatch(self) -> None:
        while self._queue and self._idle:
            asked, place = self._queue.popleft(), self._idle.popleft()
            self._running[place.actor.evaluate.remote(asked.request)] = Running(asked, place, time.monotonic())

    def _started(self, reference: Any) -> None:
        place = self._starting.pop(reference)
        try:
            place.node, process = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._kill(place)
            self._failed_starts += 1
            if self._failed_starts >= FAILED_STARTS:
                cause = getattr(error, "cause", None) or error
                reason = next((line for line in reversed(str(cause).splitlines()) if line.strip()), str(type(cause)))
                raise EngineError(
                    f"{FAILED_STARTS} workers in turn did not start: {reason.strip()}; has every node this code, the "
                    "same versions, and memory for the data?"
                ) from error
            self._fill()
        else:
            self._failed_starts = 0
            self._watching.started(place.number, place.node, process)
            self._idle.append(place)

    def _received(self, reference: Any) -> Outcome | None:
        """The outcome of a finished call; None when it failed and is tried again."""
        item = self._running.pop(reference)
        self._worked = time.monotonic()
        try:
            answer: tuple[Outcome, list[str]] = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            self._idle.append(item.place)
            cause = error.cause if isinstance(error.cause, Exception) else error
            return self._attempts.again(item.asked, item.place.number, cause, "failed", error)
        except self._ray.exceptions.RayError as error:  # the worker, its node or its memory is gone
            self._kill(item.place)
            self._fill()
            if not isinstance(error, self._ray.exceptions.ActorUnavailableError):
                return self._gone(item, error)
            self._doubtful.append((item, error, time.monotonic()))
            return None
        self._idle.append(item.place)
        self._watching.evaluated(item.place.number, item.asked.request, *answer)
        return answer[0]

    def _gone(self, item: Running, error: BaseException) -> Outcome | None:
        """What becomes of a request whose worker is gone: it is blamed unless the whole node is gone too."""
        node_too = item.place.node not in self._nodes()
        return self._attempts.gone(item.asked, item.place.number, error, node_too=node_too)

    def _decided(self) -> Iterator[Outcome]:
        """Requests whose worker could not be reached, once it is known why, or was waited for long enough."""
        waiting, self._doubtful = self._doubtful, []
        nodes = self._nodes() if waiting else {}
        for item, error, since in waiting:
            if item.place.node in nodes and time.monotonic() - since < DOUBT_SECONDS:
                self._doubtful.append((item, error, since))
            elif (outcome := self._gone(item, error)) is not None:
                yield outcome

    def _overdue(self) -> Iterator[Outcome]:
        """Kill and replace workers whose evaluation exceeds the time limit."""
        now = time.monotonic()
        for reference, item in list(self._running.items()):
            final = item.asked.request.fidelity == "final"
            allowed = self._config.final_timeout if final else self._config.timeout
            if now - item.since > allowed:
                del self._running[reference]
                self._kill(item.place)
                self._fill()
                limit = TimeoutError(f"not done after {allowed:g} s (engine.timeout, engine.final_timeout)")
                outcome = self._attempts.again(item.asked, item.place.number, limit, "killed")
                if outcome is not None:
                    yield outcome

    def _stranded(self) -> Iterator[Outcome]:
        """Give up on workers whose node counts as dead: for minutes, a call to one may only seem to be under way."""
        if not self._running or time.monotonic() - self._looked < RESIZE_SECONDS:
            return
        self._looked, nodes = time.monotonic(), self._nodes()
        for reference, item in list(self._running.items()):
            if item.place.node not in nodes:
                del self._running[reference]
                self._kill(item.place)
                self._fill()
                outcome = self._gone(item, ConnectionError(f"node {item.place.node} is gone"))
                if outcome is not None:
                    yield outcome

    def _resize(self) -> None:
        """Every few seconds: as many workers as the cluster now has room for. Raises EngineError out of patience."""
        now = time.monotonic()
        if self._running or self._idle:
            self._worked = now
        elif now - self._worked > self._config.patience:
            raise EngineError(
                f"no worker for {self._config.patience:g} s (engine.patience): nothing that was evaluated is lost; "
                "resume the run when the cluster has room again"
            )
        if now - self._resized < RESIZE_SECONDS:
            return
        self._resized = now
        if self._config.workers is None:
            # never none: a worker that waits for a place is what makes an autoscaler start a node
            self.workers = max(1, self._places())
        self._fill()

    def _fill(self) -> None:
        """Start the workers that are missing; of too many, those that wait for a place go."""
        surplus = len(self._starting) + len(self._idle) + len(self._running) - self.workers
        for reference in list(self._starting)[: max(0, surplus)]:
            self._kill(self._starting.pop(reference))
        for _ in range(-surplus):
            place = self._new_worker()
            # the first call returns when the worker has started: until then no request waits on it, and no clock runs
            self._starting[place.actor.start.remote()] = place

    def _let_go(self) -> None:
        """End the workers that have nothing to do."""
        for place in [*self._starting.values(), *self._idle]:
            self._kill(place)
        self._starting.clear()
        self._idle.clear()

    def _new_worker(self) -> Place:
        options: dict[str, Any] = {"max_restarts": 0, "max_task_retries": 0}
        share = self._config.gpus_per_worker
        if self._on_gpu:
            options |= {"num_gpus": share, "num_cpus": 0}
        else:
            options |= {"num_cpus": self._config.threads or 1, "num_gpus": 0}
        actor = self._ray.remote(Worker).options(**options)
        return Place(next(self._born), actor.remote(self._payload, self._threads, self._device, min(1.0, share)))

    def _kill(self, place: Place) -> None:
        with contextlib.suppress(Exception):
            self._ray.kill(place.actor)

    def _nodes(self) -> dict[str, dict[str, float]]:
        """What every living node offers in all."""
        return {node["NodeID"]: node["Resources"] for node in self._ray.nodes() if node["Alive"]}

    def _places(self) -> int:
        """How many workers the living nodes have room for, each node as it comes; a share of a GPU is of one GPU."""
        if self._on_gpu:
            share = self._config.gpus_per_worker
            return sum(places_on(offer.get("GPU", 0.0), share) for offer in self._nodes().values())
        return sum(int(offer.get("CPU", 0.0) // (self._config.threads or 1)) for offer in self._nodes().values())

    def _whole_places(self) -> int:
        """The same for the workers of a final, of which each takes a whole GPU."""
        if self._on_gpu:
            return sum(int(offer.get("GPU", 0.0)) for offer in self._nodes().values())
        return self._places()

    def _room(self, several: int) -> int:
        """`_places`, where there are any. Raises EngineError where there are none, or not as many as a final takes."""
        places = self._places()
        if places and self._whole_places() >= several:
            return places
        need = f"{self._config.threads or 1} CPU per worker (engine.threads)"
        if self._on_gpu:
            need = f"{self._config.gpus_per_worker:g} GPU per worker (engine.gpus_per_worker)"
        what = "one worker"
        if places:
            what = f"the {several} workers of a fine-tune (finals.workers)"
            need = "a GPU for each of them" if self._on_gpu else need
        offers = ", ".join(
            f"{offer.get('CPU', 0):g} CPU and {offer.get('GPU', 0):g} GPU" for offer in self._nodes().values()
        )
        raise EngineError(
            f"the cluster has no room for {what}: its nodes offer {offers}, expected {need}; to wait for nodes "
            "that are yet to come, set engine.workers"
        )

    def _disconnect(self) -> None:
        if self._ours:
            self._ray.shutdown()


def places_on(gpus: float, share: float) -> int:
    """How many workers of `share` GPU a node of `gpus` has room for: a share below one never spans two GPUs."""
    slack = 1e-6  # 1 / 0.1 is 9.99... to some
    if share <= 1:
        return int(gpus + slack) * int(1 / share + slack)
    return int(gpus / share + slack)
