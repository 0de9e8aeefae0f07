"""Origins: every text survives parsing, and the texts of real runs are understood."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blendsearch.runs.origin import BEST_ALLOCATION, DENSE, EVOLVED, Origin, OriginKind, OriginName, make_rule_name

KINDS = {
    "dense": [],
    "evolved": [],
    "l1 uniform": ["single criterion"],
    "taylor_gate global": ["single criterion"],
    "apoz given": ["single criterion"],
    "fisher sensitivity": ["single criterion"],
    "My Own-Criterion 2 uniform": ["single criterion"],
    "l1 uniform at 60% macs": ["single criterion at 60% macs"],
    "l1 global at 60% macs, 70% params": ["single criterion at 60% macs, 70% params"],
    "apoz in the best allocation": ["single criterion in the best allocation"],
    "l1 uniform, all depthwise": ["single criterion, all depthwise"],
    "equal blend uniform": ["equal blend"],
    "equal blend given": ["equal blend"],
    "equal blend derived": ["equal blend"],
    "equal blend global at 25% macs": ["equal blend at 25% macs"],
    "equal blend in the best allocation": ["equal blend in the best allocation"],
    "equal blend uniform, all depthwise": ["equal blend, all depthwise"],
    "equal blend uniform, half of enough depthwise at 40% macs": ["equal blend, half of enough depthwise at 40% macs"],
    "l2 global ranking": ["l2 global ranking"],
    "Torch-Pruning global": ["Torch-Pruning global"],
    "Torch-Pruning local": ["Torch-Pruning local"],
    "Torch-Pruning global = Torch-Pruning local": ["Torch-Pruning global", "Torch-Pruning local"],
    "sensitivity": ["sensitivity"],
    "derived": ["derived"],
    "tailored": ["tailored"],
    "l1 global = fpgm global = equal blend global": ["single criterion", "equal blend"],
    "l1 uniform at 30% macs = l2 uniform at 30% macs": ["single criterion at 30% macs"],
    "taylor_gate uniform = equal blend uniform": ["single criterion", "equal blend"],
}
"""The texts that runs hold, and the kinds of baseline that they name."""

WORDS = st.sampled_from(
    [
        "l1",
        "equal blend",
        " = ",
        " at ",
        ", ",
        " ",
        BEST_ALLOCATION,
        "all depthwise",
        "ranking",
        "evolved",
        "dense",
        "é",
    ]
)
RULES = st.sampled_from(["l1", "bn_gamma", "equal blend", "Own Criterion"])
ALLOCATIONS = st.sampled_from(["uniform", "global", "given", "sensitivity", BEST_ALLOCATION])
TRANSFORMS = st.sampled_from(["", "all depthwise", "enough depthwise"])
BUDGETS = st.sampled_from([None, "60% macs", "60% macs, 70% params"])


@pytest.mark.parametrize("text", KINDS)
def test_the_texts_of_real_runs_are_understood(text: str) -> None:
    origin = Origin.parse(text)
    assert origin.text == str(origin) == text and list(origin.baseline_kinds) == KINDS[text]
    assert origin.label == text.split(" = ")[0]
    assert (origin.is_dense, origin.is_evolved) == (text == DENSE, text == EVOLVED)
    assert origin.is_baseline == bool(KINDS[text])


@given(st.one_of(st.text(), st.lists(WORDS).map("".join)))
def test_every_text_is_printed_as_it_was(text: str) -> None:
    assert Origin.parse(text).text == text


@given(RULES, ALLOCATIONS, TRANSFORMS, BUDGETS)
def test_the_parts_of_a_rule_are_found_again(rule: str, allocation: str, transform: str, budget: str | None) -> None:
    (name,) = Origin.parse(make_rule_name(rule, allocation, transform, budget)).names
    kind = OriginKind.BLEND if rule == "equal blend" else OriginKind.CRITERION
    assert name == OriginName(kind, rule, allocation, transform, budget)


def test_a_name_of_unknown_form_is_a_label() -> None:
    (name,) = Origin.parse("my_method at 40% macs").names
    assert (name.kind, name.rule, name.budget) == (OriginKind.LABEL, "my_method", "40% macs")
    assert Origin.parse("my_method at 40% macs").families == ("my_method",)


def test_merging_keeps_all_names_but_evolved() -> None:
    one, two, evolved = (Origin.parse(text) for text in ("l1 uniform", "l2 global = tailored", EVOLVED))
    assert one.merge(two).text == "l1 uniform = l2 global = tailored"
    assert evolved.merge(one) == one.merge(evolved) == one and evolved.merge(evolved) == evolved


def test_the_best_allocation_is_found_among_all_names() -> None:
    assert Origin.parse("l1 global = l2 in the best allocation").in_best_allocation
    assert not Origin.parse("l1 global = l2 uniform").in_best_allocation
