"""One training on several workers, from the inside: who calls Ray Train, and what its workers do.

The conductor is an actor without a CPU, told by the training processes where they are and, by the first of them, what
came of it: through Ray, like every other outcome. Nothing goes through Ray Train's storage, so nodes need to share
none; Ray Train gets a temporary folder for the empty files it insists on.
"""

import dataclasses
import threading
from typing import Any

from blendsearch.data.share import Share
from blendsearch.engine.ray_worker import Worker
from blendsearch.fitness.evaluator import Evaluator, Outcome, Request


class TrainActor:
    """One training by Ray Train, from a process of its own: what it prints, and how it handles signals, stays there."""

    def __init__(
        self, payload: list[Any], threads: int, resources: dict[str, float], device: str, size: int, folder: str
    ) -> None:
        # in a list, since Ray would fetch here what is for the workers
        self._payload, self._threads, self._resources, self._device = payload[0], threads, resources, device
        self._size, self._folder = size, folder
        self._workers: dict[int, tuple[str, int]] = {}
        self._placement_group: Any = None
        self._all_started = threading.Event()
        self._result: tuple[Outcome, list[str]] | None = None

    def train(self, request: Request) -> tuple[Outcome, list[str]]:
        """The outcome, and what was warned of meanwhile. Raises what Ray Train raises."""
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        facts = {
            "asked": request,
            "conductor": ray.get_runtime_context().current_actor,
            "evaluator": self._payload,
            "threads": self._threads,
            "device": self._device,
        }
        TorchTrainer(
            run_train_worker,
            train_loop_config=facts,
            scaling_config=ScalingConfig(
                num_workers=self._size,
                use_gpu=self._device == "cuda",
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
        """Node and process of every worker, and the placement group that holds them, once all of them are there."""
        self._all_started.wait()
        return [self._workers[rank] for rank in sorted(self._workers)], self._placement_group

    def register_worker(self, rank: int, group: Any, node: str, process: int) -> None:
        """A worker says where it is."""
        self._workers[rank], self._placement_group = (node, process), group
        if len(self._workers) == self._size:
            self._all_started.set()

    def receive_result(self, result: tuple[Outcome, list[str]]) -> None:
        """The first worker says what came of it."""
        self._result = result


def run_train_worker(facts: dict[str, Any]) -> None:
    """What every process of a training does: its share of it; the first one judges the network too."""
    import ray
    from ray.train import get_context
    from ray.train.torch import get_device

    share = Share(get_context().get_world_rank(), get_context().get_world_size())
    held: Evaluator = ray.get(facts["evaluator"])
    held = dataclasses.replace(held, recipe=dataclasses.replace(held.recipe, share=share))
    device = str(get_device()) if facts["device"] == "cuda" else facts["device"]
    worker = Worker(held, facts["threads"], device, 1.0)
    group = ray.util.get_current_placement_group()
    ray.get(facts["conductor"].register_worker.remote(share.rank, group, *worker.start()))
    if share.rank:
        worker.join_recovery(facts["asked"])
    else:
        ray.get(facts["conductor"].receive_result.remote(worker.evaluate(facts["asked"])))
