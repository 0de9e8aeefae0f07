"""An evaluation: cut + fidelity + seed -> objectives. Pure: the same three give the same numbers."""

import hashlib
import time
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from blendsearch.fitness.data import Split, Splits, batches
from blendsearch.fitness.device import autocast
from blendsearch.fitness.recovery import FIDELITIES, Recipe
from blendsearch.fitness.repair import Repair
from blendsearch.fitness.task import Judgement, judged_by, stand_in
from blendsearch.structure.groups import Cut, IndexMaps, cut_digest, packed, unpacked
from blendsearch.structure.surgery import narrow


class Request(NamedTuple):
    """What an evaluator is asked: a few hundred bytes, safe to send anywhere.

    cut: the kept channels packed to bits; channels: how many bits count.
    split: the images to judge on; ``both`` are validation and test images.
    weights: whether the outcome is to bring the recovered network's state.
    """

    digest: str
    cut: bytes
    channels: int
    fidelity: str
    seed: int
    split: Literal["val", "test", "both"] = "val"
    weights: bool = False

    def kept(self) -> Cut:
        return unpacked(self.cut, self.channels)


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
    further: dict[str, float] | None = None


def request(
    cut: Cut, fidelity: str, run_seed: int, split: Literal["val", "test", "both"] = "val", repeat: int = 0
) -> Request:
    """The request to judge `cut`; its seed comes from the run's and the cut, not from who asks when.

    Another `repeat` gives the same cut another seed.
    """
    digest = cut_digest(cut)
    material = (f"{run_seed}:{digest}:{fidelity}" + (f":{repeat}" if repeat else "")).encode()
    seed = int.from_bytes(hashlib.sha256(material).digest()[:7], "little")
    return Request(digest, packed(cut), len(cut), fidelity, seed, split)


@dataclass(frozen=True, eq=False)
class Evaluator:
    """Cuts, repairs where asked, recovers and judges. Holds the dense network and the data on one device; changes
    neither."""

    model: nn.Module
    maps: IndexMaps
    splits: Splits
    recipe: Recipe
    device: torch.device
    repair: Repair | None = None

    def evaluate(self, asked: Request) -> Outcome:
        """Judge one cut. Numbers that are not finite are a failure, not an outcome."""
        start = time.perf_counter()
        network = self.network(asked)
        found = self.judge(network, "test" if asked.split == "test" else "val", asked.seed)
        test = self.measure(network, "test") if asked.split == "both" else None
        seconds = time.perf_counter() - start
        if not np.isfinite([found.loss, found.error]).all():
            return Outcome(asked.digest, np.nan, np.nan, seconds, f"the loss is {found.loss}", asked.seed)
        weights = None
        if asked.weights:
            named = [*network.named_parameters(), *network.named_buffers()]
            weights = {name: tensor.detach().cpu().numpy() for name, tensor in named}
        return Outcome(
            asked.digest, found.loss, found.error, seconds, "", asked.seed, test, weights, found.further or None
        )

    def network(self, asked: Request) -> nn.Module:
        """The cut, repaired and recovered network itself, in evaluation mode."""
        cut = asked.kept()
        module = narrow(self.model, self.maps, cut).eval()
        if self.repair is not None:
            self.repair(self.maps, cut, module)
        rng = np.random.default_rng(asked.seed)
        FIDELITIES[asked.fidelity](module, self.model, self.splits, self.recipe, self.device, rng)
        return module

    def measure(self, module: nn.Module, split: Literal["train", "val", "test"]) -> tuple[float, float]:
        """Mean loss and error, in [0, 1], of `module` on one split."""
        found = self.judge(module, split)
        return found.loss, found.error

    def judge(self, module: nn.Module, split: Literal["train", "val", "test"], seed: int = 0) -> Judgement:
        """`module` in numbers, on one split or by a person's own judgement, which stands for validation and test."""
        task = self.recipe.task
        own = {"val": task.evaluate, "test": task.evaluate_test}.get(split)
        if own is not None:
            return judged_by(own, module, seed)
        images: Split = getattr(self.splits, split)
        total, wrong = 0.0, 0
        module.eval()
        with torch.inference_mode(), autocast(self.device, self.recipe.precision):
            for x, y in batches(
                images,
                batch_size=self.recipe.batch_size,
                mean=self.splits.mean,
                std=self.splits.std,
                device=self.device,
            ):
                output = module(x)
                if task.loss is None:
                    output = output.float()
                    wrong += int((output.argmax(dim=1) != y).sum())
                total += float(task.summed_loss(output, y).double())
        loss = total / len(images)
        if task.loss is not None:
            return Judgement(loss, stand_in(loss), told=False)
        return Judgement(loss, wrong / len(images))
