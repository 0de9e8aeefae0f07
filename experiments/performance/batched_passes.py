"""Compare one batched forward pass over candidates with one pass per candidate.

    python experiments/performance/batched_passes.py CONFIG [--candidates 8] [--images 500] [--set F=V ...]

One pass per candidate, as a search does it, runs physically smaller networks. The batched pass runs the dense network
with removed channels set to zero, all candidates' tensors stacked, mapped by torch.func.vmap; convolutions become
grouped ones, and zeros are multiplied. Prints the largest difference of their outputs, the shortest time of each, in
alternation, and the ratio: processor seconds on a CPU, wall seconds on a GPU. Writes a JSON file beside this script.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from blendsearch.events import ignore_event
from blendsearch.pipeline.problem.builder import build_problem
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.runs.config.loading import load_config
from blendsearch.structure.groups import Cut, IndexMaps
from blendsearch.structure.surgery import narrow
from blendsearch.training.device import autocast


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    arguments = parser.parse_args()
    few = ["criteria.pool=[l1]", "criteria.images=64"]
    problem = build_problem(load_config(arguments.config, [*few, *arguments.overrides]), ignore_event)
    device, maps = problem.evaluator.device, problem.structure.maps
    cuts = draw_cuts(problem, arguments.candidates)
    layout = torch.channels_last
    networks = [narrow(problem.model, maps, cut).eval().to(memory_format=layout) for cut in cuts]
    masked = [mask_network(problem.model, maps, cut).eval().to(memory_format=layout) for cut in cuts]
    batched = make_batched_pass(masked)
    splits, size = problem.splits, problem.config.fitness.batch_size
    given = [
        x.to(memory_format=layout)
        for x, _ in splits.iter_batches(splits.val, batch_size=size, device=device, limit=arguments.images)
    ]
    precision = problem.config.fitness.precision

    def apart(x: Tensor) -> Tensor:
        return torch.stack([network(x) for network in networks])

    ways: dict[str, Callable[[Tensor], Tensor]] = {"one after another": apart, "batched": batched}
    with torch.inference_mode():
        difference = float((apart(given[0]) - batched(given[0])).abs().max())
        seconds = dict.fromkeys(ways, float("inf"))
        for _ in range(arguments.repeats):
            for name, way in ways.items():
                start = read_clock(device)
                for x in given:
                    with autocast(device, precision):
                        way(x)
                seconds[name] = min(seconds[name], read_clock(device) - start)
    ratio = seconds["batched"] / seconds["one after another"]
    of = torch.cuda.get_device_name(device) if device.type == "cuda" else "one processor"
    print(f"{len(cuts)} candidates, {arguments.images} images, {precision}, {of}; outputs differ by {difference:.1e}")
    print(
        "; ".join(f"{name} {spent:.2f} s" for name, spent in seconds.items())
        + f"; batched takes {ratio:.2f} times that"
    )
    facts = {"config": arguments.config.name, "images": arguments.images, "candidates": len(cuts), "device": of}
    facts |= {"precision": precision, "difference": difference, "seconds": seconds, "ratio": ratio}
    arguments.out.write_text(json.dumps(facts, indent=1) + "\n")


def draw_cuts(problem: Problem, count: int) -> list[Cut]:
    """Draw `count` different cuts at the budget."""
    rng, space = np.random.default_rng(0), problem.decoder.space
    found: dict[bytes, Cut] = {}
    while len(found) < count:
        cut = problem.decoder.decode(space.sample(rng))
        found[cut.tobytes()] = cut
    return list(found.values())


def mask_network(model: nn.Module, maps: IndexMaps, cut: Cut) -> nn.Module:
    """Copy the dense network with every slice of a tensor that `cut` removes set to zero."""
    network, kept = copy.deepcopy(model), maps.find_kept_positions(cut)
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        for dim, source in maps.slices.get(name, ()):
            gone = np.setdiff1d(np.arange(tensor.shape[dim]), kept[source])
            tensor.data.index_fill_(dim, torch.from_numpy(gone).to(tensor.device), 0)
    return network


def make_batched_pass(networks: Sequence[nn.Module]) -> Callable[[Tensor], Tensor]:
    """Make the function from images to the outputs of all `networks`, (networks, n, classes), in one pass."""
    parameters, buffers = stack_module_state(list(networks))  # type: ignore[arg-type]
    skeleton = copy.deepcopy(networks[0])

    def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(skeleton, (parameters, buffers), (x,))  # type: ignore[no-any-return]

    mapped = vmap(one, in_dims=(0, 0, None))
    return lambda x: mapped(parameters, buffers, x)


def read_clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


if __name__ == "__main__":
    main()
