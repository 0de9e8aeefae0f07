"""Every criterion of the pool over every group of the network."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from blendsearch.criteria.needs import Need
from blendsearch.criteria.probe import TEMPERATURE, Loss, Probe, cross_entropy, probe
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
    """Scores of all channels by all criteria of `pool`.

    `calibration` gives batches of (images, labels) on the model's device; it is called once, and only when a criterion
    needs the probe, to which `temperature` and `loss` go. A criterion that fails, or gives scores that cannot rank, is
    left out for that group and reported.
    """
    maps = structure.maps
    gathered: Probe | None = None
    needs = frozenset[Need]().union(*(criterion.needs for criterion in pool))
    if needs:
        gathered = probe(model, maps, calibration(), needs, temperature=temperature, loss=loss)
    per_channel = structure.oracle.compute_cost_per_channel("macs", maps.sizes)
    rows: dict[str, dict[str, object]] = {criterion.name: {} for criterion in pool}
    streams = rng.spawn(len(maps.groups))
    for number, group in enumerate(maps.groups):
        view = GroupView(model, group, gathered, float(per_channel[number]), streams[number])
        for criterion in pool:
            rows[criterion.name][group.name] = _score(criterion, view)
    sizes = {group.name: group.channels for group in maps.groups}
    return build_score_table(tuple(criterion.name for criterion in pool), rows, sizes)


def _score(criterion: Criterion, view: GroupView) -> object:
    try:
        with torch.no_grad():
            scores = criterion.score(view)
    except Exception as error:  # a person's own criterion may fail in any way; the search goes on without it
        return error
    return None if scores is None else scores.detach().double().cpu().numpy()
