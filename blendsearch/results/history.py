"""How a search went, ready to be drawn: every judged network, the baselines among them, the front, the best so far."""

from collections.abc import Callable
from dataclasses import dataclass

from blendsearch.results.costs import make_cost_reader, make_ranged_cost_reader
from blendsearch.results.summary import has_budget_range
from blendsearch.runs.origin import DENSE, IN_BEST, list_baseline_kinds
from blendsearch.runs.pareto import (
    find_dense_network,
    select_best_baselines,
    select_evaluated,
    select_front,
    select_highest_fidelity,
)
from blendsearch.runs.records import Evaluation
from blendsearch.runs.run import Run

BASELINE_KINDS = ("single criterion", "equal blend", f"single criterion{IN_BEST}", f"equal blend{IN_BEST}")
"""The kinds of baseline as a reader meets them; other methods' own come after."""


@dataclass(frozen=True)
class SearchHistory:
    """The evaluations of a run by what a reader looks for.

    Attributes
    ----------
    spans: whether the budget is a range, so that networks of many costs compete.
    cost: what is on the axis of costs: MACs, or what else the budget ranges over.
    share: the cost of a network as a share of the dense network's.
    judged: all pruned networks with numbers, in the order of asking.
    baselines: at each seeded budget the best of every kind.
    best_so_far: after each of `judged`, the one with the lowest validation loss until then.
    """

    has_budget_range: bool
    cost: str
    share: Callable[[Evaluation], float]
    dense: Evaluation | None
    evaluated: list[Evaluation]
    baselines: list[Evaluation]
    front: list[Evaluation]
    best_so_far: list[Evaluation]
    failures: int


def read_history(run: Run) -> SearchHistory:
    """The course of `run` as far as it has come."""
    with run.open_store(read_only=True) as store:
        rows = store.read_evaluations()
        promotions = store.read_promotions()
    valid = select_highest_fidelity(rows, promotions)
    judged = [row for row in select_evaluated(rows) if row.loss is not None and row.error is not None]
    best: list[Evaluation] = []
    for row in judged:
        best.append(row if not best or _get_loss(row) < _get_loss(best[-1]) else best[-1])
    cost, share = choose_cost_axis(run)
    return SearchHistory(
        has_budget_range(run),
        cost,
        share,
        find_dense_network(rows, promotions),
        judged,
        select_best_baselines(valid),
        select_front(valid, make_ranged_cost_reader(run)),
        best,
        sum(bool(row.failure) for row in rows),
    )


def group_baselines(history: SearchHistory) -> dict[str, list[Evaluation]]:
    """The best baselines by kind, whatever their budget, cheapest first."""
    kinds: dict[str, list[Evaluation]] = {}
    for row in history.baselines:
        for kind in dict.fromkeys(kind.partition(" at ")[0] for kind in list_baseline_kinds(row)):
            kinds.setdefault(kind, []).append(row)
    return dict(
        sorted(
            kinds.items(),
            key=lambda pair: BASELINE_KINDS.index(pair[0]) if pair[0] in BASELINE_KINDS else len(BASELINE_KINDS),
        )
    )


def choose_error_limit(history: SearchHistory) -> float:
    """The largest error that a picture has room for: what is far above most networks stands at its edge."""
    errors = sorted(_get_error(row) for row in history.evaluated)
    if not history.has_budget_range:
        # what was judged before the search had learnt anything would leave no room for what it then found
        usual = errors[(len(errors) - 1) * 3 // 4]
        first = min(_get_error(row) for row in [history.best_so_far[-1], *history.baselines])
        return min(errors[-1], errors[0] + max(2.5 * (usual - errors[0]), 1.2 * (first - errors[0]))) + 0.002
    # the cheapest end of a front is often next to chance, and would leave no room for the rest
    shown = [
        _get_error(row) for row in [*(history.baselines or history.front), *([history.dense] if history.dense else [])]
    ]
    return min(1.0, errors[-1], 1.3 * max(shown)) + 0.002


def format_network_name(row: Evaluation) -> str:
    """The network for a reader: ``fisher global``, or ``network 57``."""
    return row.origin.split(" = ")[0] if list_baseline_kinds(row) or row.origin == DENSE else f"network {row.id}"


def _get_error(row: Evaluation) -> float:
    return 1.0 if row.error is None else row.error


def _get_loss(row: Evaluation) -> float:
    return float("inf") if row.loss is None else row.loss


def choose_cost_axis(run: Run) -> tuple[str, Callable[[Evaluation], float]]:
    """The cost that pictures of `run` have on their axis, and from a network to its share of the dense network's."""
    dense, asked = run.structure["dense"], run.config.budget.get_spans()
    ranged = [name for name, (low, high) in asked.items() if high > low] or list(asked)
    name = "macs" if "macs" in ranged or not ranged else ranged[0]
    if name == "macs":
        return "MACs", lambda row: float(row.macs / dense["macs"])
    if name == "params":
        return "parameters", lambda row: float(row.params / dense["params"])
    read = make_cost_reader(run)
    return name, lambda row: 1.0 if row.origin == DENSE else float(read(row, {})[f"{name}_ratio"])
