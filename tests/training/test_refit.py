"""Refit of layers: what it restores, what it does not change, and that it never increases a layer's error."""

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from criteria_nets import NETS, SHAPE, make_net
from hypothesis import given
from hypothesis import strategies as st
from refits import CPU, load_images, make_net_refitter, make_random_splits
from structures import MixedNet, draw_random_cut
from torch import Tensor, nn

from blendsearch.errors import ConfigError
from blendsearch.events import ignore_event
from blendsearch.fitness.evaluator import Evaluator, make_request
from blendsearch.pipeline.problem.builder import build_problem
from blendsearch.pipeline.problem.persistence import record, restore
from blendsearch.runs.config.loading import parse_config
from blendsearch.structure.groups import Cut, IndexMaps
from blendsearch.structure.surgery import narrow
from blendsearch.structure.trace import trace_structure
from blendsearch.training import refit
from blendsearch.training.recovery import Recipe
from blendsearch.training.refit_patches import extract_patches, flatten_weight
from blendsearch.training.schedule import Schedule


class Linear(nn.Module):
    """Only sums: a 3x3 reader with a bias, a flattened one, and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(2, 6, 1)
        self.other = nn.Conv2d(2, 5, 1)
        self.both = nn.Conv2d(11, 4, 3, padding=1, padding_mode="circular")
        self.head = nn.Linear(4 * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.both(torch.cat([self.other(x), self.one(x)], dim=1)).flatten(1))
        return out


def linear() -> nn.Module:
    torch.manual_seed(0)
    return Linear().eval()


def cut_of(maps: IndexMaps, removed: dict[str, list[int]]) -> Cut:
    cut = maps.make_unpruned_cut()
    for group, start in zip(maps.groups, maps.offsets[:-1], strict=True):
        cut[start + np.array(removed.get(group.name, []), dtype=np.int64)] = False
    return cut


def compared(model: nn.Module, cut_groups: dict[str, list[int]], count: int = 48) -> tuple[float, float]:
    """Return the largest difference from the dense output, on new images, without and with refit."""
    maps = trace_structure(model, SHAPE).maps
    cut = cut_of(maps, cut_groups)
    x = torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        dense = model(x)
        small = narrow(model, maps, cut)
        bare = float((small(x) - dense).abs().max())
        make_net_refitter(model, maps, make_random_splits(SHAPE, count), ridge=1e-5, renewed=False)(maps, cut, small)
        return bare, float((small(x) - dense).abs().max())


def test_linear_combinations_of_kept_channels_are_compensated() -> None:
    # six and five channels, all linear in two: two kept ones tell the others
    bare, refitted = compared(linear(), {"one": [1, 2, 3, 5], "other": [0, 1, 3, 4]})
    assert bare > 0.1
    assert refitted < 1e-4


def test_a_layer_with_too_few_outputs_is_not_refitted() -> None:
    model, splits = linear(), make_random_splits(SHAPE)
    maps = trace_structure(model, SHAPE).maps
    cut = cut_of(maps, {"both": [3]})
    small, bare = narrow(model, maps, cut), narrow(model, maps, cut)
    make_net_refitter(model, maps, splits)(maps, cut, small)  # 48 images, for 108 features behind the flattened map
    assert torch.equal(small.get_parameter("head.weight"), bare.get_parameter("head.weight"))


def test_removing_a_duplicate_channel_changes_nothing() -> None:
    model = make_net("residual")
    with torch.no_grad():  # the fourth inner channel says three times what the second says
        model.inner[0].weight[3] = model.inner[0].weight[1]
        for values in (model.inner[1].running_mean, model.inner[1].running_var):
            values[3] = values[1]
        model.inner[1].weight[3], model.inner[1].bias[3] = 3 * model.inner[1].weight[1], 3 * model.inner[1].bias[1]
    bare, mended = compared(model, {"inner.0": [3]})
    assert bare > 1e-3
    assert mended < 1e-4


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Conv2d(3, 4, (3, 2), stride=(2, 3), padding=(0, 2), dilation=(2, 1)),
        nn.Conv2d(3, 4, 3, padding="same", padding_mode="reflect"),
        nn.Linear(3, 4),
    ],
)
def test_patches_times_weights_equal_the_output(layer: nn.Conv2d | nn.Linear) -> None:
    x = torch.randn(2, 3, *(() if isinstance(layer, nn.Linear) else (9, 11)))
    output = layer(x).reshape(2, 4, -1)
    positions = torch.stack([torch.randperm(output.shape[2])[:5] for _ in range(2)])
    wanted = output.gather(2, positions[:, None, :].expand(-1, 4, -1)).transpose(1, 2).flatten(0, 1)
    found = extract_patches(layer, x, positions) @ flatten_weight(layer.weight).T + layer.bias
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("name", sorted(NETS))
def test_an_unpruned_network_is_not_refitted(name: str) -> None:
    model = make_net(name)
    maps = trace_structure(model, SHAPE).maps
    small = narrow(model, maps, maps.make_unpruned_cut())
    make_net_refitter(model, maps, make_random_splits(SHAPE))(maps, maps.make_unpruned_cut(), small)
    for (key, dense), kept in zip(model.state_dict().items(), small.state_dict().values(), strict=True):
        assert torch.equal(dense, kept), key


SHAPES = {"odd": (3, 8, 8)} | dict.fromkeys(NETS, SHAPE)


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MixedNet().eval() if name == "odd" else make_net(name)


CASES: dict[str, tuple[Any, ...]] = {}


def case(name: str) -> tuple[Any, ...]:
    """A network, its maps, images and refitters, made once."""
    if name not in CASES:
        model, splits = network(name), make_random_splits(SHAPES[name])
        maps = trace_structure(model, SHAPES[name]).maps
        repairs = [make_net_refitter(model, maps, splits, renewed=renewed) for renewed in (False, True)]
        CASES[name] = model, maps, load_images(splits), repairs
    return CASES[name]


@given(name=st.sampled_from(sorted(SHAPES)), keep=st.floats(0.1, 0.9), seed=st.integers(0, 1000), renewed=st.booleans())
def test_no_refit_increases_the_error_of_a_layer(name: str, keep: float, seed: int, renewed: bool) -> None:
    """Concatenations, streams, flattened maps; depthwise and transposed layers are not refitted."""
    model, maps, images, repairs = case(name)
    cut = draw_random_cut(maps, keep, seed)
    small, bare = narrow(model, maps, cut), narrow(model, maps, cut)
    repairs[renewed](maps, cut, small)
    kept = np.append(cut, True)
    assert repairs[renewed].targets
    renewed = repairs[renewed].options.recalibration
    for target in repairs[renewed].targets:
        if target.module == "shared":  # called twice, fitted at its first call
            continue
        sources = {dim: kept[maps.sources[number]] for dim, number in maps.slices[target.tensor]}
        rows = np.flatnonzero(sources.get(0, np.ones(maps.shapes[target.tensor][0], dtype=bool)))
        with torch.inference_mode():
            taken = seen(small, target.module, images, renewed)
            wanted = model.get_submodule(target.module)(seen(model, target.module, images, False))[:, rows]
            found = [item.get_submodule(target.module)(taken) - wanted for item in (bare, small)]
            if renewed and small.get_submodule(target.module).bias is None:  # the batch-norm behind takes up the mean
                found = [error - error.mean(dim=(0, 2, 3), keepdim=True) for error in found]
        before, after = (float(error.square().sum()) for error in found)
        assert after <= before * (1 + 1e-3) + 1e-6, target.module
    assert torch.isfinite(small.eval()(images)).all()


@pytest.mark.parametrize("name", ["residual", "odd"])
def test_an_image_that_is_not_finite_leaves_every_layer_finite(name: str) -> None:
    model, maps, _, repairs = case(name)
    cut = draw_random_cut(maps, 0.5, 0)
    images = repairs[0].images.clone()
    images[3, 0, 2, 2] = float("nan")
    small, bare = narrow(model, maps, cut), narrow(model, maps, cut)
    dataclasses.replace(repairs[0], images=images)(maps, cut, small)
    for (key, found), left in zip(small.state_dict().items(), bare.state_dict().values(), strict=True):
        assert torch.isfinite(found).all(), key
        assert key.endswith("num_batches_tracked") or found.shape == left.shape


def test_a_layer_of_inputs_that_are_not_finite_is_not_refitted() -> None:
    model, maps, _, repairs = case("odd")
    cut = draw_random_cut(maps, 0.5, 0)
    small, bare = narrow(model, maps, cut), narrow(model, maps, cut)
    spoiled = dataclasses.replace(repairs[0], images=torch.full_like(repairs[0].images, float("nan")))
    spoiled(maps, cut, small)
    for (key, found), left in zip(small.state_dict().items(), bare.state_dict().values(), strict=True):
        assert torch.equal(found, left), key


def test_a_refit_in_bfloat16_is_close_to_one_in_float32() -> None:
    model, maps, images, repairs = case("residual")
    cut = draw_random_cut(maps, 0.5, 0)
    outputs = []
    for precision in ("float32", "bfloat16"):
        options = dataclasses.replace(repairs[0].options, precision=precision)
        small = narrow(model, maps, cut)
        dataclasses.replace(repairs[0], options=options)(maps, cut, small)
        with torch.inference_mode():
            outputs.append(small(images))
    with torch.inference_mode():
        bare = narrow(model, maps, cut)(images)
    assert float((outputs[0] - outputs[1]).norm()) < 0.1 * float((outputs[0] - bare).norm())


def test_a_narrow_layer_is_fitted_to_fewer_rows_and_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refit, "MIN_ROWS", 1)
    monkeypatch.setattr(refit, "ROWS_PER_INPUT", 60)
    model, splits = make_net("residual"), make_random_splits(SHAPE)
    maps = trace_structure(model, SHAPE).maps
    cut = draw_random_cut(maps, 0.5, 0)
    refitter, again = make_net_refitter(model, maps, splits), make_net_refitter(model, maps, splits)
    target = next(target for target in refitter.targets if target.module == "outer.0")
    whole, kept = model.get_submodule("outer.0"), np.append(cut, True)
    small, other = narrow(model, maps, cut), narrow(model, maps, cut)
    counts = [target.select_outputs(layer, maps, kept)[0].numel() for layer in (whole, small.get_submodule("outer.0"))]
    assert counts[1] < counts[0]
    refitter(maps, cut, small)
    pickle.loads(pickle.dumps(again))(maps, cut, other)
    assert all(torch.equal(one, two) for one, two in zip(small.parameters(), other.parameters(), strict=True))


def seen(model: nn.Module, name: str, images: Tensor, renewed: bool) -> Tensor:
    """Return the input of a layer while layers are fitted."""
    taken: list[Tensor] = []
    hook = model.get_submodule(name).register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0].clone()))
    model.eval()
    for module in model.modules():
        if renewed and isinstance(module, nn.BatchNorm2d):
            module.train()
            module.momentum = 0.0
    model(images)
    hook.remove()
    return taken[0]


def test_an_evaluation_with_refit_is_pure() -> None:
    model, splits = make_net("residual"), make_random_splits(SHAPE)
    maps = trace_structure(model, SHAPE).maps
    recipe = Recipe(32, 20, Schedule(0.5, 0.05, 16), Schedule(1, 0.05, 16))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cuts = [draw_random_cut(maps, 0.5, seed) for seed in range(3)]
    outcomes = []
    for order in (cuts, cuts[::-1]):
        evaluator = Evaluator(model, maps, splits, recipe, CPU, make_net_refitter(model, maps, splits))
        outcomes.append({o.digest: o._replace(seconds=0) for o in map(evaluator.evaluate, asked(order))})
    assert outcomes[0] == outcomes[1]
    bare = Evaluator(model, maps, splits, recipe, CPU)
    assert all(bare.evaluate(item).loss != outcomes[0][item.digest].loss for item in asked(cuts))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def asked(cuts: list[Cut]) -> list:
    return [make_request(cut, "tuned", 0) for cut in cuts]


def test_a_restored_search_refits_equally(quick: dict[str, Any], tmp_path: Path) -> None:
    quick["fitness"]["repair"] = "refit"
    problem = build_problem(parse_config(quick, "here"), ignore_event)
    item = make_request(draw_random_cut(problem.structure.maps, 0.5, 0), "recalibrated", 0)
    first = problem.evaluator.evaluate(item)
    bare = dataclasses.replace(problem.evaluator, refitter=None).evaluate(item)
    assert first.loss < bare.loss
    again = restore(record(problem, tmp_path, "one", [])).evaluator.evaluate(item)
    assert again._replace(seconds=0) == first._replace(seconds=0)


def test_an_unknown_repair_is_refused(quick: dict[str, Any]) -> None:
    quick["fitness"]["repair"] = "mend"
    with pytest.raises(ConfigError, match=r"fitness\.repair"):
        parse_config(quick, "here")
