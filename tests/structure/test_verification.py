"""Verification: all outputs, the given images, fixed random numbers, and layers that never ran."""

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from brute_force import check_cuts, get_reasons, get_widths, make_images, trace_randomized
from torch import Tensor, nn

from blendsearch.errors import TraceError
from blendsearch.structure.trace import trace_structure
from blendsearch.structure.unpruned import describe_unpruned

IMAGES = make_images(8, 3, 8, 8)


class Pair(NamedTuple):
    """Two outputs by name."""

    first: Tensor
    second: Tensor


@dataclass
class Fields:
    """Outputs in a dataclass that pytree does not know."""

    first: Tensor
    rest: dict[str, list[Tensor]]


class Values:
    """Outputs as attributes of an object."""

    def __init__(self, first: Tensor, second: Tensor) -> None:
        self.first, self.second = first, second


OUTPUTS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "a tuple": lambda one, two: (one, two),
    "a tuple in the other order": lambda one, two: (two, one),
    "a list in a dict": lambda one, two: {"out": one, "more": [None, {"aux": two}]},
    "a named tuple": Pair,
    "a dataclass": lambda one, two: Fields(one, {"rest": [two]}),
    "an object": Values,
}


class TwoHeads(nn.Module):
    """The second head depends on the number of channels that it reads."""

    def __init__(self, combine: Callable[[Tensor, Tensor], object]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.one = nn.Conv2d(3, 16, 3), nn.Linear(16, 3)
        self.second, self.two = nn.Conv2d(16, 24, 3), nn.Linear(24, 3)
        self.combine = combine

    def forward(self, x: Tensor) -> object:
        x = F.relu(self.first(x))
        z = F.relu(self.second(x))
        z = z * z.shape[1] ** -0.5  # as attention is scaled
        return self.combine(self.one(x.mean(dim=(2, 3))), self.two(z.mean(dim=(2, 3))))


@pytest.mark.parametrize("combine", OUTPUTS.values(), ids=OUTPUTS)
def test_all_outputs_are_compared(combine: Callable[[Tensor, Tensor], object]) -> None:
    model = TwoHeads(combine).eval()
    structure = trace_structure(model, (3, 8, 8), IMAGES)
    assert get_widths(structure) == {"first": 16}
    assert "differ by" in get_reasons(structure)["second"]
    check_cuts(model, structure, IMAGES)


class AuxiliaryHead(nn.Module):
    """Has a second head in training only, which depends on the number of channels if asked."""

    def __init__(self, counts: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.counts = nn.Conv2d(3, 16, 3), counts
        self.two, self.out, self.extra = nn.Conv2d(16, 8, 3), nn.Linear(8, 3), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = F.relu(self.body(x))
        out = self.out(F.relu(self.two(x)).mean(dim=(2, 3)))
        if not self.training:
            return out
        return out, self.extra((x / x.shape[1] if self.counts else x).mean(dim=(2, 3)))


@pytest.mark.parametrize(("counts", "free"), [(False, {"body": 16, "two": 8}), (True, {"two": 8})])
def test_outputs_in_training_are_compared(counts: bool, free: dict[str, int]) -> None:
    structure = trace_structure(AuxiliaryHead(counts).eval(), (3, 8, 8), IMAGES)
    assert get_widths(structure) == free


class Behind(nn.Module):
    """A function before, and one behind, two convolutions."""

    def __init__(self, before: Callable[[Tensor], Tensor], behind: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.out = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 12, 3), nn.Linear(12, 3)
        self.before, self.behind = before, behind

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.two(self.behind(F.relu(self.one(self.before(x))))))
        return self.out(self.behind(x).mean(dim=(2, 3)))


FRONT_ENDS = {
    "logarithm": lambda x: torch.log(x + 1e-6),
    "square root": lambda x: x.sqrt(),
    "asin of a share": lambda x: (x / x.amax(dim=(1, 2, 3), keepdim=True)).asin(),
    "checked range": lambda x: x if float(x.min()) >= 0 else 1 / 0,
}


@pytest.mark.parametrize("front_end", FRONT_ENDS.values(), ids=FRONT_ENDS)
def test_groups_are_verified_on_the_given_images(front_end: Callable[[Tensor], Tensor]) -> None:
    images = IMAGES.abs()
    model = Behind(front_end, lambda x: x).eval()
    structure = trace_structure(model, (3, 8, 8), images)
    assert get_widths(structure) == {"one": 16, "two": 12}
    check_cuts(model, structure, images)


RANDOM = {
    "dropout": lambda x: F.dropout(x, 0.3),
    "dropout of channels": lambda x: F.dropout2d(x, 0.3),
    "alpha dropout": lambda x: F.alpha_dropout(x, 0.3, training=True),
    "noise": lambda x: x + 0.1 * torch.randn_like(x),
    "noise by size": lambda x: x + 0.1 * torch.randn(x.shape),
    "a random gate": lambda x: x * torch.bernoulli(torch.full_like(x, 0.7)),
    "a gate by comparison": lambda x: x * (torch.rand(len(x), 1, 1, 1) < 0.7),
    "stochastic depth": lambda x: x * torch.empty(len(x), 1, 1, 1).bernoulli_(0.7),
    "a choice in Python": lambda x: x if random.random() < 0.5 else 2 * x,
}


@pytest.mark.parametrize("draw", RANDOM.values(), ids=RANDOM)
def test_randomness_in_evaluation_mode_does_not_refute_groups(draw: Callable[[Tensor], Tensor]) -> None:
    model = Behind(lambda x: x, draw).eval()
    state = torch.random.get_rng_state(), random.getstate()
    structure = trace_structure(model, (3, 8, 8), IMAGES)
    assert get_widths(structure) == {"one": 16, "two": 12}
    assert torch.equal(torch.random.get_rng_state(), state[0])
    assert random.getstate() == state[1]


def test_outputs_that_are_not_finite_are_refused_in_one_line() -> None:
    with pytest.raises(TraceError, match="gives no finite output on an image of the training data"):
        trace_structure(Behind(lambda x: x * float("nan"), lambda x: x).eval(), (3, 8, 8), IMAGES)


class Branch(nn.Module):
    """Calls further layers for some images only."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two, self.out = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 12, 3), nn.Linear(12, 3)
        self.extras = nn.ModuleList([nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)])
        self.spare, self.threshold = nn.Linear(12, 5), threshold

    def forward(self, x: Tensor) -> Tensor:
        z = F.relu(self.one(x))
        if x.max() > self.threshold:
            for layer in self.extras:
                z = z + layer(z)
        return self.out(F.relu(self.two(z)).mean(dim=(2, 3)))


def test_layers_that_never_ran_are_named_and_what_they_may_read_stays_unpruned() -> None:
    model = Branch(threshold=100).eval()
    structure = trace_structure(model, (3, 8, 8), IMAGES)
    assert structure.unreached == ("extras.0", "extras.1", "spare")
    # no code calls `spare`, so it keeps nothing
    assert get_widths(structure) == {"two": 12}
    assert get_reasons(structure)["one"] == "extras.0, which none of 8 traced images reaches, could read it"


def test_a_branch_that_some_image_takes_is_traced() -> None:
    images = IMAGES.clamp(-1, 1)
    images[5, 0, 0, 0] = 200
    model = Branch(threshold=100).eval()
    structure = trace_structure(model, (3, 8, 8), images)
    assert structure.unreached == ("spare",)
    assert get_widths(structure) == {"one": 16, "two": 12}
    check_cuts(model, structure, images)
    check_cuts(model, structure, images[:2])


class Picks(nn.Module):
    """Reads the pixels above a threshold."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 12, 3)
        self.out, self.refine, self.threshold = nn.Linear(12, 3), nn.Linear(12, 3), threshold

    def forward(self, x: Tensor) -> Tensor:
        z = F.relu(self.two(F.relu(self.one(x))))
        chosen = z.movedim(1, -1)[x[:, 0, 2:-2, 2:-2] > self.threshold]
        return self.out(z.mean(dim=(2, 3))) + self.refine(chosen).sum(0)


@pytest.mark.parametrize(("threshold", "free"), [(1e6, {"one": 16}), (0.0, {"one": 16, "two": 12})])
def test_empty_tensors_neither_stop_the_tracing_nor_hide_a_reader(threshold: float, free: dict[str, int]) -> None:
    model = Picks(threshold).eval()
    structure = trace_structure(model, (3, 8, 8), IMAGES)
    assert get_widths(structure) == free
    check_cuts(model, structure, IMAGES)


class Named(nn.Module):
    """Layers under any names that torch allows."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.out = nn.Conv2d(3, 16, 3), nn.Linear(12 * len(names), 3)
        self.branches = nn.ModuleDict({name: nn.Conv2d(16, 12, 3) for name in names})

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        return self.out(torch.cat([layer(x).mean(dim=(2, 3)) for layer in self.branches.values()], dim=1))


def test_any_name_of_a_module_is_a_name_of_a_group() -> None:
    names = ("conv#1", "conv", "b/2 é", "*[a]", "#", "a b#2#3")
    model = Named(*names).eval()
    structure = trace_structure(model, (3, 8, 8), IMAGES)
    assert get_widths(structure) == {"first": 16, **{f"branches.{name}": 12 for name in names}}
    check_cuts(model, structure, IMAGES)


REFUSED: dict[str, tuple[Callable[[nn.Conv2d], object], str]] = {
    "old spectral norm": (nn.utils.spectral_norm, "spectral norm.*remove_spectral_norm"),
    "old weight norm": (nn.utils.weight_norm, "weight norm.*remove_weight_norm"),
    "a pruning mask": (lambda layer: nn.utils.prune.l1_unstructured(layer, "weight", 0.5), r"prune.remove\(layer, 'we"),
    "a bias mask": (lambda layer: nn.utils.prune.random_unstructured(layer, "bias", 0.5), r"prune.remove\(layer, 'bia"),
    "a parametrisation": (nn.utils.parametrizations.weight_norm, "remove_parametrizations"),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(("change", "remedy"), REFUSED.values(), ids=REFUSED)
def test_weights_computed_in_every_pass_are_named_before_anything_runs(
    change: Callable[[nn.Conv2d], object], remedy: str
) -> None:
    model = Behind(lambda x: x, lambda x: x)
    change(model.two)
    with pytest.raises(TraceError, match=f"the weights of two are computed in every pass .*{remedy}"):
        trace_structure(model.eval(), (3, 8, 8), IMAGES)


@pytest.mark.filterwarnings("ignore")
def test_quantised_networks_are_refused_in_one_line() -> None:
    quantized = torch.ao.quantization.quantize_dynamic(Behind(lambda x: x, lambda x: x), {nn.Linear}, torch.qint8)
    with pytest.raises(TraceError, match=r"^out is a quantised layer \(Linear\), .* prune the float network"):
        trace_structure(quantized.eval(), (3, 8, 8), IMAGES)


def test_a_float64_default_does_not_matter() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode():
            model = Behind(lambda x: x, lambda x: x).float().eval()
        model = copy.deepcopy(model)
        structure = trace_randomized(model, IMAGES)
        without = trace_structure(model, (3, 8, 8))
    finally:
        torch.set_default_dtype(torch.float32)
    assert get_widths(structure) == get_widths(without) == {"one": 16, "two": 12}


def test_unpruned_groups_are_listed_by_their_share_of_the_cost() -> None:
    class Couples(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.small, self.large = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 64, 3, padding=1)
            self.free, self.out = nn.Conv2d(64, 8, 1), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.large(self.small(x).cumsum(dim=1)).softmax(dim=1)
            return self.out(self.free(x).mean(dim=(2, 3)))

    model = Couples().eval()
    text = describe_unpruned(model, trace_structure(model, (3, 8, 8), IMAGES))
    first, second = text.removeprefix(". Unpruned are ").split("; ")
    assert first == "large: _softmax in Couples reads all its channels at once (78.8% of the macs)"
    assert second.startswith("small: cumsum in Couples reads all its channels at once (3.7% of the macs)")
