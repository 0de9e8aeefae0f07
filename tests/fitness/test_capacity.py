"""The exponent of the parameters in the loss of untrained networks."""

from dataclasses import replace

import numpy as np
import pytest
from evaluations import make_evaluator

from blendsearch.errors import ConfigError
from blendsearch.fitness.evaluator import make_request
from blendsearch.pipeline.problem.inputs import check_task
from blendsearch.runs.config.loading import load_config
from blendsearch.structure.surgery import narrow
from blendsearch.task import CLASSIFICATION, Task


def test_the_loss_is_divided_by_a_power_of_the_share_of_parameters() -> None:
    plain = make_evaluator()
    weighted = replace(plain, capacity=0.5)
    cut = np.arange(plain.maps.channels) % 2 > 0
    params = [
        sum(parameter.numel() for parameter in network.parameters())
        for network in (narrow(plain.model, plain.maps, cut), plain.model)
    ]
    request = make_request(cut, "recalibrated", 0)
    before, after = plain.evaluate(request), weighted.evaluate(request)
    assert params[0] < params[1]
    np.testing.assert_allclose(after.loss, before.loss / (params[0] / params[1]) ** 0.5, rtol=1e-12)
    assert after.error == before.error


def test_the_dense_network_trained_networks_and_test_losses_are_not_weighted() -> None:
    plain = make_evaluator()
    weighted = replace(plain, capacity=2.0)
    whole, half = np.ones(plain.maps.channels, dtype=bool), np.arange(plain.maps.channels) % 2 > 0
    for cut, fidelity in ((whole, "raw"), (half, "tuned")):
        one, other = (held.evaluate(make_request(cut, fidelity, 0, "both")) for held in (plain, weighted))
        assert one.loss == other.loss and one.test == other.test
    one, other = (held.evaluate(make_request(half, "raw", 0, "both")) for held in (plain, weighted))
    assert one.test == other.test and other.loss > one.loss


def test_a_loss_of_the_user_is_refused() -> None:
    config = load_config(None, ["fitness.capacity=0.3"])
    check_task(config, CLASSIFICATION)
    with pytest.raises(ConfigError, match="capacity is for classifiers"):
        check_task(config, Task(loss=lambda output, target: output.sum()))
