"""Latency of any cut, from a model fitted to measured latencies of pruned networks.

The model is a sum of features with non-negative weights. No feature shrinks when a network gets wider, so neither does
the predicted latency, and bisection can meet a budget. Layers of one kind (equal kernel, equal positions, dense or
depthwise) share four features: their multiply-accumulates, the same with channels rounded up to the 16 that vector
units and tensor cores process at a time, the elements they write, and their weights. Where blocks may be removed, the
number of layers is one more feature.

A cut is charged more than its prediction: the prediction times one plus a *margin*. 95 % of the measured networks that
the fit had not seen were no slower than charged (the quantile of split conformal prediction, over five folds). A
network drawn like those is no slower with that probability, in the median, on the device and under the conditions of
the measurement. There is no such guarantee for a network that was chosen because the model underestimates it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blendsearch.structure.cost import CostOracle

Counts = NDArray[np.int64]
BLOCK = 16
CONFIDENCE = 0.95
FOLDS = 5


@dataclass(frozen=True, eq=False)
class Layers:
    """Widths and sizes of a network's convolutions and linear layers, and their kinds.

    Attributes
    ----------
    base, slope: widths, (W,) and (W, groups): width = base + slope @ counts.
    out, into: (L,) the widths of each layer's weight.
    kernel: (L,) elements of its kernel.
    positions: (L,) positions at which one image applies it.
    kind: (L,) number of its kind, from 0.
    counted: (1,) if a cut may remove layers, whose number is then a feature; else empty.
    """

    base: NDArray[np.int64]
    slope: NDArray[np.int64]
    out: NDArray[np.int64]
    into: NDArray[np.int64]
    kernel: NDArray[np.int64]
    positions: NDArray[np.int64]
    kind: NDArray[np.int64]
    counted: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def compute_features(self, counts: Counts) -> NDArray[np.float64]:
        """Compute a constant, then four features per kind, then the number of layers if it is counted: (..., groups) ->
        (..., 1 + 4 * kinds [+ 1]).
        """
        widths = counts @ self.slope.T + self.base
        out, into = widths[..., self.out], widths[..., self.into]
        full = [_round_up(part, self._is_unit_width(index)) for part, index in ((out, self.out), (into, self.into))]
        each = np.stack(
            [
                out * into * self.kernel * self.positions,
                full[0] * full[1] * self.kernel * self.positions,
                out * self.positions * (into > 0),
                out * into * self.kernel,
            ],
            axis=-2,
        )
        one_of = self.kind[:, None] == np.arange(self.kind.max() + 1)
        summed = (each @ one_of).reshape(*counts.shape[:-1], -1)
        features = np.concatenate([np.ones((*counts.shape[:-1], 1)), summed], axis=-1)
        if not len(self.counted):
            return features
        layers = (out * into > 0).sum(axis=-1, keepdims=True)
        return np.concatenate([features, layers], axis=-1)

    def _is_unit_width(self, index: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return True for constant widths of one, as of a depthwise kernel: they are not rounded up to a block."""
        return np.asarray((self.base[index] == 1) & ~self.slope[index].any(axis=-1))


def _round_up(widths: Counts, is_unit: NDArray[np.bool_]) -> Counts:
    return np.asarray(np.where(is_unit, widths, -(-widths // BLOCK) * BLOCK))


def extract_layers(oracle: CostOracle, *, counted: bool = False) -> Layers:
    """Extract the layers behind the multiply-accumulates of `oracle`; `counted` if a cut may remove some."""
    terms = np.flatnonzero((oracle.macs > 0) & (oracle.params > 0))
    kernel = oracle.params[terms]
    positions = oracle.macs[terms] // kernel
    out, into = oracle.first[terms], oracle.second[terms]
    alone = (oracle.base[into] == 1) & ~oracle.slope[into].any(axis=-1)
    _, kind = np.unique(np.stack([kernel, positions, alone]), axis=1, return_inverse=True)
    layers = Layers(oracle.base, oracle.slope, out, into, kernel, positions, kind.reshape(-1).astype(np.int64))
    return replace(layers, counted=np.ones(1, dtype=np.int64)) if counted else layers


@dataclass(frozen=True, eq=False)
class LatencyModel:
    """Latency that a cut is charged.

    Attributes
    ----------
    weights: (features,) of the predicted share of the dense network's latency; non-negative.
    margin: extra charge as a share of the prediction.
    dense: measured latency of the dense network in nanoseconds.
    errors: measured over predicted latency, minus one, of each held-out network.
    """

    layers: Layers
    weights: NDArray[np.float64]
    margin: float
    dense: int
    errors: NDArray[np.float64]

    def predict(self, counts: Counts) -> NDArray[np.float64]:
        """Predict the share of the dense network's latency: (..., groups) -> (...)."""
        return np.asarray(self.layers.compute_features(counts) @ self.weights)

    def __call__(self, counts: Counts) -> Counts:
        """Compute the charged nanoseconds, never more than those of the dense network: (..., groups) -> (...)."""
        share = np.minimum(self.predict(counts) * (1 + self.margin), 1.0)
        return np.asarray(np.ceil(share * self.dense - 1e-6).astype(np.int64))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return all values as arrays by name."""
        own = {"weights": self.weights, "errors": self.errors, "margin": np.array([self.margin])}
        return {
            **{f"layers.{key}": value for key, value in vars(self.layers).items() if len(value) or key != "counted"},
            **own,
            "dense": _to_array(self.dense),
        }

    @staticmethod
    def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> "LatencyModel":
        """Build the model from the arrays of `to_arrays`. Raises ValueError where their types or shapes do not fit."""
        _check_arrays(arrays)
        layers = Layers(**{key.removeprefix("layers."): arrays[key] for key in arrays if key.startswith("layers.")})
        margin, dense = float(arrays["margin"][0]), int(arrays["dense"][0])
        return LatencyModel(layers, arrays["weights"], margin, dense, arrays["errors"])


def fit_latency_model(
    layers: Layers, counts: Counts, measured: NDArray[np.float64], dense: int, calibration_mask: NDArray[np.bool_]
) -> LatencyModel:
    """Fit a model to measured shares of the dense latency, (N,), of cuts with these counts, (N, groups).

    Uses non-negative least squares on relative errors. Each network is held out once. The margin is computed from those
    in `calibration_mask`, (N,), which must be drawn as candidates are.
    """
    features = layers.compute_features(counts)
    errors = np.empty(len(measured))
    fold = np.arange(len(measured)) % FOLDS
    for number in range(FOLDS):
        weights = _solve_weights(features[fold != number], measured[fold != number])
        errors[fold == number] = measured[fold == number] / (features[fold == number] @ weights) - 1
    errors = errors[calibration_mask]
    rank = int(np.ceil((len(errors) + 1) * CONFIDENCE))
    margin = max(0.0, float(np.sort(errors)[min(rank, len(errors)) - 1]))
    return LatencyModel(layers, _solve_weights(features, measured), margin, dense, errors)


def _check_arrays(arrays: Mapping[str, NDArray[Any]]) -> None:
    """Raise ValueError unless the arrays of `LatencyModel.to_arrays` have fitting types, shapes and signs."""
    widths, count = len(arrays["layers.base"]), len(arrays["layers.out"])
    for name, values in arrays.items():
        kind = np.float64 if name in ("weights", "errors", "margin") else np.int64
        per_layer = name.removeprefix("layers.") in ("out", "into", "kernel", "positions", "kind")
        if values.dtype != kind or values.ndim != (2 if name == "layers.slope" else 1):
            raise ValueError(f"{name} has type {values.dtype} and {values.ndim} dimensions")
        if (per_layer and len(values) != count) or (name == "layers.slope" and len(values) != widths):
            raise ValueError(f"{name} has {len(values)} values")
        if name not in ("errors", "layers.base", "layers.slope") and (values < 0).any():
            raise ValueError(f"{name} has a negative value")


def _solve_weights(features: NDArray[np.float64], measured: NDArray[np.float64]) -> NDArray[np.float64]:
    """Solve for non-negative weights by least squares of relative errors; a small ridge bounds uncertain ones."""
    from scipy.optimize import nnls

    scale = features.max(axis=0)
    scale[scale == 0] = 1
    rows = features / scale / measured[:, None]
    ridge = 0.02 * np.sqrt(len(rows)) * np.eye(rows.shape[1])
    weights, _ = nnls(np.concatenate([rows, ridge]), np.concatenate([np.ones(len(rows)), np.zeros(rows.shape[1])]))
    return np.asarray(weights / scale)


def _to_array(value: int) -> NDArray[np.int64]:
    return np.array([value], dtype=np.int64)
