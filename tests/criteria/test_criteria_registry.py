"""Registration of criteria, and handling of unusable ones."""

import importlib.metadata
import sys

import numpy as np
import pytest
import torch
from criteria_nets import draw_images, make_net, trace_net

from blendsearch.criteria.registry import CRITERIA, Criterion, criterion, load_criteria, load_pool, select_criteria
from blendsearch.criteria.score import compute_score_table
from blendsearch.errors import ConfigError

OWN = '''
from blendsearch.criteria.registry import criterion


@criterion("{name}", family="norm", source="a test")
def own(view):
    """The largest weight of the filter."""
    return view.get_filters()[0].abs().amax(dim=1)
'''


@pytest.fixture(autouse=True)
def pool_as_before():
    load_pool()
    before = dict(CRITERIA)
    for name, item in before.items():
        if not item.score.__module__.startswith("blendsearch."):  # registered by another test of this process
            del CRITERIA[name]
    yield
    CRITERIA.clear()
    CRITERIA.update(before)


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return write


def test_a_user_defined_module_joins_the_pool(own_module):
    load_criteria([own_module("my_criteria", OWN.format(name="largest_weight"))])
    assert select_criteria(["largest_weight"])[0].formula == "The largest weight of the filter."
    assert "largest_weight" in [item.name for item in select_criteria()]
    model = make_net("flattened")
    table = compute_score_table(
        model, trace_net(model), select_criteria(["largest_weight"]), lambda: [], np.random.default_rng(0)
    )
    expected = model.first.weight.detach().abs().amax(dim=(1, 2, 3))
    np.testing.assert_allclose(table.scores[table.groups.index("first")][0], expected)


def test_a_failing_module_does_not_change_the_pool(own_module):
    name = own_module("my_broken", OWN.format(name="half_registered") + "\n1 / 0\n")
    with pytest.raises(ConfigError, match=r"'my_broken' could not be imported: ZeroDivisionError") as error:
        load_criteria([name])
    assert "\n" not in str(error.value)
    assert "half_registered" not in CRITERIA
    with pytest.raises(ConfigError, match="ModuleNotFoundError"):
        load_criteria(["no_such_module_anywhere"])


def test_a_duplicate_name_is_refused(own_module):
    with pytest.raises(ConfigError, match="two criteria are called 'l1'"):
        load_criteria([own_module("my_l1", OWN.format(name="l1"))])
    assert select_criteria(["l1"])[0].score.__module__ == "blendsearch.criteria.norm"


def test_entry_points_join_and_broken_ones_are_skipped_with_a_warning(own_module, monkeypatch):
    good = own_module("my_entry", OWN.format(name="from_entry"))
    entries = [
        importlib.metadata.EntryPoint(name="good", value=good, group="blendsearch.criteria"),
        importlib.metadata.EntryPoint(name="broken", value="no_such_entry_module", group="blendsearch.criteria"),
    ]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: entries)
    with pytest.warns(UserWarning, match=r"entry point 'broken' \(no_such_entry_module\) are left out: ModuleNotFound"):
        load_pool()
    assert "from_entry" in CRITERIA
    assert "l1" in CRITERIA


def test_unknown_names_and_needs_are_refused():
    with pytest.raises(ConfigError, match="did you mean 'taylor_gate'"):
        select_criteria(["taylor_gat"])
    with pytest.raises(ConfigError, match="named twice"):
        select_criteria(["l1", "l1"])
    with pytest.raises(ConfigError, match="needs 'magic'"):
        criterion("wants_magic", family="norm", needs=["magic"], source="a test")(lambda view: None)


def test_an_unusable_criterion_is_left_out_with_the_reason():
    def raises(view):
        raise KeyError("lost")

    wrong = {
        "nan": (lambda view: torch.full((view.group.channels,), torch.nan), "scores that are not finite"),
        "constant": (lambda view: torch.ones(view.group.channels), "same score"),
        "short": (lambda view: torch.rand(view.group.channels + 1), "expected"),
        "raises": (raises, "failed with KeyError: 'lost'"),
        "forgot": (lambda view: view.get_gate().change, "name its needs="),
        "nothing": (lambda view: None, "does not apply"),
    }
    criteria = [Criterion(name, "norm", frozenset(), "weights", "a test", score) for name, (score, _) in wrong.items()]
    model = make_net("residual")
    table = compute_score_table(
        model, trace_net(model), [*criteria, *select_criteria(["l1"])], lambda: [], np.random.default_rng(0)
    )
    for number, (name, (_, reason)) in enumerate(wrong.items()):
        found = [item for item in table.left_out if item.criterion == name]
        assert len(found) == len(table.groups)
        assert all(reason in item.reason for item in found), found[0].reason
        assert all(np.isnan(scores[number]).all() for scores in table.scores)
    assert all(list(table.find_usable(group)) == [len(wrong)] for group in range(len(table.groups)))


def test_undeclared_needs_are_not_available():
    model = make_net("residual")
    structure = trace_net(model)
    asks_more = Criterion(
        "asks_more",
        "activation",
        frozenset({"pooled"}),
        "probe",
        "a test",
        lambda view: view.get_activation_stats()[0].square,
    )
    table = compute_score_table(model, structure, [asks_more], lambda: [draw_images()], np.random.default_rng(0))
    assert all("the probe has no 'square'" in item.reason for item in table.left_out)
    assert len(table.left_out) == len(table.groups)


def test_a_network_without_second_derivatives_loses_only_the_hessian(monkeypatch):
    def refuses(*_):
        raise RuntimeError("derivative for some_backward is not implemented")

    monkeypatch.setattr("blendsearch.criteria.probe.estimate_hessian_diagonals", refuses)
    model = make_net("flattened")
    names = ["hessian_trace", "taylor_gate"]
    table = compute_score_table(
        model, trace_net(model), select_criteria(names), lambda: [draw_images()], np.random.default_rng(0)
    )
    assert {item.criterion for item in table.left_out} == {"hessian_trace"}
    assert "the Hessian could not be sampled: derivative for" in table.left_out[0].reason
