"""Method ``torch-pruning``: the channels that Torch-Pruning's own pruners would remove, as cuts of this package.

As an allocation or a seed of other searches, it gives the widths of the global pruner. Torch-Pruning is an optional
dependency (``blendsearch[peers]``), used here only. Its pruner lists the
channels group by group and does not prune: the network is cut by this package's surgery, so that both sides are
evaluated on equal terms.
"""

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from blendsearch.blend.allocation_rules import PreparedAllocation, make_path_rule
from blendsearch.blend.genome import Genome
from blendsearch.errors import ConfigError, ModelError, format_reason
from blendsearch.extras import format_missing
from blendsearch.pipeline.methods.method import Method
from blendsearch.pipeline.methods.one_network import FixedCandidates
from blendsearch.pipeline.optimizers.base import Optimizer
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.pipeline.problem.session import SearchSession
from blendsearch.structure.eval_mode import use_eval_mode
from blendsearch.structure.groups import ALWAYS, Cut
from blendsearch.structure.trace import Structure
from blendsearch.zoo.shortcut import PaddedShortcut

NAME = "torch-pruning"
WIDEST = 10.0
"""Largest factor by which the widths of a cut are scaled to reach the budget."""

STEPS = 18
"""Halvings of the interval of its pruning ratio; the last changes no channel of any known network."""


def compute_torch_pruning_cut(
    model: nn.Module,
    structure: Structure,
    shape: tuple[int, int, int],
    budget: Mapping[str, float],
    global_pruning: bool,
) -> Cut:
    """Compute the cut of Torch-Pruning's group-magnitude pruner at the smallest pruning ratio that meets `budget`.

    With `global_pruning`, one threshold holds for the whole network instead of one ratio for every layer. Raises
    ConfigError where Torch-Pruning is not installed, ModelError where it cannot prune this network.
    """
    try:
        import torch_pruning  # noqa: F401
    except ImportError as error:
        raise ConfigError(format_missing("the control torch-pruning", "peers")) from error
    readable = _replace_shortcuts(model).cpu()
    best: Cut | None = None
    low, high = 0.0, 1.0
    for _ in range(STEPS):
        ratio = (low + high) / 2
        try:
            cut = _make_cut(readable, structure, torch.zeros(1, *shape), ratio, global_pruning)
        except Exception as error:  # its own bugs come as any type
            raise ModelError(f"Torch-Pruning cannot prune this network: {format_reason(error)}") from error
        counts = structure.maps.count_kept(cut)
        if all(float(structure.oracle.compute_ratio(name, counts)) <= most for name, most in budget.items()):
            best, high = cut, ratio
        else:
            low = ratio
    if best is None:
        raise ModelError("Torch-Pruning meets this budget at no pruning ratio")
    return best


def _replace_shortcuts(model: nn.Module) -> nn.Module:
    """Copy `model` with padded shortcuts as equal 1 x 1 convolutions: Torch-Pruning cannot trace index copies."""
    with use_eval_mode(model):
        twin = copy.deepcopy(model)
    for name, module in list(twin.named_modules()):
        if isinstance(module, PaddedShortcut):
            channels, taken = module.links.shape
            convolution = nn.Conv2d(taken, channels, 1, stride=module.stride, bias=False)
            convolution.weight.data = module.links.float()[:, :, None, None]
            parent, _, last = name.rpartition(".")
            setattr(twin.get_submodule(parent), last, convolution)
    return twin


def _make_cut(model: nn.Module, structure: Structure, example: torch.Tensor, ratio: float, global_pruning: bool) -> Cut:
    import torch_pruning as tp

    maps = structure.maps
    names = {module: name for name, module in model.named_modules()}
    cuttable = {name for name, dims in maps.slices.items() if any(dim == 0 for dim, _ in dims)}
    whole = [
        module
        for module, name in names.items()
        if isinstance(module, nn.Conv2d | nn.Linear)
        and f"{name}.weight" not in cuttable
        # the convolution that replaces a shortcut has no channels of its own to prune, but must follow the others
        and not (isinstance(module, nn.Conv2d) and not _is_known(f"{name}.weight", maps.shapes))
    ]
    model.eval()
    pruner = tp.pruner.BasePruner(
        model,
        example,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        global_pruning=global_pruning,
        pruning_ratio=ratio,
        ignored_layers=whole,
    )
    kept = np.ones(maps.channels, dtype=np.bool_)
    for group in pruner.step(interactive=True):
        for dependency, indices in group:
            if not pruner.DG.is_out_channel_pruning_fn(dependency.pruning_fn):
                continue
            sources = dict(maps.slices.get(f"{names.get(dependency.target.module, '')}.weight", ()))
            if 0 in sources:
                source = maps.sources[sources[0]][np.asarray(indices, dtype=np.int64)]
                kept[source[source != ALWAYS]] = False
    for start, group in zip(maps.offsets[:-1], maps.groups, strict=True):
        if not kept[start : start + group.channels].any():
            kept[start] = True  # no group can vanish
    return kept


def _is_known(tensor: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    return tensor in shapes


def make_torch_pruning_cuts(problem: Problem) -> list[tuple[str, Cut]]:
    """Make the cuts of the global and the local pruner at the budget."""
    height, width, channels = problem.splits.train.shape
    shape, budget = (channels, height, width), problem.decoder.compute_budget(0.0)
    return [
        (name, compute_torch_pruning_cut(problem.model, problem.structure, shape, budget, everywhere))
        for name, everywhere in (("Torch-Pruning global", True), ("Torch-Pruning local", False))
    ]


class TorchPruning(Method):
    """A fixed set of networks: the cuts of Torch-Pruning's two pruners."""

    def make_optimizer(self, problem: Problem) -> Optimizer:
        """Make the optimizer that proposes these networks alone."""
        return FixedCandidates(problem, make_torch_pruning_cuts(problem))

    def prepare_allocation(self, session: SearchSession) -> PreparedAllocation | None:
        """Find the widths of the global pruner at the budget, for other methods; this one has its own networks."""
        problem = session.problem
        if problem.config.method == NAME:
            return None
        ((_, cut), _) = make_torch_pruning_cuts(problem)
        counts, allowed = problem.structure.maps.count_kept(cut).astype(np.float64), problem.decoder.allowed
        # a pruning ratio is coarse: all groups are widened by one factor as far as the budget allows
        rule = make_path_rule(NAME, allowed, lambda level: np.minimum(counts * level, allowed.sizes), (0.0, WIDEST))
        return PreparedAllocation(rule)

    def make_baselines(self, problem: Problem) -> list[tuple[str, Genome]]:
        """Return none: the cuts come from Torch-Pruning."""
        return []
