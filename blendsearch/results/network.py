"""One network of a run, taken apart: what each group keeps, whose say that was, what it costs, where it came from."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blendsearch.blend.genome import Genome, Space
from blendsearch.blend.group_space import make_group_space
from blendsearch.blend.network_space import make_network_space
from blendsearch.errors import RunError
from blendsearch.results.costs import make_cost_reader, make_ranged_cost_reader
from blendsearch.results.summary import describe_evaluation, make_extra_metrics_reader, select_network
from blendsearch.runs.config.method_registry import get_method
from blendsearch.runs.origin import list_baseline_kinds
from blendsearch.runs.pareto import select_front, select_highest_fidelity
from blendsearch.runs.records import Evaluation
from blendsearch.runs.run import Run
from blendsearch.runs.score_files import read_scores
from blendsearch.structure.groups import unpack_cut


def describe_network(run: Run, selector: str) -> dict[str, Any]:
    """The network that `what` names (``best``, ``knee`` or an id), as plain values.

    Beside what `summary` says of a network: `macs` and `params` with the `dense` network's, `generation`, `seed`,
    `seconds` of its evaluation, `kinds` of baseline it is, `on_front`, its `finals` (one object per seed, with `how`
    it was trained), the stored `genome`, `groups` (see `group_facts`), and the run's `provenance`; where layers may be
    decomposed, the names of those that are, `decomposed`. Raises RunError as `summary.pick` does.
    """
    row = select_network(run, selector)
    with run.open_store(read_only=True) as store:
        rows, tests, finals, latencies = (
            store.read_evaluations(),
            store.read_tests(),
            store.read_finals(),
            store.read_latencies(),
        )
        judged = select_highest_fidelity(rows, store.read_promotions())
    return {
        "run": run.name,
        **describe_evaluation(run, row, tests),
        **make_cost_reader(run)(row, latencies),
        **make_extra_metrics_reader(run)(row),
        "macs": row.macs,
        "params": row.params,
        "dense": dict(run.structure["dense"]),
        "generation": row.generation,
        "seed": row.seed,
        "seconds": row.seconds,
        "kinds": list_baseline_kinds(row),
        "on_front": any(other.id == row.id for other in select_front(judged, make_ranged_cost_reader(run))),
        "finals": [
            {
                "how": describe_training(run),
                "repeat": item.repeat,
                "val_loss": item.loss,
                "val_accuracy": 1 - item.error,
                "test_loss": item.test_loss,
                "test_accuracy": 1 - item.test_error,
                "seconds": item.seconds,
            }
            for item in finals
            if item.digest == row.digest
        ],
        "groups": make_group_reader(run)(row),
        **({"decomposed": list_decomposed_layers(run, row)} if list_decomposable_layers(run) else {}),
        "genome": json.loads(row.genome),
        "provenance": run.provenance,
    }


def describe_training(run: Run) -> str:
    """In words, how the kept weights of a fine-tuned network came about: by its method, or by `finals`."""
    method = run.config.method
    return f"as {method} trained it" if get_method(method).traits.trains_itself else "after the long fine-tune"


def list_decomposable_layers(run: Run) -> list[str]:
    """The layers that networks of this run may decompose (structure.depthwise)."""
    return list(run.structure.get("layers", []))


def list_decomposed_layers(run: Run, row: Evaluation) -> list[str]:
    """The layers that a network decomposes into a depthwise and a pointwise one."""
    layers = list_decomposable_layers(run)
    channels = sum(int(group["channels"]) for group in run.structure["groups"])
    whole = unpack_cut(row.cut, channels + len(layers))[channels:]
    return [name for name, kept in zip(layers, whole, strict=True) if not kept]


def make_group_reader(run: Run) -> Callable[[Evaluation], list[dict[str, Any]]]:
    """From a network to one object per group, in order: `group`, `channels`, `kept`, `kept_ratio`, `blend`.

    `blend` lists the criteria that were heard, the loudest first, each with its `weight` as the space defines it and
    its `part` of the say in [0, 1], which sum to one; None where the method does not blend (LeGR, Torch-Pruning, the
    dense network). LeGR's groups have `log_alpha` and `beta` instead. Raises RunError where scores are damaged.
    """
    groups = run.structure["groups"]
    sizes = [int(group["channels"]) for group in groups]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    names = list(run.structure["criteria"])
    weights = _make_weights_reader(run)

    def read(row: Evaluation) -> list[dict[str, Any]]:
        kept = np.add.reduceat(unpack_cut(row.cut, sum(sizes)), starts, dtype=np.int64)
        genome = json.loads(row.genome)
        weight = weights(genome)
        found = []
        for number, (group, size) in enumerate(zip(groups, sizes, strict=True)):
            facts: dict[str, Any] = {"group": group["name"], "channels": size, "kept": int(kept[number])}
            facts["kept_ratio"] = facts["kept"] / size
            facts["blend"] = None if weight is None else _list_blend_weights(names, weight[number])
            facts |= {name: genome[name][number] for name in ("log_alpha", "beta") if name in genome}
            found.append(facts)
        return found

    return read


def _list_blend_weights(names: list[str], weight: NDArray[np.float64]) -> list[dict[str, Any]]:
    whole = float(weight.sum())
    order = sorted(np.flatnonzero(weight), key=lambda row: (-weight[row], row))
    return [
        {"criterion": names[row], "weight": float(weight[row]), "part": float(weight[row]) / whole} for row in order
    ]


def _make_weights_reader(run: Run) -> Callable[[Mapping[str, Any]], NDArray[np.float64] | None]:
    """From a stored genome to how much each criterion counts in each group, (groups, criteria); None for no blend."""
    spaces: dict[str, Space] = {}

    def load_space(kind: str) -> Space:
        if kind not in spaces:
            table, clusters = read_scores(run)
            spaces[kind] = (
                make_network_space(table, clusters) if kind == "weight" else make_group_space(table, clusters)
            )
        return spaces[kind]

    def read(genome: Mapping[str, Any]) -> NDArray[np.float64] | None:
        # which of the two spaces it is from shows in its words; stored deviations are zero where none were asked for
        pair = next((pair for pair in (("weight", "deviation"), ("choice", "factor")) if pair[0] in genome), None)
        if pair is None:
            return None
        try:
            blend = np.concatenate([np.asarray(genome[name], dtype=np.float64).ravel() for name in pair])
            known = load_space(pair[0])
            found = known.compute_weights(Genome(blend, np.zeros(known.groups), 0.0))
        except (KeyError, ValueError, IndexError) as error:
            raise RunError(f"a genome of run {run.name!r} does not fit its clusters: {error}") from error
        # a group in which nobody was heard is decided by all that can be, alike: see `genome.blended`
        usable = np.array([np.isfinite(rows[:, 0]) for rows in known.ranks])
        silent = ~found.any(axis=1)
        found[silent] = usable[silent]
        return found

    return read
