"""Measure candidates per second on one card, against the card's limit.

    python experiments/gpu/throughput.py [--device cpu --toy]

A candidate is evaluated at fidelity `recalibrated`: 2,000 validation and 500 recalibration images. The limit is the
number of candidates if only the forward passes of those images were run, at the largest rate of images that any batch
size and precision reaches with a pruned network.
"""

from collections.abc import Callable
from typing import Any

import torch
from harness import Part, Setting, draw_cuts, make_requests, make_setting, measure_rate, run_as_script, select_largest

from blendsearch.structure.surgery import narrow
from blendsearch.training.device import autocast, convert_to_channels_last

NAME = "throughput"
GOAL_RATE, GOAL_SHARE = 25.0, 0.3
PRECISIONS: tuple[Any, ...] = ("bfloat16", "float32")


def measure(part: Part) -> None:
    """Measure both networks."""
    part.state["goals"].clear()
    for name in ("resnet56", "resnet50"):
        rate, limit = measure_network(part, name)
        if name == "resnet56":
            part.set_goal("candidates/s, ResNet-56", rate, GOAL_RATE, "1/s")
        share = None if rate is None or limit is None else rate / limit
        part.set_goal(f"share of the card's limit, {name}", share, GOAL_SHARE)


def measure_network(part: Part, name: str) -> tuple[float | None, float | None]:
    """Return the best candidates per second of this network, and the card's limit."""
    setting = make_setting(name, part.arguments)
    large = name == "resnet50"
    # the likely best first: what comes last is left out when time is short
    sizes = [24] if part.arguments.toy else [250, 500, 100, 50] if large else [1000, 2000, 500, 100]
    seconds = 0.05 if part.arguments.toy else 4.0
    rates, passes = {}, {}
    for precision in PRECISIONS:
        for size in sizes:
            key = f"{name}, {precision}, batches of {size}"
            rates[key] = part.step(f"candidates: {key}", _bind(measure_candidates, setting, size, precision, seconds))
            passes[key] = part.step(f"passes: {key}", _bind(measure_passes, setting, size, precision, seconds / 2))
    if setting.device.type == "cuda":
        for size in sizes:
            key = f"{name}, CUDA graph, bfloat16, batches of {size}"
            passes[key] = part.step(f"passes: {key}", _bind(measure_graph, setting, size, seconds / 2))
    best, peak = select_largest(rates), select_largest(passes)
    limit = None if peak is None else peak[1] / setting.images_per_candidate
    part.state[name] = {"best": best, "peak_images_per_second": peak, "limit": limit}
    return None if best is None else best[1], limit


def _bind(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    return lambda: function(*arguments)


def measure_candidates(setting: Setting, batch_size: int, precision: Any, seconds: float) -> float:
    """Return candidates per second, one after another, as a worker evaluates them."""
    evaluator = setting.make_evaluator(batch_size, precision)
    evaluator.warm_up_evaluation()
    requests = iter(make_requests(setting.maps, 64) * 100)

    def evaluate() -> None:
        outcome = evaluator.evaluate(next(requests))
        assert not outcome.failure, outcome.failure

    return measure_rate(evaluate, setting.device, seconds)


def measure_passes(setting: Setting, batch_size: int, precision: Any, seconds: float) -> float:
    """Return images per second of forward passes of a pruned network, with images on the card."""
    network, images = make_pass(setting, batch_size)
    with torch.inference_mode(), autocast(setting.device, precision):
        return measure_rate(lambda: network(images), setting.device, seconds, batch_size)


def make_pass(setting: Setting, batch_size: int) -> tuple[Any, torch.Tensor]:
    """Make a pruned network and images for it, both in channels-last memory."""
    (cut,) = draw_cuts(setting.maps, 1)
    network = convert_to_channels_last(narrow(setting.model, setting.maps, cut).eval())
    height, width, channels = setting.splits.train.shape
    images = torch.randn(batch_size, channels, height, width, device=setting.device)
    return network, images.to(memory_format=torch.channels_last)


def measure_graph(setting: Setting, batch_size: int, seconds: float) -> float:
    """Return images per second of a replayed CUDA graph of the forward pass with half-precision weights."""
    network, images = make_pass(setting, batch_size)
    network, images = network.bfloat16(), images.bfloat16()
    with torch.inference_mode():
        graph = capture(network, images)
        return measure_rate(graph.replay, setting.device, seconds, batch_size)


def capture(network: Any, images: torch.Tensor) -> Any:
    """Capture a forward pass as a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            network(images)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        network(images)
    return graph


if __name__ == "__main__":
    run_as_script(__doc__, NAME, measure)
