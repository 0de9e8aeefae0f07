"""History of a search, ready to be drawn: all evaluations, the baselines, the front, the best network so far."""

from collections.abc import Callable
from dataclasses import dataclass

from blendsearch.results.costs import make_cost_reader, make_ranged_cost_reader
from blendsearch.results.summary import has_budget_range
from blendsearch.runs.origin import BEST_ALLOCATION, DENSE, EQUAL_BLEND, Origin, OriginKind
from blendsearch.runs.pareto import (
    find_dense_network,
    select_best_baselines,
    select_evaluated,
    select_front,
    select_highest_fidelity,
)
from blendsearch.runs.records import Evaluation
from blendsearch.runs.run import Run

SINGLE_CRITERION = OriginKind.CRITERION.value
BASELINE_KINDS = (
    SINGLE_CRITERION,
    EQUAL_BLEND,
    f"{SINGLE_CRITERION} {BEST_ALLOCATION}",
    f"{EQUAL_BLEND} {BEST_ALLOCATION}",
)
"""The kinds of baseline in the order in which they are shown; the networks of other methods follow."""


@dataclass(frozen=True)
class SearchHistory:
    """The evaluations of a run.

    Attributes
    ----------
    has_budget_range: the budget is a range, so that networks of many costs compete.
    cost: the name of the cost on the axis: MACs, or another cost that the budget ranges over.
    share: the cost of a network as a share of the dense network's.
    evaluated: all pruned networks with numbers, by id.
    comparable: those of them at the highest fidelity, among which the front is.
    baselines: the best of every kind at each seeded budget.
    best_so_far: after each of `evaluated`, the one with the lowest validation loss until then.
    """

    has_budget_range: bool
    cost: str
    share: Callable[[Evaluation], float]
    dense: Evaluation | None
    evaluated: list[Evaluation]
    comparable: list[Evaluation]
    baselines: list[Evaluation]
    front: list[Evaluation]
    best_so_far: list[Evaluation]
    failures: int


def read_history(run: Run, *, genomes: bool = True) -> SearchHistory:
    """Read the search of `run` so far; a tenth of the work without `genomes`."""
    cuts = not run.config.budget.get_spans().keys() <= {"macs", "params"}
    with run.open_store(read_only=True) as store:
        rows = store.read_evaluations() if genomes else store.read_bare_evaluations(-1, cuts=cuts)
        promotions = store.read_promotions()
    valid = select_highest_fidelity(rows, promotions)
    evaluated = [row for row in select_evaluated(rows) if row.loss is not None and row.error is not None]
    best: list[Evaluation] = []
    for row in evaluated:
        best.append(row if not best or _get_loss(row) < _get_loss(best[-1]) else best[-1])
    cost, share = choose_cost_axis(run)
    return SearchHistory(
        has_budget_range(run),
        cost,
        share,
        find_dense_network(rows, promotions),
        evaluated,
        [row for row in valid if row.loss is not None and row.error is not None],
        select_best_baselines(valid),
        select_front(valid, make_ranged_cost_reader(run)),
        best,
        sum(bool(row.failure) for row in rows),
    )


def group_baselines(history: SearchHistory) -> dict[str, list[Evaluation]]:
    """Group the best baselines by kind at any budget, the cheapest first."""
    kinds: dict[str, list[Evaluation]] = {}
    for row in history.baselines:
        for kind in Origin.parse(row.origin).families:
            kinds.setdefault(kind, []).append(row)
    return dict(
        sorted(
            kinds.items(),
            key=lambda pair: BASELINE_KINDS.index(pair[0]) if pair[0] in BASELINE_KINDS else len(BASELINE_KINDS),
        )
    )


def format_network_name(row: Evaluation) -> str:
    """Format the name of a network: ``fisher global``, or ``network 57``."""
    origin = Origin.parse(row.origin)
    return f"network {row.id}" if origin.is_evolved else origin.label


def _get_loss(row: Evaluation) -> float:
    return float("inf") if row.loss is None else row.loss


def choose_cost_axis(run: Run) -> tuple[str, Callable[[Evaluation], float]]:
    """Choose the cost on the axis of figures: its name, and the function from a network to its share of the dense."""
    dense, asked = run.structure["dense"], run.config.budget.get_spans()
    ranged = [name for name, (low, high) in asked.items() if high > low] or list(asked)
    name = "macs" if "macs" in ranged or not ranged else ranged[0]
    if name == "macs":
        return "MACs", lambda row: float(row.macs / dense["macs"])
    if name == "params":
        return "parameters", lambda row: float(row.params / dense["params"])
    read = make_cost_reader(run)
    return name, lambda row: 1.0 if row.origin == DENSE else float(getattr(read(row, {}), f"{name}_ratio"))
