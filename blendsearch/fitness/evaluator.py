"""An evaluation: cut + fidelity + seed -> objectives. Pure: the same three give the same numbers."""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from blendsearch.data.splits import Split, Splits, iter_batches
from blendsearch.fitness.bn_folding import ConvNormPair, find_foldable_pairs, fold_batch_norms
from blendsearch.fitness.device import autocast, convert_to_channels_last
from blendsearch.fitness.recovery import FIDELITIES, Recipe
from blendsearch.fitness.refit import Refitter
from blendsearch.structure.groups import Cut, IndexMaps, compute_cut_digest, pack_cut, unpack_cut
from blendsearch.structure.surgery import narrow
from blendsearch.task import EvaluationResult, compute_proxy_error, run_user_evaluation

SplitName = Literal["train", "val", "test", "unused"]
EvaluationSplit = Literal["val", "test", "both", "unused"]


class Request(NamedTuple):
    """What an evaluator is asked: a few hundred bytes, safe to send anywhere.

    cut: the kept channels packed to bits; channels: how many bits count.
    split: the images to judge on; ``both`` are validation and test images, ``unused`` those of validation that the
        search leaves out.
    weights: whether the outcome is to bring the recovered network's state.
    """

    digest: str
    cut: bytes
    channels: int
    fidelity: str
    seed: int
    split: EvaluationSplit = "val"
    return_weights: bool = False

    def unpack_cut(self) -> Cut:
        return unpack_cut(self.cut, self.channels)


class Outcome(NamedTuple):
    """What it answers. `loss` is the mean cross-entropy and `error` the share of wrong answers, on the split asked for.

    `failure` says in one line why there are no numbers; it is empty where there are. `seed` is the request's. `test` is
    loss and error on the test images where ``both`` were asked for, and `weights` the network's parameters and buffers
    where asked for. `further` is what else a person's own judgement said.
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
    """The request to judge `cut`; its seed comes from the run's and the cut, not from who asks when.

    Another `repeat` gives the same cut another seed.
    """
    digest = compute_cut_digest(cut)
    material = (f"{run_seed}:{digest}:{fidelity}" + (f":{repeat}" if repeat else "")).encode()
    seed = int.from_bytes(hashlib.sha256(material).digest()[:7], "little")
    return Request(digest, pack_cut(cut), len(cut), fidelity, seed, split)


LossTarget = Literal["labels", "dense"]
"""What the loss asks for: the right classes, or the dense network's outputs."""

TEMPERATURE = 2.0
"""Both networks' outputs are softened so much before they are compared (experiments/fitness_noise.py)."""


@dataclass(frozen=True, eq=False)
class Evaluator:
    """Cuts, repairs where asked, recovers and judges. Holds the dense network and the data on one device; changes
    neither.

    Attributes
    ----------
    against: what the loss is. ``labels``: the cross-entropy with them. ``dense``: the divergence (Kullback and
        Leibler's) of the outputs from the dense network's, both softened by `TEMPERATURE`: how much of the dense
        network is left, which fewer images tell, since an image that both find hard does not count.
    """

    model: nn.Module
    maps: IndexMaps
    splits: Splits
    recipe: Recipe
    device: torch.device
    refitter: Refitter | None = None
    loss_target: LossTarget = "labels"
    _dense_outputs: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def evaluate(self, request: Request) -> Outcome:
        """Judge one cut. Numbers that are not finite are a failure, not an outcome."""
        start = time.perf_counter()
        network = self.build_network(request)
        found = self.evaluate_network(network, "val" if request.split == "both" else request.split, request.seed)
        test = self.measure(network, "test") if request.split == "both" else None
        seconds = time.perf_counter() - start
        if not np.isfinite([found.loss, found.error]).all():
            return Outcome(request.digest, np.nan, np.nan, seconds, f"the loss is {found.loss}", request.seed)
        weights = None
        if request.return_weights:
            named = [*network.named_parameters(), *network.named_buffers()]
            weights = {name: tensor.detach().cpu().numpy() for name, tensor in named}
        return Outcome(
            request.digest,
            found.loss,
            found.error,
            seconds,
            "",
            request.seed,
            test,
            weights,
            found.extra_metrics or None,
        )

    def warm_up(self) -> None:
        """One image through the dense network, so that what a device takes to begin is no evaluation's time."""
        images = self.splits
        (x, _) = next(iter_batches(images.train, batch_size=1, mean=images.mean, std=images.std, device=self.device))
        with torch.inference_mode(), autocast(self.device, self.recipe.precision):
            self.model.eval()(x)

    def build_network(self, request: Request) -> nn.Module:
        """The cut, repaired and recovered network itself, in evaluation mode."""
        cut = request.unpack_cut()
        module = convert_to_channels_last(narrow(self.model, self.maps, cut).eval())
        if self.refitter is not None:
            self.refitter(self.maps, cut, module)
        rng = np.random.default_rng(request.seed)
        FIDELITIES[request.fidelity](module, self.model, self.splits, self.recipe, self.device, rng)
        return module

    def measure(self, module: nn.Module, split: SplitName) -> tuple[float, float]:
        """Mean loss (what it is, `against` says) and error, in [0, 1], of `module` on one split."""
        found = self.evaluate_network(module, split)
        return found.loss, found.error

    def evaluate_network(self, module: nn.Module, split: SplitName, seed: int = 0) -> EvaluationResult:
        """`module` in numbers, on one split or by a person's own judgement, which stands for validation and test."""
        task = self.recipe.task
        own = {"val": task.evaluate, "test": task.evaluate_test}.get(split)
        if own is not None:
            return run_user_evaluation(own, module, seed)
        wanted = self._compute_dense_outputs(split) if self.loss_target == "dense" else None
        total, wrong, seen = 0.0, 0, 0
        for output, y in self._iter_outputs(module, split):
            if wanted is None:
                losses = task.compute_summed_loss(output, y)
            else:
                losses = F.kl_div(_soften(output), wanted[seen : seen + len(y)], reduction="sum", log_target=True)
            total += float(losses.double())
            wrong += 0 if task.loss is not None else int((output.argmax(dim=1) != y).sum())
            seen += len(y)
        if task.loss is not None:
            return EvaluationResult(total / seen, compute_proxy_error(total / seen), has_error=False)
        return EvaluationResult(total / seen, wrong / seen)

    @cached_property
    def _pairs(self) -> tuple[ConvNormPair, ...]:
        """The batch-norms that need no pass of their own."""
        splits = self.splits
        (first, _) = next(iter_batches(splits.val, batch_size=1, mean=splits.mean, std=splits.std, device=self.device))
        return find_foldable_pairs(self.model, first)

    def _compute_dense_outputs(self, split: SplitName) -> Tensor:
        """The dense network's softened outputs on a split, worked out once: logarithms, (n, classes)."""
        if split not in self._dense_outputs:
            self._dense_outputs[split] = torch.cat(
                [_soften(logits) for logits, _ in self._iter_outputs(self.model, split)]
            )
        return self._dense_outputs[split]

    def _iter_outputs(self, module: nn.Module, split: SplitName) -> Iterator[tuple[Any, Tensor]]:
        """Outputs, logits in float32, and targets of one split, batch by batch and in order."""
        images: Split | None = getattr(self.splits, split)
        assert images is not None, "no validation images were left out: refused where the config is read"
        module.eval()
        with (
            fold_batch_norms(module, self._pairs),
            torch.inference_mode(),
            autocast(self.device, self.recipe.precision),
        ):
            for x, y in iter_batches(
                images,
                batch_size=self.recipe.batch_size,
                mean=self.splits.mean,
                std=self.splits.std,
                device=self.device,
            ):
                output = module(x)
                yield output.float() if isinstance(output, Tensor) else output, y


def _soften(logits: Tensor) -> Tensor:
    return F.log_softmax(logits / TEMPERATURE, dim=1)


def make_failed_outcome(request: Request, error: BaseException) -> Outcome:
    """The outcome of a request that raised."""
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return Outcome(request.digest, np.nan, np.nan, 0.0, reason[:500], request.seed)
