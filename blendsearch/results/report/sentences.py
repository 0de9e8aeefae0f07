"""The results of a run in a few sentences: networks chosen by validation, with test accuracies where there are any."""

import math
from collections.abc import Mapping, Sequence

from blendsearch.results.formatting import format_budget, format_points, format_share
from blendsearch.results.history import SearchHistory, format_network_name, group_baselines
from blendsearch.results.ladder_summary import format_ladder, format_noise
from blendsearch.results.records import EvaluationRecord, RunSummary
from blendsearch.results.summary import describe_training, get_accuracy_name, get_metric
from blendsearch.runs.origin import Origin
from blendsearch.runs.records import Evaluation
from blendsearch.runs.run import Run

BUDGET_TOLERANCE = 0.005
"""A sentence reports a best network that stays farther below its budget than this."""


def format_sentences(
    run: Run,
    history: SearchHistory,
    summary: RunSummary,
    picks: Mapping[str, Evaluation],
    verdict: str | None,
) -> list[str]:
    """Describe the results and their limits. `picks` has `best`, and over a range of budgets `knee`."""
    if not history.evaluated:
        return ["Nothing has been evaluated yet: there is no network to show."]
    accuracies = _Accuracies(run, summary)
    sentences = (
        _describe_front(run, history, picks, accuracies)
        if history.has_budget_range
        else _describe_best(run, history, picks["best"], accuracies)
    )
    sentences = [text.replace("accuracy", get_accuracy_name(run)) for text in sentences]
    metric = get_metric(run)
    if not metric.share:
        details = [*list_task_functions(run), *([] if metric.name == "loss" else [metric.direction])]
        sentences.append(
            f"Networks were evaluated by {metric.name} alone ({', '.join(details)}): the best has "
            f"{metric.convert_loss(picks['best'].loss or 0.0):.4f} on validation."
        )
    sentences += [text for text in (format_noise(summary.noise), format_ladder(summary.ladder)) if text is not None]
    if not run.finished:
        sentences.append(
            f"The search is not finished: {len(history.evaluated)} of {run.config.search.evaluations} networks are "
            "evaluated. All numbers are on validation images, which also choose the networks, so they are optimistic."
        )
        return sentences
    if accuracies.dense is None or accuracies.dense.test_accuracy is not None:
        sentences.append("All networks were chosen by validation images. The test images were used once, afterwards.")
    if verdict is not None:
        sentences.append(f"Compared with controls: {verdict}.")
    else:
        sentences.append("This is one seed: such differences can be chance. Controls on more seeds would show it.")
    return sentences


def list_task_functions(run: Run) -> list[str]:
    """List the names of the user-defined functions of the task, from Python and from the config."""
    return [*run.structure.get("task", {}).values(), *run.config.task.get_function_names().values()]


class _Accuracies:
    """Accuracies to report: after the long fine-tune where there was one, on test images where there are any."""

    def __init__(self, run: Run, summary: RunSummary) -> None:
        rows: list[EvaluationRecord] = [*summary.dense, *summary.baselines, *summary.front, *summary.finals]
        self.rows_by_id = {row.id: row for row in rows}
        self._before_training = {row.id: row for row in [*summary.baselines, *summary.front]}
        self.dense = summary.dense[0] if summary.dense else None
        self.finals = [row.id for row in summary.finals]
        self.fine_tuned = bool(self.finals)
        self.tested = run.finished
        self.is_named = get_metric(run).name not in ("accuracy", "loss")
        self.images = "unseen test images" if run.finished else "validation images"

    def select_best_of_kind(self, history: SearchHistory, kind: str) -> Evaluation | None:
        """Select the best baseline of a kind as the best network is: after the long fine-tune where there was one."""
        places = {number: place for place, number in enumerate(self.finals)}
        rows = [
            row for row in history.evaluated if row.id in places and kind in Origin.parse(row.origin).baseline_kinds
        ]
        if rows:
            return min(rows, key=lambda row: places[row.id])
        rows = group_baselines(history).get(kind, [])
        return rows[0] if rows else None

    def get_accuracy(self, number: int) -> float | None:
        row = self.rows_by_id.get(number)
        return None if row is None else self._read_accuracy(row)

    def _read_accuracy(self, row: EvaluationRecord) -> float | None:
        return row.test_accuracy if self.tested else row.val_accuracy

    def compare_at_cost(self, history: SearchHistory, row: Evaluation) -> tuple[float | None, float | None]:
        """Return the accuracies of the best network of at most the cost of `row`, and of `row`.

        Both are after the long fine-tune where `row` has one, and before it otherwise.
        """
        most = history.share(row) + 1e-9
        if row.id in self.finals:
            costs = {other.id: history.share(other) for other in history.evaluated}
            best = next(number for number in self.finals if costs.get(number, math.inf) <= most)
            return self.get_accuracy(best), self.get_accuracy(row.id)
        affordable = [other for other in history.front if history.share(other) <= most]
        found = [self._before_training.get(other.id) for other in (*affordable[-1:], row)]
        accuracies = [None if item is None else self._read_accuracy(item) for item in found]
        return (accuracies[0], accuracies[1]) if affordable else (None, None)

    def format_difference(self, own: float, number: int, name: str) -> str | None:
        other = self.get_accuracy(number)
        return None if other is None else f"{format_points(own - other)} {name} ({format_share(other, 2)})"


def _describe_best(run: Run, history: SearchHistory, best: Evaluation, accuracies: _Accuracies) -> list[str]:
    own = accuracies.get_accuracy(best.id)
    budget = (
        format_budget(run)
        if run.config.budget.get_spans()
        else f"the given widths, {format_share(history.share(best))} of MACs"
    )
    if own is None:
        lacks = "" if accuracies.is_named else "; it has no accuracy"
        return [f"At {budget} the best network by validation is {format_network_name(best)}{lacks}."]
    after = f" {describe_training(run)}" if accuracies.fine_tuned else ""
    beside = []
    itself = ""
    for kind in ("single criterion", "equal blend"):
        row = accuracies.select_best_of_kind(history, kind)
        if row is not None and row.id == best.id:
            itself = f" It is the best {kind}: the search found no better network by validation."
        elif row is not None:
            name = "" if format_network_name(row).startswith(kind) else f", {format_network_name(row)}"
            beside.append(accuracies.format_difference(own, row.id, f"the best {kind}{name}"))
    if accuracies.dense is not None:
        beside.append(accuracies.format_difference(own, accuracies.dense.id, "the dense network"))
    texts = [text for text in beside if text is not None]
    spends = history.share(best)
    high = run.config.budget.get_spans().get("macs", (0.0, 0.0))[1]
    below = f", which takes {format_share(spends)} of MACs" if spends < high - BUDGET_TOLERANCE else ""
    name = f", {format_network_name(best)}{below},"
    listed = ", ".join(texts[:-1]) + (" and " if len(texts) > 1 else "") + "".join(texts[-1:])
    first = f"At {budget} the best network{name} has {format_share(own, 2)} accuracy on {accuracies.images}{after}"
    return [f"{first}{': ' + listed if texts else ''}.{itself}"]


def _describe_front(
    run: Run, history: SearchHistory, picks: Mapping[str, Evaluation], accuracies: _Accuracies
) -> list[str]:
    sentences = [f"Within {format_budget(run)} the search found a front of {len(history.front)} networks."]
    for what, words in (("best", "most accurate by validation"), ("knee", "knee of the front")):
        row = picks[what]
        own = accuracies.get_accuracy(row.id)
        if own is None or (what == "knee" and row.id == picks["best"].id):
            continue
        dense = (
            None
            if accuracies.dense is None
            else accuracies.format_difference(own, accuracies.dense.id, "the dense network")
        )
        sentences.append(
            f"The {words}, {format_network_name(row)}, takes {format_share(history.share(row))} of "
            f"{history.cost} and has {format_share(own, 2)} "
            f"accuracy on {accuracies.images}{', ' + dense if dense else ''}."
        )
    budgets, differences = [], []
    for row in group_baselines(history).get("single criterion", []):
        own, other = accuracies.compare_at_cost(history, row)
        if own is not None and other is not None:
            budgets.append(format_share(history.share(row)))
            differences.append(round((own - other) * 100, 2))
    if budgets:
        signed = _join_texts([f"{difference:+.2f}" for difference in differences])
        differs = f"differs by {signed} points" if any(differences) else "has the same accuracy"
        sentences.append(
            f"Compared with the best single criterion at {_join_texts(budgets)} of {history.cost}, the front's "
            f"network of at most that cost {differs}."
        )
    return sentences


def _join_texts(texts: Sequence[str]) -> str:
    return ", ".join(texts[:-1]) + (" and " if len(texts) > 1 else "") + texts[-1]
