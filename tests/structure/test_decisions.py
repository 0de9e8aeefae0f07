"""Branches on numbers of activations."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from brute_force import check_cuts, get_widths, make_images, trace_randomized
from structures import draw_random_cut
from torch import Tensor, nn

import blendsearch as bs
from blendsearch.events import Warned
from blendsearch.structure.surgery import narrow
from blendsearch.structure.unpruned import describe_undecided
from blendsearch.structure.verify import mask_channels

IMAGES = make_images(6, 3, 8, 8).clamp(-1, 1)
BRIGHT = IMAGES.clone()
BRIGHT[3, 0, 0, 0] = 7

QUESTIONS: dict[str, Callable[[Tensor], object]] = {
    "a comparison": lambda x: x.max() > 6,
    "a number": lambda x: x.max().item() > 6,
    "a whole number": lambda x: (x > 6).sum().item() > 0,
}


class Skip(nn.Module):
    """Chosen images pass by a layer; their channels are padded to the width that the next one reads."""

    def __init__(self, question: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.question, self.conv = question, nn.Conv2d(8, 16, 3, padding=1)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return F.pad(z, (0, 0, 0, 0, 0, 8)) if self.question(x) else self.conv(z)


class Net(nn.Module):
    """Chosen images leave early in addition, with padded features, where `exits` is set."""

    def __init__(self, question: Callable[[Tensor], object], exits: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.skip = nn.Conv2d(3, 8, 3, padding=1), Skip(question)
        self.two, self.out = nn.Conv2d(16, 12, 3, padding=1), nn.Linear(12, 3)
        self.exits, self.question = exits, question
        self.register_buffer("level", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        z = F.relu(self.one(x))
        if self.level > 0.5 and self.exits and self.question(x):
            return self.out(F.pad(z.mean(dim=(2, 3)), (0, 4)))
        return self.out(F.relu(self.two(self.skip(x, z))).mean(dim=(2, 3)))


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
def test_a_branch_that_no_image_takes_is_named_where_all_layers_run(question: Callable[[Tensor], object]) -> None:
    structure = trace_randomized(Net(question), IMAGES)
    assert structure.unreached == () and structure.undecided == ("skip",)
    assert trace_randomized(Net(question, exits=True), IMAGES).undecided == ("Net", "skip")


def test_a_branch_that_some_images_take_is_traced_and_not_named() -> None:
    model = Net(QUESTIONS["a comparison"])
    structure = trace_randomized(model, BRIGHT)
    assert structure.undecided == () and get_widths(structure) == {"one": 8, "two": 12}
    check_cuts(model, structure, IMAGES)
    cut = draw_random_cut(structure.maps, 0.5, 0)
    masked, pruned = mask_channels(model, structure.maps, cut), narrow(model, structure.maps, cut)
    torch.testing.assert_close(pruned(BRIGHT), masked(BRIGHT))


def test_decisions_that_no_image_changes_are_not_named() -> None:
    model = Net(lambda x: bool((torch.ones(3) > 2).any()) or len(x) > 5)
    assert trace_randomized(model, IMAGES).undecided == ()


def test_the_search_warns_of_it(tmp_path: Path) -> None:
    warned: list[str] = []

    def record(event: object) -> None:
        if isinstance(event, Warned):
            warned.append(event.text)

    data = (make_images(40, 3, 8, 8), torch.arange(40) % 3)
    options: dict[str, Any] = {"evaluations": 2, "criteria": ["l1"], "finals": {"picks": 0}, "runs": str(tmp_path)}
    bs.search(Net(QUESTIONS["a comparison"]), data, budget=bs.macs(0.6), progress=record, **options)
    (text,) = [text for text in warned if text.startswith("the code of skip reads numbers of activations")]
    assert "\n" not in text


def test_the_warning_lists_modules() -> None:
    assert describe_undecided(["a.b", "c"]).startswith("the code of a.b, c reads numbers of activations")
