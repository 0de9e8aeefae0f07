"""Evaluation of a cut: cut, fidelity and seed determine the outcome."""

import copy
import hashlib
import time
from collections.abc import Generator
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from blendsearch.data.splits import Split, Splits
from blendsearch.errors import format_error
from blendsearch.fitness.bn_folding import ConvNormPair, find_foldable_pairs, fold_batch_norms
from blendsearch.fitness.temperature import compute_fitted_loss
from blendsearch.scoring import start_scorer
from blendsearch.structure.cost import count_parameters
from blendsearch.structure.groups import Cut, IndexMaps, compute_cut_digest, pack_cut, unpack_cut
from blendsearch.structure.surgery import narrow
from blendsearch.task import EvaluationResult, compute_proxy_error, run_user_evaluation, seed_rngs
from blendsearch.training.device import autocast, convert_to_channels_last
from blendsearch.training.recovery import FIDELITIES, UNTRAINED_FIDELITIES, Recipe, RecoveryContext
from blendsearch.training.refit import Refitter
from blendsearch.training.training_store import NO_STORE, TrainingStore

SplitName = Literal["train", "val", "test", "unused"]
EvaluationSplit = Literal["val", "test", "both", "unused"]


class Request(NamedTuple):
    """An evaluation to run: a few hundred bytes, picklable by value.

    Attributes
    ----------
    digest: identity of the cut.
    cut: the kept channels packed to bits.
    channels: number of valid bits in `cut`.
    fidelity: a key of `FIDELITIES`.
    split: images to evaluate on. ``both`` means validation and test; ``unused`` the validation images that the search
        leaves out.
    return_weights: True if the outcome should contain the recovered network's weights.
    rate: learning rate of the fine-tune; None for that of its schedule.
    stop: part of the long schedule, in (0, 1], at which its fine-tune stops. A later request with the same key
        continues from there.
    """

    digest: str
    cut: bytes
    channels: int
    fidelity: str
    seed: int
    split: EvaluationSplit = "val"
    return_weights: bool = False
    rate: float | None = None
    stop: float = 1.0

    @property
    def key(self) -> str:
        """Return the name of the request's training in the training store."""
        return f"{self.digest[:16]}-{self.fidelity}-{self.seed}"

    def unpack_cut(self) -> Cut:
        return unpack_cut(self.cut, self.channels)


class Outcome(NamedTuple):
    """The result of a request.

    Attributes
    ----------
    loss: mean loss on the requested split; the cross-entropy by default.
    error: share of misclassified images, in [0, 1].
    failure: one line on why there are no numbers; empty on success.
    seed: the request's seed.
    test: loss and error on test images, if the request's split was ``both``.
    weights: parameters and buffers of the network, if requested.
    extra_metrics: further numbers of a user-defined evaluation.
    """

    digest: str
    loss: float
    error: float
    seconds: float
    failure: str = ""
    seed: int = 0
    test: tuple[float, float] | None = None
    weights: dict[str, NDArray[Any]] | None = None
    extra_metrics: dict[str, float] | None = None


def make_request(cut: Cut, fidelity: str, run_seed: int, split: EvaluationSplit = "val", repeat: int = 0) -> Request:
    """Make the request that evaluates `cut`; its seed depends only on the run's seed, the cut, the fidelity and
    `repeat`.

    Each `repeat` gives the same cut another seed.
    """
    digest = compute_cut_digest(cut)
    material = (f"{run_seed}:{digest}:{fidelity}" + (f":{repeat}" if repeat else "")).encode()
    seed = int.from_bytes(hashlib.sha256(material).digest()[:7], "little")
    return Request(digest, pack_cut(cut), len(cut), fidelity, seed, split)


LossTarget = Literal["labels", "dense", "auto"]
"""Target of the loss: class labels, the outputs of the dense network, or those until a network is trained."""

TEMPERATURE = 2.0
"""Divides both networks' logits before they are compared (experiments/fitness_noise.py)."""


@dataclass(frozen=True, eq=False)
class Evaluator:
    """Cuts, refits, recovers and evaluates networks. Holds the dense network and the data on one device and changes
    neither.

    Attributes
    ----------
    refitter: refits layers between cut and recovery; None for no refit.
    loss_target: target of the loss. ``labels``: cross-entropy with the labels. ``dense``: Kullback-Leibler divergence
        from the dense network's outputs, both softened by `TEMPERATURE`. It needs fewer images, since an image that is
        hard for both networks adds no noise. ``auto``: ``dense`` on validation images for networks that were not
        trained, ``labels`` for all others, since a network may become better than the dense one.
    fits_temperature: True if the loss of a classifier is taken at the temperature that suits each network best
        (fitness/temperature.py). The loss on test images is always the plain one.
    capacity: exponent of the parameters in the loss of a network that was not trained, on validation images: the loss
        is divided by `(share of parameters kept) ** capacity`. Of two networks with the same loss and cost, the one
        with more parameters ends higher after a training.
    store: checkpoints of fine-tunes and the dense network's outputs.
    tuned: the dense network after an elastic tune, which candidates are sliced out of; None for the dense one. It
        changes neither the unpruned cut, nor the targets of refit and distillation.
    """

    model: nn.Module
    maps: IndexMaps
    splits: Splits
    recipe: Recipe
    device: torch.device
    refitter: Refitter | None = None
    loss_target: LossTarget = "labels"
    fits_temperature: bool = False
    capacity: float = 0.0
    store: TrainingStore = NO_STORE
    tuned: nn.Module | None = None
    _dense_outputs: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def evaluate(self, request: Request) -> Outcome:
        """Evaluate one cut. Numbers that are not finite make a failed outcome."""
        start = time.perf_counter()
        network = self.build_network(request)
        split: SplitName = "val" if request.split == "both" else request.split
        result = self.evaluate_network(network, split, request.seed, request.fidelity)
        test = self.measure(network, "test") if request.split == "both" else None
        seconds = time.perf_counter() - start
        if not np.isfinite([result.loss, result.error]).all():
            return Outcome(request.digest, np.nan, np.nan, seconds, f"the loss is {result.loss}", request.seed)
        weights = None
        if request.return_weights:
            named = [*network.named_parameters(), *network.named_buffers()]
            weights = {name: tensor.detach().cpu().numpy() for name, tensor in named}
        return Outcome(
            request.digest,
            result.loss,
            result.error,
            seconds,
            "",
            request.seed,
            test,
            weights,
            result.extra_metrics or None,
        )

    def warm_up(self) -> None:
        """Pass one image through the dense network, so that the device's start-up time is in no evaluation."""
        x, _ = next(self.splits.iter_batches(self.splits.train, batch_size=1, device=self.device))
        with torch.inference_mode(), autocast(self.device, self.recipe.precision):
            self.model.eval()(x)

    def warm_up_evaluation(self) -> None:
        """Evaluate the dense network, so that first uses of kernels, of data and of user code are in no evaluation.

        A user-defined evaluation runs once, and its errors are ignored here. Otherwise one batch is evaluated.
        """
        self.warm_up()
        if self.recipe.task.evaluate is not None:
            with suppress(Exception):
                self.evaluate_network(copy.deepcopy(self.model), "val")
            return
        if self.loss_target != "labels":
            self._compute_dense_outputs("val")
        with closing(self._iter_outputs(self.model, "val")) as outputs:
            next(outputs)

    def build_network(self, request: Request) -> nn.Module:
        """Return the pruned, refitted and recovered network of a request, in evaluation mode."""
        with seed_rngs(request.seed):  # of networks that draw random numbers in evaluation mode too
            return self._build_network(request)

    def _build_network(self, request: Request) -> nn.Module:
        cut = request.unpack_cut()
        self.maps.check_channels(cut)
        source = self.model if self.tuned is None or cut.all() else self.tuned
        module = convert_to_channels_last(narrow(source, self.maps, cut).eval())
        if self.refitter is not None:
            self.refitter(self.maps, cut, module)
        context = RecoveryContext(
            self.model,
            self.splits,
            self.recipe,
            self.device,
            request.seed,
            self.store,
            request.key,
            request.rate,
            self.maps,
            cut,
            source,
            request.stop,
        )
        FIDELITIES[request.fidelity](module, context)
        return module

    def measure(self, module: nn.Module, split: SplitName) -> tuple[float, float]:
        """Return mean loss (see `loss_target`) and error, in [0, 1], of `module` on one split."""
        result = self.evaluate_network(module, split)
        return result.loss, result.error

    def evaluate_network(
        self, module: nn.Module, split: SplitName, seed: int = 0, fidelity: str = "final"
    ) -> EvaluationResult:
        """Evaluate `module` on one split, or by a user-defined function in place of the validation or test split.

        `fidelity` is that of its recovery: it decides about the target of the loss.
        """
        task = self.recipe.task
        user_function = {"val": task.evaluate, "test": task.evaluate_test}.get(split)
        if user_function is not None:
            return run_user_evaluation(user_function, module, seed)
        with seed_rngs(seed):  # of networks that draw random numbers in evaluation mode too
            result = self._evaluate_on_split(module, split, self._is_compared_with_dense(split, fidelity))
        if not self.capacity or split == "test" or fidelity not in UNTRAINED_FIDELITIES:
            return result
        share = count_parameters(module) / count_parameters(self.model)
        return replace(result, loss=result.loss / share**self.capacity)

    def _is_compared_with_dense(self, split: SplitName, fidelity: str) -> bool:
        """Return whether the loss is the divergence from the dense network's outputs."""
        if self.loss_target == "auto":
            return fidelity in UNTRAINED_FIDELITIES and split != "test"
        return self.loss_target == "dense"

    def _evaluate_on_split(self, module: nn.Module, split: SplitName, against_dense: bool) -> EvaluationResult:
        task = self.recipe.task
        targets = self._compute_dense_outputs(split) if against_dense else None
        scorer = start_scorer(task.scorer)
        counts_errors = task.has_error and scorer is None
        # sums stay on the device and are read at the end: the CPU runs ahead of a GPU
        total: Tensor | float = 0.0
        wrong: Tensor | int = 0
        seen = 0
        fits = self.fits_temperature and task.loss is None and split != "test"
        kept: list[tuple[Tensor, Tensor]] = []
        for output, y in self._iter_outputs(module, split):
            target = y if targets is None else targets[seen : seen + len(y)]
            if fits and output.ndim == 2 and y.ndim == 1:
                kept.append((output, target))
            elif targets is None:
                total = total + task.compute_summed_loss(output, y).double()
            else:
                total = total + F.kl_div(_soften(output), target, reduction="sum", log_target=True).double()
            wrong = wrong + (output.argmax(dim=1) != y).sum() if counts_errors else wrong
            if scorer is not None:
                scorer.update(output, y)
            seen += len(y)
        loss = compute_fitted_loss(*map(torch.cat, zip(*kept, strict=True))) if kept else float(total) / seen
        if scorer is not None:
            value = scorer.compute()
            error = min(1.0, max(0.0, 1 - value)) if scorer.is_share else compute_proxy_error(loss)
            return EvaluationResult(loss, error, {scorer.name: value}, has_error=scorer.is_share)
        if not task.has_error:
            return EvaluationResult(loss, compute_proxy_error(loss), has_error=False)
        return EvaluationResult(loss, int(wrong) / seen)

    @cached_property
    def _pairs(self) -> tuple[ConvNormPair, ...]:
        """Convolutions and batch-norms that can be folded during evaluation."""
        x, _ = next(self.splits.iter_batches(self.splits.val, batch_size=1, device=self.device))
        return find_foldable_pairs(self.model, x)

    def _compute_dense_outputs(self, split: SplitName) -> Tensor:
        """Return the dense network's softened outputs on a split as logarithms, (n, classes); computed once per
        split.
        """
        if split not in self._dense_outputs:
            self._dense_outputs[split] = torch.cat(
                [_soften(logits) for logits, _ in self._iter_outputs(self.model, split)]
            )
        return self._dense_outputs[split]

    def _iter_outputs(self, module: nn.Module, split: SplitName) -> Generator[tuple[Any, Tensor], None, None]:
        """Iterate over outputs (logits in float32) and targets of one split, batch by batch and in order."""
        images: Split | None = getattr(self.splits, split)
        assert images is not None, "no unused validation images: the config check refuses such a request"
        module.eval()
        with (
            fold_batch_norms(module, self._pairs),
            torch.inference_mode(),
            autocast(self.device, self.recipe.precision),
        ):
            for x, y in self.splits.iter_batches(images, batch_size=self.recipe.batch_size, device=self.device):
                output = module(x)
                yield output.float() if isinstance(output, Tensor) else output, y


def _soften(logits: Tensor) -> Tensor:
    return F.log_softmax(logits / TEMPERATURE, dim=1)


def make_failed_outcome(request: Request, error: BaseException) -> Outcome:
    """Make the outcome of a request that raised `error`."""
    return Outcome(request.digest, np.nan, np.nan, 0.0, format_error(error), request.seed)
