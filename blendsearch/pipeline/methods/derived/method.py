"""Allocation and method ``derived``: rates that follow from how far the loss may grow, step by step, with retraining.

Sakai, Iwakawa and Tabaru 2022, "Automatic pruning rate derivation" (doi 10.1145/3533050.3533066). In every step each
layer gets a threshold on its pruning error, (initial loss x (1 + margin) - loss) x the mean of 1/|dL/dw| over its
weights, averaged over about 100 batches. Thresholds stay inside a trust region, whose bound grows when the retrained
network's accuracy is within the tolerance and shrinks otherwise. Each layer takes the largest rate of a ladder whose
error (L1 norm of the removed weights / weights of the layer) is under its threshold. It ends when all rates are 0, or
at the search limit.

Only the abstract is public. Choices beyond it:

- Layers are groups: coupled layers share a threshold and a rate, over the weights of all of them. The channels with the
  least summed absolute weights are removed first.
- Gradients are taken in evaluation mode. Those below a thousandth of their group's mean count as that much
  (gradients.py); a group that the loss does not depend on has no threshold and takes the largest rate.
- The trust region is a ball: thresholds are scaled down until their Euclidean norm is its bound. Its first bound is
  `derived.trust` times the norm of the errors that the largest rates would cause everywhere.
- A step is undone if the network's validation accuracy is not within the tolerance of the dense network's.
- The budget. The published method decides how much to remove; here it has to meet a budget. Where all rates are 0 above
  the budget, the margin is doubled if the thresholds are too low for the ladder; otherwise the trust region is too
  small, after steps that were undone: the tolerance is doubled and the bound grows. The step that passes the budget is
  shortened to the budget, all groups by the same factor. At the search limit all groups are narrowed to the budget by
  one ratio. As an allocation at several budgets, widths between and beyond the steps are interpolated the same way.
- Retraining starts from recalibrated batch-norms and follows `derived.tuning`; the last one adds `derived.final`. On a
  small data set, one epoch is a few steps of SGD: nearly every step is then undone, and the last one, forced to the
  budget, removes most channels at once.

It runs in the searching process. A resumed run continues after its last step.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from blendsearch.blend.allocation import Counts, allocate_along
from blendsearch.blend.allocation_rules import PreparedAllocation, make_path_rule
from blendsearch.blend.decoder import keep_best
from blendsearch.events import MethodProgress
from blendsearch.pipeline.methods.derived.gradients import Filters, GradientStats, measure_gradients
from blendsearch.pipeline.methods.derived.rates import (
    clip_to_trust_region,
    compute_largest_errors,
    compute_thresholds,
    interpolate_widths,
    select_widths,
)
from blendsearch.pipeline.methods.derived.spec import DerivedConfig
from blendsearch.pipeline.methods.one_network import OneNetworkMethod
from blendsearch.pipeline.problem.from_config import make_schedule
from blendsearch.pipeline.problem.persistence import get_state_arrays
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.pipeline.problem.session import SearchSession
from blendsearch.runs.array_checkpoint import load_array_checkpoint, save_array_checkpoint
from blendsearch.runs.checkpoint import refuse_unfit_state
from blendsearch.runs.config.sections import ScheduleConfig
from blendsearch.runs.decoding import decode_dataclass
from blendsearch.structure.groups import Cut
from blendsearch.structure.surgery import narrow
from blendsearch.training.device import convert_to_channels_last
from blendsearch.training.recalibration import recalibrate
from blendsearch.training.trainer import train
from blendsearch.training.training_options import CheckpointOptions, TrainingOptions

PATH_EXTENSION = 500.0
"""Steps of a tenth that a path continues after the last step: enough for any budget."""


class StepSummary(TypedDict):
    """A step in numbers: costs as shares of the dense network's; `stands` unless the step was undone."""

    macs_ratio: float
    params_ratio: float
    val_accuracy: float
    stands: bool


@dataclass(frozen=True)
class DerivationState:
    """The state of the derivation, as JSON values.

    counts: kept channels per group before the first step and after each that was not undone; cut: the channels now.
    loss: the dense network's on training images, error: its on validation images.
    """

    counts: list[list[int]]
    cut: list[bool]
    bound: float
    margin: float
    tolerance: float
    loss: float
    error: float
    step: int = 0
    seconds: float = 0.0
    over: bool = False
    said: StepSummary | None = None


def derive_widths(session: SearchSession) -> PreparedAllocation:
    """Derive the widths, the channels kept, and the retrained network."""
    problem = session.problem
    derivation = Derivation(problem)
    folder = session.run.path / "derived"
    found = load_array_checkpoint(folder, session.warn)
    if found is None:
        state, module = derivation.start()
    else:
        with refuse_unfit_state(folder):
            state = decode_dataclass(found[0], DerivationState)
            module = derivation.restore_network(state, found[1])
    while not state.over:
        start = time.perf_counter()
        state, module = derivation.step(state, module)
        state = replace(state, seconds=state.seconds + time.perf_counter() - start)
        save_array_checkpoint(folder, state.step, state.__dict__, get_state_arrays(module))
        session.report(_describe_step(state, derivation.config.steps))
    counts = [np.array(item) for item in state.counts]
    decoder, last = problem.decoder, len(counts) - 1
    levels = (-(last + PATH_EXTENSION), 0.0)
    fixed = make_path_rule("derived", decoder.allowed, lambda level: interpolate_widths(counts, level), levels)
    return PreparedAllocation(fixed, np.array(state.cut), get_state_arrays(module), state.seconds)


def _describe_step(state: DerivationState, steps: int) -> MethodProgress:
    said = state.said
    assert said is not None, "no step was made"
    kept = f"{said['macs_ratio']:.1%} of macs  {said['params_ratio']:.1%} of params"
    end = "" if said["stands"] else "  taken back"
    return MethodProgress(
        name="derived",
        activity="deriving rates",
        line=f"derived step {state.step:>3}  {kept}  validation accuracy {said['val_accuracy']:.2%}{end}",
        done=state.step,
        of=steps,
        facts={"step": state.step, **said},
    )


class Derivation:
    """The steps of one problem. Each follows from the state before it and the run's seed alone."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.config = problem, problem.config.get_options(DerivedConfig)
        self.maps = problem.structure.maps
        # over a range of budgets the derivation continues to the least
        self.budget = problem.decoder.compute_budget(0.0)

    def start(self) -> tuple[DerivationState, nn.Module]:
        """Return the state before the first step, and the dense network."""
        config, maps, whole = self.config, self.maps, self.maps.make_unpruned_cut()
        module = convert_to_channels_last(narrow(self.problem.model, maps, whole))
        filters = Filters(maps, whole, module)
        gradients = self._measure_gradients(module, filters, 0)
        values, weights = self._split(filters.compute_l1_norms(module), whole), filters.count_weights(module)
        errors = compute_largest_errors(values, weights, self.problem.decoder.allowed, config.ladder)
        _, error = self.problem.evaluator.measure(module, "val")
        bound = config.trust * float(np.linalg.norm(errors))
        loss = float(gradients.losses.mean())
        first = [maps.sizes.tolist()]
        return DerivationState(first, whole.tolist(), bound, config.margin, config.tolerance, loss, error), module

    def restore_network(self, state: DerivationState, arrays: Mapping[str, NDArray[Any]]) -> nn.Module:
        """Restore the network of a stored state. Raises ValueError where it does not fit the network."""
        cut = np.array(state.cut)
        if len(cut) != self.maps.channels or not self.maps.count_kept(cut).all() or not state.counts:
            raise ValueError("its cut does not fit the network")
        if {len(item) for item in state.counts} != {len(self.maps.groups)} or state.step < 0:
            raise ValueError("its counts do not fit the network")
        module = convert_to_channels_last(narrow(self.problem.model, self.maps, cut))
        module.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
        return module

    def step(self, state: DerivationState, module: nn.Module) -> tuple[DerivationState, nn.Module]:
        """Run one step: rates, the cut, retraining, and the decision whether it is kept."""
        config, cut = self.config, np.array(state.cut)
        filters = Filters(self.maps, cut, module)
        values, weights = self._split(filters.compute_l1_norms(module), cut), filters.count_weights(module)
        counts = self.maps.count_kept(cut)
        if self._is_within_budget(counts):  # a budget that the dense network meets
            return replace(state, over=True, said=self._summarize_step(counts, state.error, True)), module
        forced = state.step + 1 >= config.steps
        if forced:
            wanted, length = self._narrow_to_budget(state, counts), state.bound
        else:
            state, wanted, length = self._derive_counts(
                state, self._measure_gradients(module, filters, state.step), values, weights
            )
        met = self._is_within_budget(wanted)
        if met and not forced:
            path = [counts, wanted]
            wanted = self._allocate_along(lambda level: interpolate_widths(path, level), (-1.0, 0.0), counts)
        smaller = self._select_channels(cut, values, wanted)
        candidate = convert_to_channels_last(narrow(module, self.maps, smaller, previous_cut=cut))
        self._retrain(candidate, config.tuning, state.step)
        _, error = self.problem.evaluator.measure(candidate, "val")
        stands = forced or error <= state.error + state.tolerance
        state = replace(state, step=state.step + 1, said=self._summarize_step(wanted, error, stands))
        if not stands:
            return replace(state, bound=config.shrink * min(state.bound, length)), module
        state = replace(
            state,
            counts=[*state.counts, wanted.tolist()],
            cut=smaller.tolist(),
            bound=state.bound * config.grow,
            over=met or forced,
        )
        if state.over and config.final is not None:
            self._retrain(candidate, config.final, state.step)
        return state, candidate

    def _derive_counts(
        self,
        state: DerivationState,
        gradients: GradientStats,
        values: list[NDArray[np.float64]],
        weights: NDArray[np.float64],
    ) -> tuple[DerivationState, Counts, float]:
        """Derive the channels that each group keeps, and the norm of the thresholds before they are scaled.

        Where all rates would be 0, the returned state has a larger margin, tolerance or bound.
        """
        allowed, ladder = self.problem.decoder.allowed, self.config.ladder
        before = np.array([len(item) for item in values])
        for _ in range(200):
            free = compute_thresholds(gradients.losses, gradients.inverses, state.loss, state.margin)
            if (select_widths(values, weights, allowed, free, ladder) == before).all():
                state = replace(state, margin=2 * state.margin)
                continue
            wanted = select_widths(values, weights, allowed, clip_to_trust_region(free, state.bound), ladder)
            if (wanted < before).any():
                return state, wanted, float(np.linalg.norm(free[np.isfinite(free)]))
            tolerance = min(1.0, 2 * state.tolerance)
            state = replace(state, tolerance=tolerance, bound=self.config.grow * state.bound)
        # the ladder's least rate is less than one channel of any group
        return state, self._narrow_to_budget(state, before), state.bound

    def _narrow_to_budget(self, state: DerivationState, counts: Counts) -> Counts:
        """Narrow `counts` to the budget, all groups by one ratio."""
        steps = [np.array(item) for item in state.counts]
        last = len(steps) - 1
        return self._allocate_along(
            lambda level: interpolate_widths(steps, level), (-(last + PATH_EXTENSION), -float(last)), counts
        )

    def _allocate_along(self, path: Any, levels: tuple[float, float], counts: Counts) -> Counts:
        """Allocate along `path` within the channels that `counts` still have."""
        decoder = self.problem.decoder
        left = replace(decoder.allowed, sizes=counts)
        return allocate_along(decoder.oracle, left, self.budget, path, levels)

    def _is_within_budget(self, counts: Counts) -> bool:
        oracle = self.problem.structure.oracle
        return all(float(oracle.compute_ratio(name, counts)) <= ratio for name, ratio in self.budget.items())

    def _select_channels(self, cut: Cut, values: list[NDArray[np.float64]], counts: Counts) -> Cut:
        """Select the channels of `cut` that remain when each group keeps its `counts` largest."""
        kept = np.zeros(len(cut), dtype=np.bool_)
        kept[np.flatnonzero(cut)] = keep_best(values, counts)
        return kept

    def _split(self, values: NDArray[np.float64], cut: Cut) -> list[NDArray[np.float64]]:
        """Split `values` of all channels by group, without those that `cut` removes."""
        starts = self.maps.offsets
        return [values[a:b][cut[a:b]] for a, b in pairwise(starts)]

    def _measure_gradients(self, module: nn.Module, filters: Filters, step: int) -> GradientStats:
        splits, config = self.problem.splits, self.config
        return measure_gradients(
            module,
            filters,
            self.problem.evaluator.recipe.task,
            splits.iter_batches(
                splits.train,
                batch_size=min(config.batch_size, len(splits.train)),
                device=self.problem.evaluator.device,
                rng=np.random.default_rng([self.problem.config.seed, 11, step]),
                augment=splits.augment,
                limit=config.batches * config.batch_size,
            ),
        )

    def _retrain(self, module: nn.Module, tuning: ScheduleConfig, step: int) -> None:
        """Retrain `module` in place, from recalibrated batch-norms."""
        held = self.problem.evaluator
        rng = np.random.default_rng([self.problem.config.seed, 12, step])
        recipe, key = held.recipe, f"derived-{step}"
        recalibrate(module, held.splits, recipe.recalibration_images, recipe.batch_size, held.device, recipe.precision)
        checkpoints = CheckpointOptions(held.store, key, recipe.checkpoint_seconds)
        options = TrainingOptions(recipe.precision, recipe.task, checkpoints=checkpoints, graphs=recipe.graphs)
        train(module, held.splits, make_schedule(tuning), held.device, rng, options)
        held.store.delete(key)

    def _summarize_step(self, counts: Counts, error: float, stands: bool) -> StepSummary:
        oracle = self.problem.structure.oracle
        return {
            "macs_ratio": float(oracle.compute_ratio("macs", counts)),
            "params_ratio": float(oracle.compute_ratio("params", counts)),
            "val_accuracy": 1 - error,
            "stands": stands,
        }


class Derived(OneNetworkMethod):
    """One network, with derived rates, its own channels and its own weights."""

    def prepare_allocation(self, session: SearchSession) -> PreparedAllocation:
        """Find the widths; a stored state is continued."""
        return derive_widths(session)
