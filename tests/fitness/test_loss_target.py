"""Loss against the dense network's outputs, compared with its definition."""

import copy
from dataclasses import replace

import numpy as np
import torch
from evaluations import make_evaluator

from blendsearch.fitness.evaluator import TEMPERATURE, Evaluator, LossTarget, make_request
from blendsearch.structure.surgery import narrow


def decided(against: LossTarget) -> Evaluator:
    """Make an evaluator whose untrained network has distinct outputs."""
    held = make_evaluator()
    last = [module for module in held.model.modules() if isinstance(module, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.weight *= 50
    return replace(held, loss_target=against)


def plain_divergence(held: Evaluator, module: torch.nn.Module) -> float:
    """Compute the mean over validation images of the sum over classes of p (log p - log q), in float64."""
    splits = held.splits
    pixels = splits.val.load_images(np.arange(len(splits.val))).transpose(0, 3, 1, 2) / 255
    images = torch.from_numpy((pixels - splits.mean[:, None, None]) / splits.std[:, None, None]).float()
    with torch.no_grad():
        p, q = (network.eval()(images).double().div(TEMPERATURE).softmax(dim=1) for network in (held.model, module))
    return float((p * (p.log() - q.log())).sum(dim=1).mean())


def test_the_loss_is_the_divergence_from_the_dense_outputs() -> None:
    held = decided("dense")
    cut = np.arange(held.maps.channels) % 3 > 0
    module = narrow(held.model, held.maps, cut).eval()
    loss, error = held.measure(module, "val")
    assert loss > 0.01
    np.testing.assert_allclose(loss, plain_divergence(held, module), rtol=1e-4)
    assert error == decided("labels").measure(module, "val")[1]  # the error still asks for the labels


def test_the_dense_network_has_zero_loss_and_nearer_networks_less() -> None:
    held = decided("dense")
    whole = np.ones(held.maps.channels, dtype=bool)
    nearly, half = whole.copy(), whole.copy()
    nearly[0], half[::2] = False, False
    losses = [held.evaluate(make_request(cut, "raw", 0)).loss for cut in (whole, nearly, half)]
    assert abs(losses[0]) < 1e-6
    assert losses[0] < losses[1] < losses[2]


def test_the_loss_does_not_depend_on_labels() -> None:
    held = decided("dense")
    module = narrow(held.model, held.maps, np.arange(held.maps.channels) % 2 > 0).eval()
    mislabelled = copy.copy(held.splits.val)
    mislabelled.labels = np.zeros_like(mislabelled.labels)
    other = replace(held, splits=replace(held.splits, val=mislabelled))
    (loss, error), (loss_too, error_too) = held.measure(module, "val"), other.measure(module, "val")
    assert loss == loss_too
    assert error != error_too


def test_a_fitted_temperature_forgives_the_scale_of_the_logits_on_validation_images_alone() -> None:
    held = replace(decided("dense"), fits_temperature=True)
    module = narrow(held.model, held.maps, np.arange(held.maps.channels) % 3 > 0).eval()
    louder = copy.deepcopy(module)
    last = [part for part in louder.modules() if isinstance(part, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.weight *= 1.7
        last.bias *= 1.7
    (loss, error), (again, same) = held.measure(module, "val"), held.measure(louder, "val")
    assert abs(loss - again) < 1e-5
    assert error == same
    own = replace(held, fits_temperature=False)
    assert loss < own.measure(module, "val")[0]
    assert held.measure(module, "test") == own.measure(module, "test")
    assert abs(held.measure(module, "test")[0] - held.measure(louder, "test")[0]) > 1e-3


def test_the_dense_network_has_zero_loss_at_a_fitted_temperature() -> None:
    held = replace(decided("dense"), fits_temperature=True)
    assert abs(held.measure(held.model, "val")[0]) < 1e-6


def test_auto_compares_with_the_dense_network_until_training() -> None:
    auto, dense, labels = decided("auto"), decided("dense"), decided("labels")
    cut = np.arange(auto.maps.channels) % 3 > 0

    def evaluate(held: Evaluator, fidelity: str) -> tuple[float | None, tuple[float, float] | None]:
        outcome = held.evaluate(make_request(cut, fidelity, 0, "both"))
        assert not outcome.failure
        return outcome.loss, outcome.test

    for fidelity in ("raw", "recalibrated"):
        loss, test = evaluate(auto, fidelity)
        assert loss == evaluate(dense, fidelity)[0] != evaluate(labels, fidelity)[0]
        assert test == evaluate(labels, fidelity)[1]
    assert evaluate(auto, "tuned") == evaluate(labels, "tuned") != evaluate(dense, "tuned")
