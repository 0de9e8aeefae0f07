"""What a run found, as plain values: the dense network, the baselines, the front."""

from collections.abc import Sequence
from typing import Any

from blendsearch.errors import RunError
from blendsearch.runs.directory import Run
from blendsearch.runs.store import Evaluation, TestResult
from blendsearch.search.front import DENSE, best_baselines, front, judged_networks, knee


def summary(run: Run) -> dict[str, Any]:
    """``dense``, ``baselines`` and ``front`` as lists of one object per network, equal for equal searches.

    Each has `id`, `cut` (digest), `origin`, `macs_ratio`, `params_ratio`, `val_loss`, `val_accuracy`, `test_accuracy`
    and `fidelity`; ratios and accuracies in [0, 1], `test_accuracy` None until the search has finished. Baselines are,
    at each seeded budget, the best single criterion and the best equal blend.
    """
    rows, tests = _read(run)
    valid = judged_networks(rows)

    def described(chosen: Sequence[Evaluation]) -> list[dict[str, Any]]:
        return [describe(run, row, tests) for row in chosen]

    return {
        "dense": described([row for row in rows if row.origin == DENSE and not row.failure]),
        "baselines": described(best_baselines(valid)),
        "front": described(front(valid, spans(run))),
    }


def describe(run: Run, row: Evaluation, tests: dict[str, TestResult]) -> dict[str, Any]:
    """One evaluation as in `summary`."""
    dense = run.structure["dense"]
    tested = tests.get(row.digest)
    return {
        "id": row.id,
        "cut": row.digest,
        "origin": row.origin,
        "macs_ratio": row.macs / dense["macs"],
        "params_ratio": row.params / dense["params"],
        "val_loss": row.loss,
        "val_accuracy": None if row.error is None else 1 - row.error,
        "test_accuracy": None if tested is None else 1 - tested.error,
        "fidelity": row.fidelity,
    }


def pick(run: Run, what: str) -> Evaluation:
    """The evaluation that `what` names: ``best`` (lowest validation loss on the front), ``knee``, or an id.

    Raises RunError when there is none, or its evaluation failed.
    """
    rows, _ = _read(run)
    on_front = front(judged_networks(rows), spans(run))
    if what in ("best", "knee"):
        if not on_front:
            raise RunError(f"run {run.name!r} has no evaluated network yet: let it search first")
        return knee(on_front) if what == "knee" else min(on_front, key=lambda row: (row.loss, row.macs, row.id))
    found = [row for row in rows if str(row.id) == what]
    if not found:
        raise RunError(f"run {run.name!r} has no network {what!r}: expected best, knee or an id as `front` shows them")
    if found[0].failure:
        raise RunError(f"network {what} of run {run.name!r} could not be evaluated: {found[0].failure}")
    return found[0]


def spans(run: Run) -> bool:
    """Whether the run searched a range of budgets, so that its front is over costs."""
    return any(high > low for low, high in run.config.budget.spans().values())


def _read(run: Run) -> tuple[list[Evaluation], dict[str, TestResult]]:
    store = run.store(read_only=True)
    try:
        return store.evaluations(), store.tests()
    finally:
        store.close()
