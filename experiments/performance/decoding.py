"""Measure how many genomes a second are decoded, and the part of it that meets the budget.

    python experiments/performance/decoding.py [--genomes 300] [--repeats 3] [--out decoding.json]

Networks of torchvision with random weights and scores; the budget is 50 % of their MACs. Decoding blends the ranks,
allocates the budget to the groups and keeps the best channels. Prints processor milliseconds per genome, those of the
allocation alone with their ratio, and the least and largest share of the dense MACs of the decoded cuts.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe_machine

from blendsearch.blend.allocation import make_widths
from blendsearch.blend.decoder import Decoder
from blendsearch.blend.network_space import make_network_space
from blendsearch.criteria.table import ScoreTable
from blendsearch.structure.trace import trace_structure
from blendsearch.zoo.factory import build_model

NETWORKS = ("resnet18", "resnet50", "mobilenet_v2")
CRITERIA, BUDGET = tuple(f"criterion {number}" for number in range(8)), 0.5


def make_decoder(name: str) -> Decoder:
    structure = trace_structure(build_model(f"torchvision:{name}").eval(), (3, 64, 64))
    rng, sizes = np.random.default_rng(0), structure.maps.sizes
    groups = tuple(f"group {number}" for number in range(len(sizes)))
    table = ScoreTable(CRITERIA, groups, tuple(rng.random((len(CRITERIA), size)) for size in sizes), ())
    clusters = tuple(tuple((number,) for number in range(len(CRITERIA))) for _ in sizes)
    space = make_network_space(table, clusters)
    return Decoder(space, table, structure.oracle, make_widths(sizes, 2, 0.05, "auto", BUDGET), {"macs": (BUDGET,) * 2})


def measure_network(name: str, genomes: int, repeats: int) -> dict[str, Any]:
    decoder, rng = make_decoder(name), np.random.default_rng(1)
    drawn = [decoder.space.sample(rng) for _ in range(genomes)]
    whole = measure_least(lambda: [decoder.decode(genome) for genome in drawn], repeats) / genomes
    allocation = measure_least(lambda: [decoder.decode_counts(genome) for genome in drawn], repeats) / genomes
    ratios = [float(decoder.oracle.compute_ratio("macs", decoder.decode_counts(genome))) for genome in drawn]
    return {
        "groups": len(decoder.allowed.sizes),
        "channels": int(decoder.allowed.sizes.sum()),
        "genomes_per_second": round(1 / whole),
        "decoding_ms": round(1e3 * whole, 3),
        "allocation_ms": round(1e3 * allocation, 3),
        "allocation_ratio": round(allocation / whole, 3),
        "macs_ratios": [round(min(ratios), 4), round(max(ratios), 4)],
    }


def measure_least(work: Callable[[], object], repeats: int) -> float:
    """Return the least processor seconds of `work`."""
    found = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genomes", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    machine = describe_machine()
    results: dict[str, Any] = {"machine": machine}
    for name in NETWORKS:
        results[name] = measure_network(name, arguments.genomes, arguments.repeats)
        print(json.dumps({name: results[name]}), flush=True)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
