"""Staged cutting: a network is cut along nested cuts, and what goes next decays under a growing penalty before it goes.

After Wang et al. 2021, "Neural Pruning via Growing Regularization". All stages lie on one schedule. The first stage
trains the unpruned network, the last one the final network. Towards the end of each stage, the parameters that silence
the channels that go next are multiplied by a falling factor in every step, down to zero. Cutting them then changes
nothing, except in groups that no parameter silences (`ChannelScaler`, ``inexact``).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from blendsearch.data.splits import Splits
from blendsearch.errors import TrainingError
from blendsearch.structure.groups import Cut, IndexMaps, compute_cut_digest
from blendsearch.structure.surgery import narrow
from blendsearch.training.channel_norms import ChannelScaler, Vector, make_example_images
from blendsearch.training.device import convert_to_channels_last
from blendsearch.training.schedule import Schedule
from blendsearch.training.trainer import has_stored_state, train
from blendsearch.training.training_options import TrainingOptions


@dataclass(frozen=True)
class Staging:
    """How a training is divided into stages.

    Attributes
    ----------
    stages: networks that are trained one after the other, from the unpruned to the final one; 1 cuts before training.
    last: share, in (0, 1), of the steps for the final network; the other stages share the rest evenly.
    press: share, in (0, 1], of a stage, at its end, in which the channels that go next decay.
    power: exponent of the decay: with the part u of these steps done, a parameter without gradient is at
        (1 - u) ** power of its value.
    """

    stages: int = 1
    last: float = 0.5
    press: float = 1 / 3
    power: float = 2.0

    def compute_bounds(self, steps: int) -> list[int]:
        """Return the step at which each stage begins, then `steps`. Raises TrainingError for too few steps."""
        if steps < self.stages:
            raise TrainingError(f"{steps} steps are too few for {self.stages} stages: train longer, or in fewer stages")
        others = self.stages - 1
        final = min(max(1, round(self.last * steps)), steps - others)
        return [0, *((steps - final) * number // others for number in range(1, self.stages)), steps]

    def compute_factor(self, done: float, steps: int) -> float:
        """Return the factor of the parameters that go next, after a step of a stage of `steps`.

        `done`: part of the stage that is done, in (0, 1].
        """
        if done >= 1:
            return 0.0
        before, now = self._compute_distance(done - 1 / steps), self._compute_distance(done)
        return float((now / before) ** self.power)

    def _compute_distance(self, done: float) -> float:
        """Return the part of the decay that is left, in [0, 1]."""
        return min(1.0, (1 - done) / self.press)


ONE_CUT = Staging()


def make_stage_cuts(maps: IndexMaps, cut: Cut, norms: Vector, stages: int) -> list[Cut]:
    """Make nested cuts from the unpruned network to `cut`; the last of the `stages` equals `cut`.

    The count of each group falls geometrically from its size to its count in `cut`. Of the channels that `cut` removes,
    those of the least norm, (channels,), go first.
    """
    cuts = [maps.make_unpruned_cut() for _ in range(stages - 1)]
    for start, size, final in zip(maps.offsets, maps.sizes, maps.count_kept(cut), strict=False):
        removed = start + np.flatnonzero(~cut[start : start + size])
        removed = removed[np.argsort(norms[removed], kind="stable")]
        for number, stage in enumerate(cuts):
            count = round(size * (max(1, final) / size) ** (number / (stages - 1)))
            stage[removed[: size - count]] = False
    return [*cuts, cut]


@dataclass(frozen=True, eq=False)
class StagePlan:
    """The cuts of a network's stages, and the parameters that silence its channels."""

    maps: IndexMaps
    cuts: list[Cut]
    scaler: ChannelScaler
    staging: Staging

    def make_press(self, module: nn.Module, number: int, steps: int) -> Callable[[nn.Module, float], None] | None:
        """Make the function that scales what goes after stage `number` of `steps`; None for the last stage.

        `module` is the network of this stage.
        """
        if number + 1 == len(self.cuts):
            return None
        cut, following = self.cuts[number : number + 2]
        masks = self.scaler.make_masks(module, cut & ~following, cut)

        def press(_: nn.Module, done: float) -> None:
            factor = self.staging.compute_factor(done, steps)
            if factor < 1:
                with torch.no_grad():
                    for parameter, mask in masks:
                        parameter.addcmul_(parameter, mask, value=factor - 1)

        return press


def make_stage_plan(
    model: nn.Module, maps: IndexMaps, cut: Cut, splits: Splits, device: torch.device, staging: Staging
) -> StagePlan:
    """Plan the stages from the unpruned `model` to `cut`. Raises TrainingError where layers may be decomposed."""
    if maps.layers:
        raise TrainingError("networks with decomposed layers are not cut in stages: set finals.stages to 1")
    images = make_example_images(splits.train.shape, device)
    scaler = ChannelScaler(model, maps, images, inexact=True)
    return StagePlan(maps, make_stage_cuts(maps, cut, scaler.compute_norms(model), staging.stages), scaler, staging)


def train_in_stages(
    model: nn.Module,
    plan: StagePlan,
    splits: Splits,
    schedule: Schedule,
    device: torch.device,
    seed: int,
    options: TrainingOptions,
) -> nn.Module:
    """Train from the unpruned `model`, which is not changed, to the last cut; return the network in evaluation mode.

    Every stage begins with a new state of the optimizer and its own random numbers. The last stage is stored under the
    key of `options`, stage k before it under ``KEY-stage-k``; the entry of a stage is deleted after the first
    checkpoint of the next one. An interrupted training continues bit for bit.
    """
    bounds = plan.staging.compute_bounds(schedule.count_steps(len(splits.train)))
    stages = [_make_options(plan, bounds, number, options) for number in range(len(plan.cuts))]
    first = _find_stored_stage(stages, splits, schedule)
    module = narrow(model, plan.maps, plan.cuts[first])
    for number in range(first, len(stages)):
        if number > first:
            module = narrow(module, plan.maps, plan.cuts[number], plan.cuts[number - 1])
        module = _unify_memory(module)
        press = plan.make_press(module, number, bounds[number + 1] - bounds[number])
        rng = np.random.default_rng([seed, number])
        train(module, splits, schedule, device, rng, replace(stages[number], after_step=press))
    return module


def _make_options(plan: StagePlan, bounds: list[int], number: int, options: TrainingOptions) -> TrainingOptions:
    """Make the options of one stage: its part of the schedule and its checkpoints."""
    key, last = options.checkpoints.key, len(plan.cuts) - 1
    checkpoints = replace(
        options.checkpoints,
        key=f"{key}-stage-{number}" if key and number < last else key,
        keep=True,
        conditions=f"stage={number} of {plan.staging} cut={compute_cut_digest(plan.cuts[number])}",
        replaces=f"{key}-stage-{number - 1}" if key and number else "",
    )
    start, stop = (bound / bounds[-1] for bound in bounds[number : number + 2])
    return replace(options, checkpoints=checkpoints, start=start, stop=stop)


def _find_stored_stage(stages: list[TrainingOptions], splits: Splits, schedule: Schedule) -> int:
    """Return the number of the last stage with a stored state; 0 where there is none."""
    numbers = reversed(range(len(stages)))
    return next((number for number in numbers if has_stored_state(splits, schedule, stages[number])), 0)


def _unify_memory(module: nn.Module) -> nn.Module:
    """Give the weights of `module` the memory layout that depends on its shapes alone, in place."""
    for parameter in module.parameters():
        parameter.data = parameter.data.contiguous()
    return convert_to_channels_last(module)
