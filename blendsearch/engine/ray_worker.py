"""What runs in a worker process of a cluster."""

import dataclasses
import os

import torch

from blendsearch.engine.captured_warnings import capture_warnings
from blendsearch.fitness.evaluator import Evaluator, Outcome, Request


class Worker:
    """One actor: an evaluator on its own device."""

    def __init__(self, evaluator: Evaluator, threads: int, device: str, gpu_fraction: float) -> None:
        # Ray's OMP_NUM_THREADS does not reach a reused process that has imported torch
        torch.set_num_threads(threads)
        place = torch.device(device)
        if place.type == "cuda" and gpu_fraction < 1:
            # Ray divides a card by counting; without this, one worker's memory is whatever the others left
            torch.cuda.set_per_process_memory_fraction(gpu_fraction)
        self._evaluator = dataclasses.replace(evaluator, model=evaluator.model.to(place), device=place)

    def start(self) -> tuple[str, int]:
        """The node and the process this worker runs in; answered once it is ready and warm."""
        import ray

        self._evaluator.warm_up()
        return ray.get_runtime_context().get_node_id(), os.getpid()

    def evaluate(self, request: Request) -> tuple[Outcome, list[str]]:
        """The outcome, and what was warned of meanwhile."""
        try:
            with capture_warnings() as messages:
                return self._evaluator.evaluate(request), messages
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()  # what this one took must not fail the next one too
            raise

    def join_recovery(self, request: Request) -> None:
        """Recover the network together with others, of whom another one judges it."""
        self._evaluator.build_network(request)
