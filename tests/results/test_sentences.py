"""The sentences of a report compare networks at the same stage."""

from types import SimpleNamespace
from typing import Any

import pytest

from blendsearch.results.report.sentences import _Accuracies


def make_accuracies(finals: dict[int, float], before: dict[int, float]) -> Any:
    found = object.__new__(_Accuracies)
    found.tested, found.finals = True, list(finals)
    found._before_training = {number: SimpleNamespace(test_accuracy=value) for number, value in before.items()}
    found.rows_by_id = found._before_training | {
        number: SimpleNamespace(test_accuracy=value) for number, value in finals.items()
    }
    return found


def make_network(number: int, share: float) -> Any:
    return SimpleNamespace(id=number, share=share)


@pytest.mark.parametrize(
    ("finals", "expected"),
    [
        ({}, (0.7, 0.6)),
        ({9: 0.99, 3: 0.95}, (0.7, 0.6)),  # the criterion was not trained: both before training
        ({9: 0.99, 1: 0.95}, (0.95, 0.95)),  # no trained network is cheaper
        ({9: 0.99, 2: 0.97, 1: 0.95}, (0.97, 0.95)),
    ],
)
def test_a_trained_network_is_compared_with_trained_ones_alone(
    finals: dict[int, float], expected: tuple[float, float]
) -> None:
    criterion, cheaper, costlier = make_network(1, 0.3), make_network(2, 0.25), make_network(9, 0.5)
    networks = [criterion, cheaper, costlier, make_network(3, 0.2)]
    history: Any = SimpleNamespace(share=lambda row: row.share, evaluated=networks, front=[cheaper, costlier])
    accuracies = make_accuracies(finals, {1: 0.6, 2: 0.7, 9: 0.8})
    assert accuracies.compare_at_cost(history, criterion) == expected
