"""The loss of logits at the temperature that suits them best (Guo et al. 2017, "On Calibration of Modern Neural
Networks", section 4.2).

A network that was cut and not trained yet is overconfident: its logits are too large for its accuracy. Its plain loss
can therefore exceed that of a network near chance, although its accuracy is far higher. Training corrects the scale of
the logits within a few steps, so the loss without that scale predicts the accuracy after training better
(experiments/after_training).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

LOWEST, HIGHEST = 0.01, 100.0
"""Bounds of the factor that the logits are multiplied by: the reciprocal of the temperature."""

STEPS, TOLERANCE = 40, 1e-5


def compute_fitted_loss(logits: Tensor, targets: Tensor) -> float:
    """Compute the least mean loss over temperatures: cross-entropy, or divergence from soft targets.

    Parameters
    ----------
    logits: (n, classes).
    targets: classes as integers, (n,), or logarithms of probabilities, (n, classes).

    Returns
    -------
    The mean of the loss in nats; NaN if a logit is not finite.
    """
    if not bool(torch.isfinite(logits).all()):
        return float("nan")
    if logits.device.type == "mps":  # which has no float64
        logits, targets = logits.cpu(), targets.cpu()
    logits = logits.double()
    scale = fit_scale(logits, targets)
    if targets.ndim == 1:
        return float(F.cross_entropy(logits * scale, targets))
    scaled = F.log_softmax(logits * scale, dim=1)
    return float(F.kl_div(scaled, targets.double(), reduction="batchmean", log_target=True))


def fit_scale(logits: Tensor, targets: Tensor) -> float:
    """Fit the factor of `logits`, between `LOWEST` and `HIGHEST`, at which the mean loss is least.

    The loss is convex in the factor. Newton steps that leave the bracket of its minimum are replaced by bisections.
    """
    if targets.ndim == 1:
        expected = float(logits.gather(1, targets[:, None]).mean())
    else:
        expected = float((targets.double().exp() * logits).sum(dim=1).mean())
    low, high, scale = LOWEST, HIGHEST, 1.0
    for _ in range(STEPS):
        slope, curvature = _compute_derivatives(logits, scale, expected)
        low, high = (scale, high) if slope < 0 else (low, scale)
        step = slope / curvature if curvature > 0 else float("inf")
        found = scale - step
        if not low < found < high:
            found = (low * high) ** 0.5
        if abs(found - scale) <= TOLERANCE * scale:
            return found
        scale = found
    return scale


def _compute_derivatives(logits: Tensor, scale: float, expected: float) -> tuple[float, float]:
    """Return slope and curvature of the mean loss in the factor; `expected` is the mean of the targets' logits."""
    shares = F.softmax(logits * scale, dim=1)
    means = (shares * logits).sum(dim=1)
    variances = (shares * logits.square()).sum(dim=1) - means.square()
    mean, variance = torch.stack((means.mean(), variances.mean())).tolist()  # one wait for a GPU, not two
    return mean - expected, variance
