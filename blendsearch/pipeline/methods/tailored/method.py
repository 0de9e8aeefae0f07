"""Method ``tailored``: one training run in which a network loses channels until it meets its budget.

Lee et al. 2025, "Tailored channel pruning" (doi 10.1109/ACCESS.2025.3529465): training and pruning are one process. The
distance between the expected cost and the target controls the strength of a sparsity regularization on channels
throughout, so that the network ends exactly at its budget without a final truncation.

Only the abstract is public. Choices beyond it:

- The scales and shifts of the batch-norms that a group's coupled channels pass are regularized together, by a group
  lasso with an exact step: after every step of SGD each channel's vector is shortened by the same length, down to zero.
  A channel at zero has no output, so cutting it changes nothing. Where batch-norms do not silence a channel, the
  weights that read it replace them. A group that neither silences stays unpruned: the middle stage's stream of a CIFAR
  ResNet, with parameter-free shortcuts at both ends (training/channel_norms.py).
- Norms are relative to their group's mean, since the next layer compensates what all channels of a group share: a
  pressure on plain norms would shrink the group of the most expensive channels to its least width.
- The pressure on a channel grows with its cost: the cost in MACs (or parameters, where only they are budgeted) over the
  mean of all, to the power `tailored.by_cost`.
- The pressure is concave, as in re-weighted norms: on a channel above the level that meets the budget it falls with the
  square of the distance, so that the remaining channels are free of it at arrival.
- Control. The strength is set before every step to the value at which the cost expected at arrival is the target, if
  only the pressure changed the norms until then. The pressure grows where the loss restores channels, and falls where
  it does not.
- Arrival is after the part `tailored.arrival` of the steps. In that step the strength is the least that meets the
  budget, and channels that still fit are not shortened. Channels at zero may recover until arrival and not after it.
  Training then continues without the pressure; from the next epoch on in the narrow network, with its momentum reset.
- It starts from the dense network's weights, in the searching process; a resumed run continues after its last epoch.
  Under pressure, batch-norm statistics lag behind the falling scales, and validation accuracy with them.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from blendsearch.blend.allocation import check_reachable
from blendsearch.blend.allocation_rules import AllocationRule, PreparedAllocation
from blendsearch.events import MethodProgress
from blendsearch.pipeline.methods.one_network import OneNetworkMethod
from blendsearch.pipeline.methods.tailored.shrinkage import Shrinkage
from blendsearch.pipeline.methods.tailored.spec import TailoredConfig
from blendsearch.pipeline.problem.from_config import make_schedule
from blendsearch.pipeline.problem.persistence import get_state_arrays
from blendsearch.pipeline.problem.problem import Problem
from blendsearch.pipeline.problem.session import SearchSession
from blendsearch.runs.array_checkpoint import load_array_checkpoint, save_array_checkpoint
from blendsearch.runs.checkpoint import refuse_unfit_state
from blendsearch.runs.decoding import decode_dataclass
from blendsearch.structure.surgery import narrow
from blendsearch.training.auxiliary import compute_training_loss
from blendsearch.training.channel_norms import ChannelScaler, make_example_images
from blendsearch.training.device import autocast, convert_to_channels_last
from blendsearch.training.optimizer_registry import make_optimizer

CONCAVITY = 2.0
"""The pressure on a channel above the level is multiplied by (level / norm) to this power."""

MOMENTUM_PREFIX = "momentum/"
"""The prefix of a parameter's name under which a checkpoint holds its momentum."""


class EpochSummary(TypedDict):
    """An epoch in numbers: costs as shares of the dense network's; `arrived` once the network is cut."""

    macs_ratio: float
    params_ratio: float
    loss: float
    val_accuracy: float
    arrived: bool


@dataclass(frozen=True)
class TrainingState:
    """The state of the training after an epoch, as JSON values.

    cut: the channels kept, from arrival on; narrowed: whether the network is cut already.
    last: the norm, over its group's mean, of the largest channel that the step of arrival silenced, and the median of
        those that remained.
    """

    epoch: int = 0
    cut: list[bool] | None = None
    narrowed: bool = False
    last: list[float] = field(default_factory=list)
    seconds: float = 0.0
    said: EpochSummary | None = None


def train_tailored(session: SearchSession) -> PreparedAllocation:
    """Train the network to its budget; return its widths, its channels, and its weights."""
    problem = session.problem
    tailoring = TailoredTraining(problem)
    folder = session.run.path / "tailored"
    found = load_array_checkpoint(folder, session.warn)
    with refuse_unfit_state(folder):
        state = TrainingState() if found is None else decode_dataclass(found[0], TrainingState)
        tailoring.begin(state, {} if found is None else found[1])
    while state.epoch < tailoring.epochs:
        start = time.perf_counter()
        state = tailoring.train(state)
        state = replace(state, seconds=state.seconds + time.perf_counter() - start)
        save_array_checkpoint(folder, state.epoch, state.__dict__, tailoring.get_arrays())
        session.report(_describe_epoch(state, tailoring.epochs))
    cut = np.array(state.cut)
    counts = problem.structure.maps.count_kept(cut)
    fixed = AllocationRule("tailored", lambda oracle, budget: counts)
    return PreparedAllocation(fixed, cut, get_state_arrays(tailoring.module), state.seconds)


def _describe_epoch(state: TrainingState, epochs: int) -> MethodProgress:
    said = state.said
    assert said is not None, "no epoch was trained"
    kept = f"{said['macs_ratio']:.1%} of macs  {said['params_ratio']:.1%} of params"
    end = f"loss {said['loss']:.4f}  validation accuracy {said['val_accuracy']:.2%}"
    return MethodProgress(
        name="tailored",
        activity="training to the budget",
        line=f"tailored epoch {state.epoch:>3} of {epochs}  {kept}  {end}",
        done=state.epoch,
        of=epochs,
        facts={"epoch": state.epoch, **said},
    )


class TailoredTraining:
    """The training of one problem. Each epoch follows from the state before it and the run's seed alone."""

    module: nn.Module
    optimizer: torch.optim.Optimizer

    def __init__(self, problem: Problem) -> None:
        self.problem, config = problem, problem.config.get_options(TailoredConfig)
        self.maps, decoder = problem.structure.maps, problem.decoder
        self.schedule = make_schedule(config.tuning)
        train = problem.splits.train
        self.images = min(len(train), self.schedule.images or len(train))
        self.steps = max(1, self.images // self.schedule.batch_size)
        self.epochs = max(1, round(self.schedule.epochs))
        total = self.epochs * self.steps
        self.arrival = min(total, max(1, round(config.arrival * total)))
        cosine = 0.5 * (1 + np.cos(np.pi * np.arange(total) / total))
        self.rates = self.schedule.rate * (cosine if self.schedule.decay == "cosine" else np.ones(total))
        images = make_example_images(problem.splits.train.shape, problem.evaluator.device)
        self.scales = ChannelScaler(problem.model, self.maps, images)
        budget, allowed = decoder.compute_budget(0.0), decoder.allowed
        allowed = replace(allowed, low=np.where(self.scales.unscalable_groups, allowed.sizes, allowed.low))
        check_reachable(problem.structure.oracle, allowed, budget)
        cost = "macs" if "macs" in budget else next(iter(budget))
        charged = np.maximum(problem.structure.oracle.compute_cost_per_channel(cost, self.maps.sizes), 1.0)
        weights = (charged / charged.mean()) ** config.by_cost
        owner = np.repeat(np.arange(len(self.maps.groups)), self.maps.sizes)
        self.shrinkage = Shrinkage(problem.structure.oracle, allowed, budget, weights[owner])

    def begin(self, state: TrainingState, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore the network and its optimizer as they were after `state`. Raises ValueError where it does not fit."""
        self._check(state)
        cut = np.array(state.cut) if state.narrowed else self.maps.make_unpruned_cut()
        self._set_module(narrow(self.problem.model, self.maps, cut))
        if not arrays:
            return
        stored = {name: torch.from_numpy(array) for name, array in arrays.items()}
        self.module.load_state_dict(
            {name: value for name, value in stored.items() if not name.startswith(MOMENTUM_PREFIX)}
        )
        for name, parameter in self.module.named_parameters():
            if MOMENTUM_PREFIX + name in stored:
                self.optimizer.state[parameter]["momentum_buffer"] = stored[MOMENTUM_PREFIX + name].to(parameter.device)

    def _check(self, state: TrainingState) -> None:
        """Raise ValueError where `state` is not one of this training."""
        if state.cut is not None:
            known = np.array(state.cut)
            if len(known) != self.maps.channels or not self.maps.count_kept(known).all():
                raise ValueError("its cut does not fit the network")
        if not 0 <= state.epoch <= self.epochs:
            raise ValueError("its epoch does not fit the training")
        if state.cut is None and (state.narrowed or state.epoch >= self.epochs):
            raise ValueError("its cut is missing")

    def get_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the network's state and its momentum."""
        found = get_state_arrays(self.module)
        for name, parameter in self.module.named_parameters():
            momentum = self.optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                found[MOMENTUM_PREFIX + name] = momentum.detach().cpu().numpy()
        return found

    def train(self, state: TrainingState) -> TrainingState:
        """Train one epoch in place; after arrival, continue with the narrow network."""
        held, splits, schedule = self.problem.evaluator, self.problem.splits, self.schedule
        device, cut, last = held.device, state.cut, state.last
        rng = np.random.default_rng([self.problem.config.seed, 13, state.epoch])
        forked = [device] if device.type == "cuda" else []
        total, step = 0.0, state.epoch * self.steps
        with torch.random.fork_rng(devices=forked), torch.enable_grad():
            torch.manual_seed(int(rng.integers(2**63)))
            self.module.train()
            for images, labels in splits.iter_batches(
                splits.train,
                batch_size=schedule.batch_size,
                device=device,
                rng=rng,
                augment=splits.augment,
                limit=self.images,
                drop_last=self.images >= schedule.batch_size,
            ):
                total += self._step_sgd(images, labels, step)
                if cut is None:
                    cut, last = self._shrink_channels(step)
                elif not state.narrowed:
                    self.scales.scale(self.module, np.array(cut, dtype=np.float64))
                step += 1
        self.module.eval()
        if cut is not None and not state.narrowed:
            self._set_module(narrow(self.module, self.maps, np.array(cut)))
        said = self._summarize_epoch(cut, total / self.steps)
        return replace(state, epoch=state.epoch + 1, cut=cut, narrowed=cut is not None, last=last, said=said)

    def _step_sgd(self, images: Tensor, labels: Tensor, step: int) -> float:
        """Run one step of SGD and return the loss before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = float(self.rates[step])
        self.optimizer.zero_grad(set_to_none=True)
        recipe = self.problem.evaluator.recipe
        with autocast(images.device, recipe.precision):
            logits = self.module(images)
        loss = compute_training_loss(recipe.task, logits, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return float(loss.detach())

    def _shrink_channels(self, step: int) -> tuple[list[bool] | None, list[float]]:
        """Shorten every channel; in the step of arrival, return the cut and the norms at its border."""
        norms = self.scales.compute_norms(self.module)
        level = self.shrinkage.compute_level(norms)
        ahead = float(self.rates[step : self.arrival].sum())
        arrives = step + 1 == self.arrival
        part = 1.0 if arrives or ahead <= 0 else float(self.rates[step]) / ahead
        lighter = np.divide(level, norms / self.shrinkage.weights, out=np.ones_like(norms), where=norms > 0)
        pressure = part * level * self.shrinkage.weights * np.minimum(1.0, lighter) ** CONCAVITY
        shortened = np.maximum(norms - pressure, 0.0)
        kept = self.shrinkage.make_cut(norms) if arrives else self.shrinkage.select_protected(norms)
        shortened = np.where(kept & (shortened == 0), norms, shortened)
        if arrives:
            shortened[~kept] = 0.0
        self.scales.scale(self.module, np.divide(shortened, norms, out=np.zeros_like(norms), where=norms > 0))
        if not arrives:
            return None, []
        return kept.tolist(), [float(norms[~kept].max(initial=0.0)), float(np.median(norms[kept]))]

    def _set_module(self, module: nn.Module) -> None:
        """Continue with `module` and a new optimizer."""
        self.module = convert_to_channels_last(module)
        self.optimizer = make_optimizer(self.module, self.schedule)

    def _summarize_epoch(self, cut: list[bool] | None, loss: float) -> EpochSummary:
        """Return the costs of the channels that are not at zero, the loss, and the validation accuracy."""
        _, error = self.problem.evaluator.measure(self.module, "val")
        oracle = self.problem.structure.oracle
        if cut is None:
            norms = self.scales.compute_norms(self.module)
            ratios = {name: self.shrinkage.compute_ratio(name, norms) for name in ("macs", "params")}
        else:
            counts = self.maps.count_kept(np.array(cut))
            ratios = {name: float(oracle.compute_ratio(name, counts)) for name in ("macs", "params")}
        return {
            "macs_ratio": ratios["macs"],
            "params_ratio": ratios["params"],
            "loss": loss,
            "val_accuracy": 1 - error,
            "arrived": cut is not None,
        }


class Tailored(OneNetworkMethod):
    """One network, with the channels and weights of the training run."""

    def prepare_allocation(self, session: SearchSession) -> PreparedAllocation:
        """Find the widths; a stored state is continued."""
        return train_tailored(session)
