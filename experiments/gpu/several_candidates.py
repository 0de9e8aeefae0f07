"""Measure several candidates at once on one card: processes, threads with streams, torch.func batches, CUDA graphs.

    python experiments/gpu/several_candidates.py [--device cpu --toy]

ResNet-56 at fidelity `recalibrated`, in bfloat16. fractional_workers.py measures the processes of Ray. The batched pass
and the CUDA graph evaluate without recalibration; their rates count the same images, so they are upper bounds.
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import cycle
from multiprocessing import get_context
from typing import Any

import torch
from harness import ROOT, Arguments, Part, Setting, draw_cuts, make_requests, make_setting, measure_rate, run_as_script
from throughput import capture, measure_candidates

from blendsearch.fitness.bn_folding import find_foldable_pairs, fold_batch_norms
from blendsearch.fitness.evaluator import Evaluator, Request
from blendsearch.structure.surgery import narrow
from blendsearch.training.device import autocast, convert_to_channels_last

sys.path.insert(0, str(ROOT / "experiments" / "performance"))
from batched_passes import make_batched_pass, mask_network

NAME = "several_candidates"
PRECISION: Any = "bfloat16"
START_SECONDS = 120
"""Longest time until all processes are ready, or have evaluated their candidates."""


def measure(part: Part) -> None:
    """Measure all ways; the state names the fastest."""
    part.state["goals"].clear()
    setting = make_setting("resnet56", part.arguments)
    toy = part.arguments.toy
    size, seconds = (16, 0.05) if toy else (1000, 4.0)
    rates: dict[str, Any] = {
        "one after another": part.step(
            "one after another", lambda: measure_candidates(setting, size, PRECISION, seconds)
        )
    }
    for count in (2,) if toy else (4, 8, 2):
        name = f"{count} processes"
        candidates = 2 if toy else 60
        rates[name] = part.step(name, lambda n=count, k=candidates: measure_processes(part.arguments, n, size, k))
        name = f"{count} threads with streams"
        rates[name] = part.step(name, lambda count=count: measure_threads(setting, size, count, seconds))
        name = f"batches of {count} by torch.func"
        rates[name] = part.step(name, lambda count=count: measure_batched(setting, size // count, count, seconds))
    if setting.device.type == "cuda":
        for held in (100, 500):
            name = f"a CUDA graph per candidate, batches of {held}"
            rates[name] = part.step(name, lambda held=held: measure_graphs(setting, held, seconds))
    measured = {name: rate for name, rate in rates.items() if rate is not None}
    if measured:
        plain = measured.get("one after another")
        best = max(measured, key=lambda name: measured[name])
        part.state["fastest"] = {"way": best, "candidates_per_second": measured[best]}
        part.set_goal(f"speed-up of the fastest way ({best})", measured[best] / plain if plain else None, 1.0)


def measure_processes(arguments: Arguments, processes: int, batch_size: int, candidates: int) -> float:
    """Return candidates per second of several processes, each with a copy of the network and the images on the card."""
    context = get_context("spawn")
    barrier = context.Barrier(processes + 1)
    words = (arguments, batch_size, candidates, barrier)
    started = [context.Process(target=evaluate_in_process, args=words, daemon=True) for _ in range(processes)]
    for process in started:
        process.start()
    barrier.wait(START_SECONDS)
    began = time.perf_counter()
    barrier.wait(START_SECONDS)
    spent = time.perf_counter() - began
    for process in started:
        process.join()
    return processes * candidates / spent


def evaluate_in_process(arguments: Arguments, batch_size: int, candidates: int, barrier: Any) -> None:
    """Evaluate `candidates` between two meetings of all processes."""
    try:
        torch.set_num_threads(1)
        setting = make_setting("resnet56", arguments)
        evaluator = setting.make_evaluator(batch_size, PRECISION)
        evaluator.warm_up_evaluation()
        first, *requests = make_requests(setting.maps, 1 + candidates)
        evaluator.evaluate(first)
        barrier.wait(START_SECONDS)
        for request in requests:
            outcome = evaluator.evaluate(request)
            assert not outcome.failure, outcome.failure
        barrier.wait(START_SECONDS)
    except BaseException:
        barrier.abort()
        raise


def measure_threads(setting: Setting, batch_size: int, threads: int, seconds: float) -> float:
    """Return candidates per second of several threads, each with its own stream and evaluator."""
    evaluators = [setting.make_evaluator(batch_size, PRECISION) for _ in range(threads)]
    for evaluator in evaluators:
        evaluator.warm_up_evaluation()
    requests = cycle(make_requests(setting.maps, 16 * threads))
    on_card = setting.device.type == "cuda"
    streams: list[Any] = [torch.cuda.stream(torch.cuda.Stream()) if on_card else nullcontext() for _ in evaluators]

    def evaluate(evaluator: Evaluator, stream: Any, request: Request) -> None:
        with stream:
            outcome = evaluator.evaluate(request)
        assert not outcome.failure, outcome.failure

    with ThreadPoolExecutor(threads) as pool:

        def evaluate_all() -> None:
            some = [next(requests) for _ in evaluators]
            list(pool.map(evaluate, evaluators, streams, some))

        return measure_rate(evaluate_all, setting.device, seconds, threads)


def measure_batched(setting: Setting, batch_size: int, count: int, seconds: float) -> float:
    """Return candidates per second of one pass over `count` masked networks by torch.func.vmap."""
    networks = [mask_network(setting.model, setting.maps, cut).eval() for cut in draw_cuts(setting.maps, count)]
    run = make_batched_pass(networks)
    height, width, channels = setting.splits.train.shape
    images = torch.randn(batch_size, channels, height, width, device=setting.device)
    with torch.inference_mode(), autocast(setting.device, PRECISION):
        rate = measure_rate(lambda: run(images), setting.device, seconds, batch_size * count)
    return rate / setting.images_per_candidate


def measure_graphs(setting: Setting, batch_size: int, seconds: float) -> float:
    """Return candidates per second if each candidate's pass is captured once and replayed for all of its images."""
    height, width, channels = setting.splits.train.shape
    images = torch.randn(batch_size, channels, height, width, device=setting.device)
    images = images.to(memory_format=torch.channels_last).bfloat16()
    pairs = find_foldable_pairs(setting.model, images[:1].float())
    cuts = cycle(draw_cuts(setting.maps, 32))
    passes = -(-setting.images_per_candidate // batch_size)

    def evaluate() -> None:
        network = convert_to_channels_last(narrow(setting.model, setting.maps, next(cuts)).eval())
        with fold_batch_norms(network, pairs), torch.inference_mode():
            graph = capture(network.bfloat16(), images)
            for _ in range(passes):
                graph.replay()
            torch.cuda.synchronize()

    return measure_rate(evaluate, setting.device, seconds)


if __name__ == "__main__":
    run_as_script(__doc__, NAME, measure)
