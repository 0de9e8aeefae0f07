"""One training by Ray Train on several workers: the actor that starts it, and the function that its workers run.

The actor needs no CPU. The workers report their location to it, and the first one its result, through Ray like every
other outcome. Nothing is written to Ray Train's storage, so nodes share none. Ray Train receives a temporary folder for
the empty files that it requires.
"""

import dataclasses
import threading
from typing import Any, NamedTuple, TypedDict

from blendsearch.data.share import Share
from blendsearch.engine.ray_worker import Worker
from blendsearch.fitness.evaluator import Evaluator, Outcome, Request


class WorkerSetup(NamedTuple):
    """Setup of a worker process.

    Attributes
    ----------
    payload: Ray's reference to the evaluator.
    threads: torch threads of the process.
    device: ``cpu`` or ``cuda``.
    tuned: Ray's reference to the network that candidates are sliced out of; None for the dense one.
    """

    payload: Any
    threads: int
    device: str
    tuned: Any = None


class TrainLoopConfig(TypedDict):
    """Arguments of `run_train_worker`, in the form that Ray Train requires."""

    request: Request
    actor: Any
    setup: WorkerSetup


class TrainActor:
    """Runs one training by Ray Train in its own process, so that output and signal handlers of Ray Train stay there."""

    def __init__(self, setup: WorkerSetup, resources: dict[str, float], size: int, folder: str) -> None:
        self._setup, self._resources = setup, resources
        self._size, self._folder = size, folder
        self._workers: dict[int, tuple[str, int]] = {}
        self._placement_group: Any = None
        self._all_started = threading.Event()
        self._result: tuple[Outcome, list[str]] | None = None

    def train(self, request: Request) -> tuple[Outcome, list[str]]:
        """Return the outcome and captured warnings. Raises the errors of Ray Train."""
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        config: TrainLoopConfig = {
            "request": request,
            "actor": ray.get_runtime_context().current_actor,
            "setup": self._setup,
        }
        TorchTrainer(
            run_train_worker,
            train_loop_config=config,
            scaling_config=ScalingConfig(
                num_workers=self._size,
                use_gpu=self._setup.device == "cuda",
                resources_per_worker=self._resources,
            ),
            run_config=RunConfig(
                name=request.digest[:16],
                storage_path=self._folder,
                failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
            ),
        ).fit()
        if self._result is None:
            raise RuntimeError("the training ended without an outcome")
        return self._result

    def wait_for_workers(self) -> tuple[list[tuple[str, int]], Any]:
        """Return node and process of every worker, and their placement group, once all have started."""
        self._all_started.wait()
        return [self._workers[rank] for rank in sorted(self._workers)], self._placement_group

    def register_worker(self, rank: int, group: Any, node: str, process: int) -> None:
        """Register the location of a worker."""
        self._workers[rank], self._placement_group = (node, process), group
        if len(self._workers) == self._size:
            self._all_started.set()

    def receive_result(self, result: tuple[Outcome, list[str]]) -> None:
        """Receive the result of the first worker."""
        self._result = result


def run_train_worker(config: TrainLoopConfig) -> None:
    """Run one process of a training on its share of every batch; the first one also evaluates the network."""
    import ray
    from ray.train import get_context
    from ray.train.torch import get_device

    share = Share(get_context().get_world_rank(), get_context().get_world_size())
    setup, actor, request = config["setup"], config["actor"], config["request"]
    evaluator: Evaluator = ray.get(setup.payload)
    evaluator = dataclasses.replace(evaluator, recipe=dataclasses.replace(evaluator.recipe, share=share))
    device = str(get_device()) if setup.device == "cuda" else setup.device
    tuned = None if setup.tuned is None else ray.get(setup.tuned)
    worker = Worker(evaluator, setup.threads, device, 1.0, tuned)
    group = ray.util.get_current_placement_group()
    ray.get(actor.register_worker.remote(share.rank, group, *worker.start(evaluates=False)))
    if share.rank:
        worker.join_recovery(request)
    else:
        ray.get(actor.receive_result.remote(worker.evaluate(request)))
