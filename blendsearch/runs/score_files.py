"""Storage of the score table and its clusters in a run directory. Reading needs neither data nor model."""

from dataclasses import asdict
from typing import Any

from numpy.typing import NDArray

from blendsearch.blend.clustering import Clusters
from blendsearch.criteria.table import ExcludedCriterion, ScoreTable
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

    Raises RunError when ``scores.safetensors`` is missing or damaged.
    """
    facts, stored = run.structure, run.read_arrays("scores")
    names = tuple(str(item["name"]) for item in facts["groups"])
    scores = tuple(stored[f"group.{number}"] for number in range(len(names)))
    table = ScoreTable(
        tuple(facts["criteria"]), names, scores, tuple(ExcludedCriterion(**item) for item in facts["left_out"])
    )
    return table, tuple(tuple(tuple(members) for members in found) for found in facts["clusters"])
