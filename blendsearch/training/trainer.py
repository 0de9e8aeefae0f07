"""Training of a network: one loop for base networks, fine-tunes and distillation, which continues where it stopped."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from blendsearch.data.batches import BatchSize
from blendsearch.data.splits import Splits
from blendsearch.data.views import FRESH, ViewBatch, iter_view_batches
from blendsearch.errors import TrainingError
from blendsearch.events import FineTuned
from blendsearch.training.auxiliary import compute_training_loss, get_logits
from blendsearch.training.data_parallel import wrap_data_parallel
from blendsearch.training.device import autocast
from blendsearch.training.graphed_step import LEAST_STEPS, GradientFunction, GraphedFunction
from blendsearch.training.hooks import NO_HOOKS, StepInfo
from blendsearch.training.optimizer_registry import make_optimizer
from blendsearch.training.schedule import Schedule
from blendsearch.training.teacher import combine_losses, describe_teacher
from blendsearch.training.training_options import DEFAULT_OPTIONS, TrainingOptions
from blendsearch.training.training_state import (
    AVERAGE,
    collect_module,
    collect_optimizer,
    collect_random_state,
    get_generator_state,
    pack_state,
    restore_module,
    restore_optimizer,
    restore_random_state,
    set_generator_state,
    unpack_state,
)

REPORT_SECONDS = 1.0
"""Least time between two reports of progress to the store."""

GradientStep = Callable[[ViewBatch], Tensor]
"""Function that adds the gradients of a batch to those of the parameters and returns the loss."""

NO_POSITIONS = np.full(0, FRESH)
"""Positions and views of a batch that is augmented anew."""


def train(
    module: nn.Module,
    splits: Splits,
    schedule: Schedule,
    device: torch.device,
    rng: np.random.Generator,
    options: TrainingOptions = DEFAULT_OPTIONS,
    progress: Callable[[float, float], None] | None = None,
) -> None:
    """Train `module` in place on the training split, with the augmentations of `splits`.

    All randomness (order, augmentation, dropout) comes from `rng`; torch's global random state is restored afterwards.
    `progress` receives, after each epoch, the part done in (0, 1] and the mean training loss. With a share of several
    processes, all of them must make the same call: batch sizes are the schedule's, and each process reads its part.

    A state found under `options.checkpoints.key` is continued: on the same device, the network ends bit for bit as
    without the interruption. A state of another schedule, network or data size is ignored. Raises TrainingError where
    the loss is no longer finite.
    """
    TrainingRun(module, splits, schedule, device, rng, options).run(progress)


def has_stored_state(splits: Splits, schedule: Schedule, options: TrainingOptions) -> bool:
    """Return whether the store holds a state that `train` would continue under the same conditions."""
    checkpoints = options.checkpoints
    content = checkpoints.store.load(checkpoints.key) if checkpoints.key else None
    return content is not None and _read_identity(content) == _identify(splits, schedule, options)


class TrainingRun:
    """One training from its first or last stored step to the end."""

    def __init__(
        self,
        module: nn.Module,
        splits: Splits,
        schedule: Schedule,
        device: torch.device,
        rng: np.random.Generator,
        options: TrainingOptions,
    ) -> None:
        self.module, self.splits, self.schedule = module, splits, schedule
        self.device, self.rng, self.options = device, rng, options
        available = len(splits.train)
        self.steps_per_epoch = schedule.count_steps_per_epoch(available)
        self.steps = schedule.count_steps(available)
        first = round(options.start * self.steps)
        self.last_step = max(first + 1, round(options.stop * self.steps))
        hooks = options.hooks
        self.optimizer = (hooks.optimizer or make_optimizer)(module, schedule)
        self.scheduler = hooks.scheduler(self.optimizer, self.steps) if hooks.scheduler else None
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.scaler = torch.amp.GradScaler(device.type, enabled=options.precision == "float16")
        self.average = _make_average(module, schedule.ema)
        self.step, self.total, self.seen = first, torch.zeros((), device=device), 0
        self.epoch_rng: dict[str, Any] = {}
        self.saved_at = self.reported_at = self.began_at = time.monotonic()
        self.begin_step = self.first_step = first
        self.has_replaced = False

    def run(self, progress: Callable[[float, float], None] | None) -> None:
        """Run all steps that are left."""
        with self._enter_training() as trained:
            self._restore()
            add_gradients = self._make_gradient_step(trained)
            while self.step < self.last_step:
                self._train_epoch(add_gradients)
                if progress is not None:
                    progress(self.step / self.steps, self._get_mean_loss())
                if self.options.hooks.on_epoch is not None:
                    self.options.hooks.on_epoch(self._describe_step(self._get_mean_loss()))
            if self.options.checkpoints.keep:
                self._save()
        if self.average is not None and self.step == self.steps:
            self.module.load_state_dict(self.average.module.state_dict())
        self.module.eval()

    @contextmanager
    def _enter_training(self) -> Iterator[nn.Module]:
        forked = [self.device] if self.device.type == "cuda" else []
        share = self.options.share
        with (
            torch.random.fork_rng(devices=forked),
            torch.enable_grad(),
            wrap_data_parallel(self.module, share, self.device) as trained,
        ):
            torch.manual_seed(int(self.rng.integers(2**63)) + share.rank)  # dropout draws from torch's own stream
            self.module.train()
            yield trained

    def _train_epoch(self, add_gradients: GradientStep) -> None:
        skip = self.step % self.steps_per_epoch
        if not skip:
            self.total, self.seen = torch.zeros((), device=self.device), 0
        self.epoch_rng = get_generator_state(self.rng)
        for batch in self._iter_batches(skip):
            loss = self._run_step(add_gradients, batch)
            self.total, self.seen, self.step = self.total + loss.detach(), self.seen + 1, self.step + 1
            if self.options.after_step is not None:
                self.options.after_step(self.module, (self.step - self.begin_step) / (self.last_step - self.begin_step))
            if self.options.hooks.on_step is not None:
                self.options.hooks.on_step(self._describe_step(float(loss.detach())))
            self._report()
            if self.step == self.last_step:
                break
            if time.monotonic() - self.saved_at >= self.options.checkpoints.seconds:
                self._save()
        if not np.isfinite(self._get_mean_loss()):
            raise TrainingError(
                f"the training loss is {self._get_mean_loss()} after step {self.step}: lower the learning rate "
                f"({self.schedule.rate:g}), or set clip_norm"
            )

    def _iter_batches(self, skip: int) -> Iterator[ViewBatch]:
        split, batch_size = self.splits.train, self.schedule.batch_size
        limit = self.schedule.count_images_per_epoch(len(split))
        teacher = self.options.teacher
        if teacher is not None and teacher.views is not None:
            yield from iter_view_batches(
                self.splits,
                BatchSize(batch_size, limit, limit >= batch_size, self.options.share),
                views=teacher.views,
                seed=teacher.view_seed,
                device=self.device,
                rng=self.rng,
                skip=skip,
            )
            return
        for images, labels in self.splits.iter_batches(
            split,
            batch_size=batch_size,
            device=self.device,
            rng=self.rng,
            augment=self.splits.augment,
            limit=limit,
            drop_last=limit >= batch_size,
            share=self.options.share,
            skip=skip,
        ):
            yield ViewBatch(images, labels, NO_POSITIONS, NO_POSITIONS)

    def _run_step(self, add_gradients: GradientStep, batch: ViewBatch) -> Tensor:
        """Run one step; return the loss before it."""
        if self.scheduler is None:
            factor = self.schedule.compute_rate_factor(self.step, self.steps)
            for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
                group["lr"] = rate * factor
        self.optimizer.zero_grad(set_to_none=True)
        loss = add_gradients(batch)
        if self.schedule.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.schedule.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scheduler is not None:
            self.scheduler.step()
        if self.average is not None:
            self.average.update_parameters(self.module)
        return loss

    def _make_gradient_step(self, trained: nn.Module) -> GradientStep:
        """Make the function of every batch; as no state refers to it, a recorded step is freed with the training."""
        function = partial(self._compute_gradients, trained)
        recorded = GraphedFunction(function, self.module) if self._can_record() else function
        return partial(self._add_gradients, recorded)

    def _add_gradients(self, compute: GradientFunction, batch: ViewBatch) -> Tensor:
        teacher, inputs = self.options.teacher, [batch.images, batch.labels]
        if teacher is not None and teacher.views is not None:
            inputs.append(teacher.compute_logits(batch, self.options.precision))
        return compute(*inputs)

    def _can_record(self) -> bool:
        """Return whether all steps are alike, so that one can be recorded for the others."""
        options = self.options
        is_plain = options.hooks == NO_HOOKS and options.after_step is None and options.task.loss is None
        alone = options.graphs and options.share.world_size == 1 and not self.scaler.is_enabled()
        return is_plain and alone and self.device.type == "cuda" and self.last_step - self.step >= LEAST_STEPS

    def _compute_gradients(self, trained: nn.Module, images: Any, labels: Any, stored: Tensor | None = None) -> Tensor:
        """Run forward and backward pass; `stored` are the logits of a teacher with views."""
        options = self.options
        with autocast(self.device, options.precision):
            logits = trained(images)
        loss, teacher = self._compute_label_loss(logits, labels), options.teacher
        if teacher is not None:
            batch = ViewBatch(images, labels, NO_POSITIONS, NO_POSITIONS)
            targets = teacher.compute_logits(batch, options.precision) if stored is None else stored
            loss = combine_losses(loss, get_logits(logits).float(), targets, teacher.weight, teacher.temperature)
        self._backward(loss)
        return loss

    def _backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def _compute_label_loss(self, logits: Any, labels: Any) -> Tensor:
        return compute_training_loss(self.options.task, logits, labels, self.schedule.label_smoothing)

    def _get_mean_loss(self) -> float:
        return float(self.total) / max(1, self.seen)

    def _describe_step(self, loss: float) -> StepInfo:
        epoch, rate = self.step / self.steps_per_epoch, float(self.optimizer.param_groups[0]["lr"])
        return StepInfo(self.module, self.step, self.steps, epoch, loss, rate)

    def _report(self) -> None:
        """Report the progress to the store, at most once per `REPORT_SECONDS`."""
        now = time.monotonic()
        if now - self.reported_at < REPORT_SECONDS or self.options.share.rank:
            return
        self.reported_at = now
        pace = (now - self.began_at) / max(1, self.step - self.first_step)
        self.options.checkpoints.store.report(
            FineTuned(
                key=self.options.checkpoints.key,
                done=self.step / self.steps,
                epoch=self.step / self.steps_per_epoch,
                epochs=self.schedule.epochs,
                loss=self._get_mean_loss(),
                images_per_second=self.schedule.batch_size / pace,
                seconds_left=(self.last_step - self.step) * pace,
            )
        )

    def _save(self) -> None:
        """Store the state after the last step."""
        self.saved_at = time.monotonic()
        if not self.options.checkpoints.key or self.options.share.rank:
            return
        ended = self.step % self.steps_per_epoch == 0
        tensors, numbers = collect_optimizer(self.optimizer)
        tensors |= collect_module(self.module) | collect_random_state(self.device) | {"total": self.total}
        if self.average is not None:
            tensors |= collect_module(self.average, AVERAGE)
        state = {
            "identity": self._identify(),
            "step": self.step,
            "seen": self.seen,
            "rng": get_generator_state(self.rng) if ended else self.epoch_rng,
            "optimizer": numbers,
            "scaler": self.scaler.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
        }
        try:
            content = pack_state(tensors, state)
        except TypeError:  # a user-defined optimizer or scheduler with a state that JSON does not know
            return
        checkpoints = self.options.checkpoints
        checkpoints.store.save(checkpoints.key, content)
        if checkpoints.replaces and not self.has_replaced:
            checkpoints.store.delete(checkpoints.replaces)
            self.has_replaced = True

    def _identify(self) -> str:
        """Return what a stored state must agree with."""
        return _identify(self.splits, self.schedule, self.options)

    def _restore(self) -> None:
        """Continue the stored state, if there is one of this training."""
        key = self.options.checkpoints.key
        content = self.options.checkpoints.store.load(key) if key else None
        if content is None:
            return
        try:
            tensors, state = unpack_state(content)
            if state["identity"] != self._identify():
                return
            self._apply(tensors, state)
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise TrainingError(f"the checkpoint of this training cannot be used ({error}): delete it") from error

    def _apply(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        restore_module(self.module, tensors)
        restore_optimizer(self.optimizer, tensors, state["optimizer"])
        if self.average is not None:
            restore_module(self.average, tensors, AVERAGE)
        restore_random_state(tensors, self.device)
        self.epoch_rng = state["rng"]
        set_generator_state(self.rng, self.epoch_rng)
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.total, self.seen = tensors["total"].to(self.device), int(state["seen"])
        self.step = self.first_step = int(state["step"])


def _identify(splits: Splits, schedule: Schedule, options: TrainingOptions) -> str:
    """Return what a stored state must agree with."""
    span = f"start={options.start:g}" if options.start else ""
    conditions = options.checkpoints.conditions and f" {options.checkpoints.conditions}"
    teacher = describe_teacher(options.teacher)
    return f"{schedule} images={len(splits.train)} precision={options.precision} {span}{conditions}{teacher}"


def _read_identity(content: bytes) -> str:
    """Return the identity of a stored state; empty where it has none."""
    try:
        return str(unpack_state(content)[1].get("identity", ""))
    except ValueError:
        return ""


def _make_average(module: nn.Module, decay: float) -> AveragedModel | None:
    """Make the moving average of the weights and buffers of `module`; None for a decay of 0."""
    if not decay:
        return None
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(module, multi_avg_fn=average, use_buffers=True)
