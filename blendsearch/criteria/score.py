"""Computation of the score table: every criterion of the pool on every group of the network."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from blendsearch.criteria.needs import Need
from blendsearch.criteria.probe import TEMPERATURE, Loss, ProbeData, cross_entropy, probe
from blendsearch.criteria.registry import Criterion
from blendsearch.criteria.table import ScoreTable, build_score_table
from blendsearch.criteria.view import GroupView
from blendsearch.structure.trace import Structure


def compute_score_table(
    model: nn.Module,
    structure: Structure,
    pool: Sequence[Criterion],
    calibration: Callable[[], Iterable[tuple[Tensor, Tensor]]],
    rng: np.random.Generator,
    temperature: float = TEMPERATURE,
    loss: Loss | None = cross_entropy,
) -> ScoreTable:
    """Compute the scores of all channels by all criteria of `pool`.

    `calibration` returns batches of (images, labels) on the model's device. It is called once, and only if a criterion
    needs the probe, which receives `temperature` and `loss`. A criterion that fails, or whose scores cannot rank, is
    left out for that group and reported.
    """
    maps = structure.maps
    data: ProbeData | None = None
    needs = frozenset[Need]().union(*(criterion.needs for criterion in pool))
    if needs:
        data = probe(model, maps, calibration(), needs, temperature=temperature, loss=loss)
    per_channel = structure.oracle.compute_cost_per_channel("macs", maps.sizes)
    rows: dict[str, dict[str, object]] = {criterion.name: {} for criterion in pool}
    streams = rng.spawn(len(maps.groups))
    for number, group in enumerate(maps.groups):
        view = GroupView(model, group, data, float(per_channel[number]), streams[number])
        for criterion in pool:
            rows[criterion.name][group.name] = _score(criterion, view)
    sizes = {group.name: group.channels for group in maps.groups}
    return build_score_table(tuple(criterion.name for criterion in pool), rows, sizes)


def _score(criterion: Criterion, view: GroupView) -> object:
    try:
        with torch.no_grad():
            scores = criterion.score(view)
    except Exception as error:  # user-defined criteria may raise anything; the search continues without them
        return error
    return None if scores is None else scores.detach().double().cpu().numpy()
