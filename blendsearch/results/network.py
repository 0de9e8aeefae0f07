"""One network of a run in detail: its groups, its blend, its costs and its origin."""

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from blendsearch.blend.cluster_space import make_cluster_space
from blendsearch.blend.clustering import Clusters
from blendsearch.blend.genome import Genome, Space
from blendsearch.blend.group_space import make_group_space
from blendsearch.blend.network_space import make_network_space
from blendsearch.criteria.table import ScoreTable
from blendsearch.errors import RunError
from blendsearch.results.costs import make_cost_reader, make_ranged_cost_reader, needs_cuts_for_costs
from blendsearch.results.records import BlendWeight, FineTuneRecord, GroupRecord, JsonObject, NetworkDetails
from blendsearch.results.summary import (
    describe_evaluation,
    describe_training,
    make_extra_metrics_reader,
    make_network_record,
    select_network,
)
from blendsearch.runs.decoding import check_type, decode_json
from blendsearch.runs.origin import Origin
from blendsearch.runs.pareto import select_front, select_highest_fidelity
from blendsearch.runs.records import Evaluation, FinalResult
from blendsearch.runs.run import Run
from blendsearch.runs.run_facts import StructureFacts
from blendsearch.runs.score_files import read_scores
from blendsearch.structure.groups import Cut, unpack_cut

GroupReader = Callable[[Evaluation], list[GroupRecord]]


class _GenomeFacts(TypedDict, total=False):
    log_alpha: list[float]
    beta: list[float]
    cluster: list[float]
    member: list[float]
    weight: list[float]
    deviation: list[list[float]]
    choice: list[list[int]]
    factor: list[list[float]]
    share: list[float]
    transform: list[float]
    blocks: list[float]
    target: float


BLEND_KEYS = (("cluster", "member", "deviation"), ("weight", "deviation"), ("choice", "factor"))
"""Keys of a stored genome that make its blend, in the order of its genes; the first tells the space."""

WeightsReader = Callable[[JsonObject], NDArray[np.float64] | None]
"""From a stored genome to the weight of each criterion in each group, (groups, criteria); None for no blend."""


def describe_network(run: Run, selector: str) -> NetworkDetails:
    """Describe a network: ``best``, ``knee`` or an id. Raises RunError as `select_network` does."""
    row = select_network(run, selector)
    with run.open_store(read_only=True) as store:
        tests, finals, latencies = store.read_tests(), store.read_finals(), store.read_latencies()
        rows = store.read_bare_evaluations(-1, cuts=needs_cuts_for_costs(run))
        candidates = select_highest_fidelity(rows, store.read_promotions())
    network = make_network_record(
        describe_evaluation(run, row, tests), make_cost_reader(run)(row, latencies), make_extra_metrics_reader(run)(row)
    )
    front = select_front(candidates, make_ranged_cost_reader(run))
    return NetworkDetails(
        **vars(network),
        run=run.name,
        macs=row.macs,
        params=row.params,
        dense=run.structure["dense"],
        generation=row.generation,
        seed=row.seed,
        seconds=row.seconds,
        kinds=Origin.parse(row.origin).baseline_kinds,
        on_front=any(other.id == row.id for other in front),
        finals=_describe_fine_tunes(run, [item for item in finals if item.digest == row.digest]),
        groups=tuple(make_group_reader(run)(row)),
        decomposed=tuple(list_decomposed_layers(run, row)) if list_decomposable_layers(run) else None,
        genome=parse_genome(run, row),
        provenance=run.provenance,
    )


def parse_genome(run: Run, row: Evaluation) -> JsonObject:
    """Parse the genome of a network. Raises RunError where it is damaged."""
    try:
        genome: JsonObject = decode_json(row.genome, dict[str, Any])
        check_type(genome, _GenomeFacts)
        _check_complete(genome)
        for name in ("log_alpha", "beta"):
            if len(genome.get(name, run.structure["groups"])) != len(run.structure["groups"]):
                raise ValueError(f"{name} has not one value for each group")
    except ValueError as error:
        raise RunError(
            f"{run.path / 'run.sqlite'} is damaged (genome of network {row.id}: {error}): restore it from a copy"
        ) from error
    return genome


def _check_complete(genome: JsonObject) -> None:
    """Raise ValueError where a genome has some keys of a blend without the others."""
    required = {"share", "target"}
    begun = genome.keys() & {*required, *(parts[0] for parts in BLEND_KEYS)}
    if begun and not any(genome.keys() >= {*required, *parts} for parts in BLEND_KEYS):
        raise ValueError(f"{min(begun)} is there without the keys that belong to it")


def list_decomposable_layers(run: Run) -> list[str]:
    """List the layers that networks of this run may decompose (structure.depthwise)."""
    return list(run.structure.get("layers", []))


def list_decomposed_layers(run: Run, row: Evaluation) -> list[str]:
    """List the layers that a network decomposes into a depthwise and a pointwise one."""
    layers = list_decomposable_layers(run)
    channels = sum(int(group["channels"]) for group in run.structure["groups"])
    whole = unpack_cut(row.cut, channels + len(layers))[channels:]
    return [name for name, kept in zip(layers, whole, strict=True) if not kept]


def list_removed_outputs(structure: StructureFacts, cut: Cut) -> dict[str, int]:
    """List the layers that a cut of a run removes, with the outputs that they return as constants."""
    starts = np.concatenate([[0], np.cumsum([group["channels"] for group in structure["groups"]])]).astype(np.int64)
    kept = np.add.reduceat(cut[: starts[-1]], starts[:-1], dtype=np.int64)
    empty = {group["name"] for group, count in zip(structure["groups"], kept, strict=True) if not count}
    padded = np.append(cut[: starts[-1]], True)
    return {
        layer: int(padded[source].sum())
        for block in structure.get("blocks", [])
        if empty.issuperset(block["groups"])
        for layer, source in block["layers"].items()
    }


def make_group_reader(run: Run) -> GroupReader:
    """Make the function from a network to its groups, in order. Raises RunError where scores are damaged."""
    groups = run.structure["groups"]
    sizes = [int(group["channels"]) for group in groups]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    criteria = list(run.structure["criteria"])
    read_weights = make_weights_reader(run)

    def read(row: Evaluation) -> list[GroupRecord]:
        kept = np.add.reduceat(unpack_cut(row.cut, sum(sizes)), starts, dtype=np.int64)
        genome = parse_genome(run, row)
        weights = read_weights(genome)
        found = []
        for number, (group, size) in enumerate(zip(groups, sizes, strict=True)):
            record = GroupRecord(
                group=group["name"],
                channels=size,
                kept=int(kept[number]),
                kept_ratio=int(kept[number]) / size,
                blend=None if weights is None else _list_blend_weights(criteria, weights[number]),
                **{name: genome[name][number] for name in ("log_alpha", "beta") if name in genome},
            )
            found.append(record)
        return found

    return read


def _describe_fine_tunes(run: Run, finals: Sequence[FinalResult]) -> tuple[FineTuneRecord, ...]:
    how = describe_training(run)
    return tuple(
        FineTuneRecord(
            how=how,
            repeat=item.repeat,
            val_loss=item.loss,
            val_accuracy=1 - item.error,
            test_loss=item.test_loss,
            test_accuracy=1 - item.test_error,
            seconds=item.seconds,
        )
        for item in finals
    )


def _list_blend_weights(criteria: Sequence[str], weights: NDArray[np.float64]) -> tuple[BlendWeight, ...]:
    """List the criteria with a weight, the largest first."""
    total = float(weights.sum())
    order = sorted(np.flatnonzero(weights).tolist(), key=lambda row: (-weights[row], row))
    return tuple(
        BlendWeight(criterion=criteria[row], weight=float(weights[row]), part=float(weights[row]) / total)
        for row in order
    )


def _make_space(kind: str, run: Run, table: ScoreTable, clusters: Clusters) -> Space:
    if kind == "cluster":
        return make_cluster_space(table, clusters, members=run.config.search.members)
    return make_network_space(table, clusters) if kind == "weight" else make_group_space(table, clusters)


def make_weights_reader(run: Run) -> WeightsReader:
    """Make the function from a stored genome to its weights. Raises RunError where scores are damaged."""
    spaces: dict[str, Space] = {}

    def load_space(kind: str) -> Space:
        if kind not in spaces:
            table, clusters = read_scores(run)
            spaces[kind] = _make_space(kind, run, table, clusters)
        return spaces[kind]

    def read(genome: JsonObject) -> NDArray[np.float64] | None:
        # the keys of a genome tell its space; stored deviations are zero where none were evolved
        parts = next((parts for parts in BLEND_KEYS if parts[0] in genome), None)
        if parts is None:
            return None
        try:
            blend = np.concatenate([np.asarray(genome[name], dtype=np.float64).ravel() for name in parts])
            space = load_space(parts[0])
            found = space.compute_weights(Genome(blend, np.zeros(space.groups), 0.0))
            if not np.isfinite(found).all():
                raise ValueError("a weight is not finite")
        except (KeyError, ValueError, IndexError, TypeError, OverflowError) as error:
            raise RunError(f"a genome in {run.path / 'run.sqlite'} does not fit its clusters: {error}") from error
        # in a group without any weight all usable criteria count alike: see `genome.blended`
        usable = np.array([np.isfinite(rows[:, 0]) for rows in space.ranks])
        empty = ~found.any(axis=1)
        found[empty] = usable[empty]
        return found

    return read
