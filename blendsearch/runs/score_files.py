"""Storage of the score table and its clusters in a run directory. Reading needs neither data nor model."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blendsearch.blend.clustering import Clusters
from blendsearch.criteria.table import ExcludedCriterion, ScoreTable
from blendsearch.errors import RunError
from blendsearch.runs.provenance import hash_arrays
from blendsearch.runs.run import Run
from blendsearch.runs.run_facts import ScoreFacts


def describe_scores(table: ScoreTable, clusters: Clusters) -> ScoreFacts:
    """Describe criteria and clusters for `structure` in ``run.json``, which holds group names and widths already."""
    return {
        "criteria": list(table.criteria),
        "left_out": [asdict(item) for item in table.left_out],
        "clusters": [[list(members) for members in found] for found in clusters],
    }


def collect_score_arrays(table: ScoreTable) -> dict[str, NDArray[Any]]:
    """Collect the arrays of ``scores.safetensors``."""
    return {f"group.{number}": values for number, values in enumerate(table.scores)}


def read_scores(run: Run) -> tuple[ScoreTable, Clusters]:
    """Read the score table of `run`, and the clusters of each group.

    Raises RunError when ``scores.safetensors`` is missing, damaged, or not the one that the run was made with.
    """
    facts, stored = run.structure, run.read_arrays("scores")
    digest = hash_arrays(stored)
    if run.provenance.get("scores_sha256", digest) != digest:
        raise RunError(f"run {run.name!r}: scores.safetensors is not the one its criteria gave: restore it")
    names = tuple(str(item["name"]) for item in facts["groups"])
    scores = tuple(_get_scores(run, stored, number) for number in range(len(names)))
    table = ScoreTable(
        tuple(facts["criteria"]), names, scores, tuple(ExcludedCriterion(**item) for item in facts["left_out"])
    )
    clusters = tuple(tuple(tuple(members) for members in found) for found in facts["clusters"])
    for number, found in enumerate(clusters):
        if sorted(row for members in found for row in members) != table.find_usable(number).tolist():
            raise RunError(
                f"run {run.name!r}: structure.clusters in run.json are not those of the criteria scored in group "
                f"{names[number]}: restore run.json from a copy"
            )
    return table, clusters


def _get_scores(run: Run, stored: Mapping[str, NDArray[Any]], number: int) -> NDArray[np.float64]:
    """Return the scores of a group, (criteria, channels), after a check: each row is finite, or NaN throughout."""
    found = stored.get(f"group.{number}")
    shape = len(run.structure["criteria"]), run.structure["groups"][number]["channels"]
    if found is None or found.shape != shape or found.dtype != np.float64:
        raise RunError(f"{run.path / 'scores.safetensors'} has no scores of group {number} for this run: restore it")
    if not (np.isfinite(found).all(axis=1) | np.isnan(found).all(axis=1)).all():
        raise RunError(f"{run.path / 'scores.safetensors'} has scores that are not finite: restore it from a copy")
    return found
