"""The map of criteria as plain values."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blendsearch.blend.correlation_map import CorrelationMap
from blendsearch.results.record import Record

Matrix = tuple[tuple[float | None, ...], ...]
"""Correlations of the criteria, in their order; None where a pair has none."""


@dataclass(frozen=True, kw_only=True)
class ClusterRecord(Record):
    """A cluster of the average map, with its mean correlations; None where there is no pair."""

    cluster: str
    members: tuple[str, ...]
    centre: str
    mean_inside: float | None
    mean_to_others: float | None


@dataclass(frozen=True, kw_only=True)
class LeftOutRecord(Record):
    """A criterion that does not rank a group, and the reason."""

    criterion: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class GroupMapRecord(Record):
    """The map of one group. `difference` is its distance from the average."""

    group: str
    channels: int
    difference: float | None
    clusters: tuple[tuple[str, ...], ...]
    left_out: tuple[LeftOutRecord, ...]
    correlation: Matrix


@dataclass(frozen=True, kw_only=True)
class CriteriaMapRecord(Record):
    """The map of criteria as plain values.

    Attributes
    ----------
    order: the criteria in the order of the picture, similar ones beside each other; those that rank no group left out.
    """

    criteria: tuple[str, ...]
    order: tuple[str, ...]
    clusters: tuple[ClusterRecord, ...]
    mean_inside: float | None
    mean_between: float | None
    average: Matrix
    groups: tuple[GroupMapRecord, ...]


def describe_map(criteria_map: CorrelationMap) -> CriteriaMapRecord:
    """Describe the map as plain values."""
    names = criteria_map.criteria
    return CriteriaMapRecord(
        criteria=tuple(names),
        order=tuple(names[row] for row in criteria_map.order),
        clusters=_list_clusters(criteria_map),
        mean_inside=_round_finite(criteria_map.mean_inside),
        mean_between=_round_finite(criteria_map.mean_between),
        average=_round_matrix(criteria_map.average),
        groups=tuple(_describe_group(criteria_map, number) for number in range(len(criteria_map.groups))),
    )


def _list_clusters(criteria_map: CorrelationMap) -> tuple[ClusterRecord, ...]:
    names = criteria_map.criteria
    return tuple(
        ClusterRecord(
            cluster=format_cluster_name(number),
            members=tuple(names[row] for row in item.members),
            centre=names[item.centre],
            mean_inside=_round_finite(item.mean_inside),
            mean_to_others=_round_finite(item.mean_to_others),
        )
        for number, item in enumerate(criteria_map.clusters)
    )


def _describe_group(criteria_map: CorrelationMap, number: int) -> GroupMapRecord:
    names, group = criteria_map.criteria, criteria_map.groups[number]
    return GroupMapRecord(
        group=group,
        channels=criteria_map.channels[number],
        difference=_round_finite(criteria_map.difference[number]),
        clusters=tuple(tuple(names[row] for row in members) for members in criteria_map.group_clusters[number]),
        left_out=tuple(
            LeftOutRecord(criterion=item.criterion, reason=item.reason)
            for item in criteria_map.left_out
            if item.group == group
        ),
        correlation=_round_matrix(criteria_map.correlations[number]),
    )


def format_cluster_name(number: int) -> str:
    """The name of a cluster: A, B, ..., Z, A2, B2, ..."""
    return chr(ord("A") + number % 26) + (str(number // 26 + 1) if number >= 26 else "")


def format_correlation(value: float | None) -> str:
    """A correlation to two digits, without a minus before zero; a dash where there is none."""
    return "-" if value is None or not np.isfinite(value) else f"{value:.2f}".replace("-0.00", "0.00")


def _round_finite(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None


def _round_matrix(values: NDArray[np.float64]) -> Matrix:
    return tuple(tuple(_round_finite(value) for value in row) for row in values)
