"""Worker process of a cluster."""

import dataclasses
import os

import torch

from blendsearch.engine.captured_warnings import capture_warnings
from blendsearch.fitness.evaluator import Evaluator, Outcome, Request


class Worker:
    """Actor with an evaluator on its own device."""

    def __init__(
        self,
        evaluator: Evaluator,
        threads: int,
        device: str,
        gpu_fraction: float,
        tuned: torch.nn.Module | None = None,
    ) -> None:
        # Ray's OMP_NUM_THREADS does not reach a reused process that has imported torch
        torch.set_num_threads(threads)
        target = torch.device(device)
        if target.type == "cuda" and gpu_fraction < 1:
            # Ray only counts shares of a GPU and does not limit their memory
            torch.cuda.set_per_process_memory_fraction(gpu_fraction)
        tuned = None if tuned is None else tuned.to(target)
        self._evaluator = dataclasses.replace(evaluator, model=evaluator.model.to(target), device=target, tuned=tuned)

    def start(self, evaluates: bool = True) -> tuple[str, int]:
        """Return the node and the process of this worker, once it is warmed up; `evaluates`: also for evaluations."""
        import ray

        if evaluates:
            self._evaluator.warm_up_evaluation()
        else:
            self._evaluator.warm_up()
        return ray.get_runtime_context().get_node_id(), os.getpid()

    def evaluate(self, request: Request) -> tuple[Outcome, list[str]]:
        """Return the outcome and captured warnings."""
        try:
            with capture_warnings() as messages:
                return self._evaluator.evaluate(request), messages
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()  # so that the next evaluation does not fail too
            raise

    def join_recovery(self, request: Request) -> None:
        """Recover the network together with other processes; the first of them evaluates it."""
        self._evaluator.build_network(request)
