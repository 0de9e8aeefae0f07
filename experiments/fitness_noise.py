"""Measure how well a fitness on few validation images ranks networks, by labels or by the dense network's outputs.

    python experiments/fitness_noise.py CONFIG [--networks 60] [--images 2000] [--out FILE] [--set F=V ...]

Draws networks around the best global baseline of CONFIG (without its `data.val_limit`), recovers each, and computes its
outputs on all validation images. Then, many times, `--images` of them are the fitness, and the others rank the
networks. Prints per fitness the signal (standard deviation of its mean over networks) as a multiple of the noise in a
difference of two networks; and Spearman's correlation of its order with the orders by cross-entropy and by error on the
other images. Test images are not used.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from blendsearch.fitness.evaluator import make_request
from blendsearch.pipeline.optimizers.baselines import make_baselines
from blendsearch.pipeline.problem.builder import build_problem
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.runs.config.loading import load_config
from blendsearch.training.device import autocast

TEMPERATURES = (1, 2, 4)
REPEATS = 20
WORST = 1.5
"""Networks with a cross-entropy above this multiple of the best are excluded: a search ranks the good ones."""

Array = NDArray[np.float64]


def compute_outputs(problem: Problem, module: torch.nn.Module) -> Array:
    """Compute logits on all validation images, (n, classes)."""
    splits, held = problem.splits, problem.evaluator
    found = []
    with torch.inference_mode(), autocast(held.device, held.recipe.precision):
        for x, _ in splits.iter_batches(splits.val, batch_size=100, device=held.device):
            found.append(module(x).double().cpu().numpy())
    return np.concatenate(found)


def compute_softmax(logits: Array, temperature: float) -> Array:
    scaled = logits / temperature
    return np.asarray(scaled - np.logaddexp.reduce(scaled, axis=-1, keepdims=True))


def compute_fitnesses(logits: Array, dense: Array, labels: NDArray[np.int64]) -> dict[str, Array]:
    """Compute the fitness of each network on each image by name, (networks, images)."""
    found = {
        "labels, cross-entropy": -compute_softmax(logits, 1)[:, np.arange(len(labels)), labels],
        "labels, error": (logits.argmax(axis=-1) != labels).astype(np.float64),
    }
    for temperature in TEMPERATURES:
        wanted = compute_softmax(dense, temperature)
        divergence = (np.exp(wanted) * (wanted - compute_softmax(logits, temperature))).sum(axis=-1)
        found[f"dense, temperature {temperature}"] = divergence
    return found


def compare_fitnesses(found: Mapping[str, Array], images: int, rng: np.random.Generator) -> dict[str, dict[str, float]]:
    entropy, error = found["labels, cross-entropy"], found["labels, error"]
    good = entropy.mean(axis=1) < WORST * entropy.mean(axis=1).min()
    result: dict[str, dict[str, float]] = {}
    for name, values in found.items():
        about = values[good] - values[good].mean(axis=0)
        noise = float((about.std(axis=1) / np.sqrt(images)).mean())
        result[name] = {"signal_to_noise": float(about.mean(axis=1).std()) / noise, "networks": int(good.sum())}
    orders: dict[str, list[tuple[float, float]]] = {name: [] for name in found}
    for _ in range(REPEATS):
        mixed = rng.permutation(entropy.shape[1])
        seen, unseen = mixed[:images], mixed[images:]
        for name, values in found.items():
            fitness = values[good][:, seen].mean(axis=1)
            others = (entropy[good][:, unseen].mean(axis=1), error[good][:, unseen].mean(axis=1))
            orders[name].append((spearmanr(fitness, others[0])[0], spearmanr(fitness, others[1])[0]))
    for name, pairs in orders.items():
        result[name] |= dict(zip(("rho_entropy", "rho_error"), np.mean(pairs, axis=0).tolist(), strict=True))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--networks", type=int, default=60)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    arguments = parser.parse_args()
    config = load_config(arguments.config, ["data.val_limit=null", *arguments.overrides])
    problem = build_problem(config, lambda event: print(event.kind, flush=True))
    decoder, rng = problem.decoder, np.random.default_rng(config.seed)

    def compute_recovered_outputs(cut: NDArray[np.bool_]) -> Array:
        return compute_outputs(problem, problem.evaluator.build_network(make_request(cut, "recalibrated", config.seed)))

    labels = problem.splits.val.labels
    everywhere = [genome for name, genome in make_baselines(decoder, 1) if " global" in name]
    logits = [compute_recovered_outputs(decoder.decode(genome)) for genome in everywhere]
    entropies = [float(-compute_softmax(item, 1)[np.arange(len(labels)), labels].mean()) for item in logits]
    centre = everywhere[int(np.argmin(entropies))]
    while len(logits) < arguments.networks:
        blend = np.clip(rng.normal(0, 0.5, len(centre.blend)), -1, 1)
        share = np.clip(centre.share + rng.normal(0, 0.05, len(centre.share)), -1, 1)
        logits.append(compute_recovered_outputs(decoder.decode(centre._replace(blend=blend, share=share))))
        print(f"{len(logits)} of {arguments.networks} networks", flush=True)
    found = compute_fitnesses(np.array(logits), compute_outputs(problem, problem.model.eval()), labels)
    result = compare_fitnesses(found, arguments.images, rng)
    print(f"{'fitness':<26}{'signal / noise':>15}{'rho entropy':>13}{'rho error':>11}")
    for name, row in result.items():
        print(f"{name:<26}{row['signal_to_noise']:>15.2f}{row['rho_entropy']:>13.3f}{row['rho_error']:>11.3f}")
    facts = {"config": arguments.config.name, "networks": len(logits), "images": arguments.images, "fitness": result}
    arguments.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
