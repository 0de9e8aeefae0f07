"""Latency of any cut, from a model fitted on narrow networks whose latency was really measured.

The model is a sum of features with non-negative weights, each a feature that never shrinks when a network gets wider;
so neither does the latency it says, and a budget can be met by bisection. Layers of one kind (equal kernel, equal
positions, dense or depthwise) share four features: their multiply-accumulates, the same with channels rounded up to
the 16 that vector units and tensor cores take at a time, the elements they write, and their weights.

What the model says is not what is charged: a cut is charged that times one plus a *margin*, chosen so that 95 % of the
measured networks that the fit had not seen were no slower (the quantile of split conformal prediction, over five
folds). A network drawn like those is no slower than charged with that probability, in the median, on the device and
in the conditions it was measured in. It is no promise for a network that was sought out because the model erred on it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
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
    """Widths and sizes of a network's convolutions and linear layers, and which of them are of one kind.

    Attributes
    ----------
    base, slope: widths, (W,) and (W, groups): width = base + slope @ counts.
    out, into: (L,) the widths of each layer's weight.
    kernel: (L,) elements of its kernel; `positions`: (L,) how often one image applies it; `kind`: (L,) from 0.
    """

    base: NDArray[np.int64]
    slope: NDArray[np.int64]
    out: NDArray[np.int64]
    into: NDArray[np.int64]
    kernel: NDArray[np.int64]
    positions: NDArray[np.int64]
    kind: NDArray[np.int64]

    def compute_features(self, counts: Counts) -> NDArray[np.float64]:
        """One for every pass, then per kind four features: (..., groups) -> (..., 1 + 4 * kinds)."""
        widths = counts @ self.slope.T + self.base
        out, into = widths[..., self.out], widths[..., self.into]
        full = [_round_up(part, self._is_unit_width(index)) for part, index in ((out, self.out), (into, self.into))]
        each = np.stack(
            [
                out * into * self.kernel * self.positions,
                full[0] * full[1] * self.kernel * self.positions,
                out * self.positions,
                out * into * self.kernel,
            ],
            axis=-2,
        )
        one_of = self.kind[:, None] == np.arange(self.kind.max() + 1)
        summed = (each @ one_of).reshape(*counts.shape[:-1], -1)
        return np.concatenate([np.ones((*counts.shape[:-1], 1)), summed], axis=-1)

    def _is_unit_width(self, index: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Widths that are one, as of a depthwise kernel: nothing is gained by filling up a block of them."""
        return np.asarray((self.base[index] == 1) & ~self.slope[index].any(axis=-1))


def _round_up(widths: Counts, is_unit: NDArray[np.bool_]) -> Counts:
    return np.asarray(np.where(is_unit, widths, -(-widths // BLOCK) * BLOCK))


def extract_layers(oracle: CostOracle) -> Layers:
    """The layers that do the multiply-accumulates of `oracle`."""
    terms = np.flatnonzero(oracle.macs)
    kernel = oracle.params[terms]
    positions = oracle.macs[terms] // kernel
    out, into = oracle.first[terms], oracle.second[terms]
    alone = (oracle.base[into] == 1) & ~oracle.slope[into].any(axis=-1)
    _, kind = np.unique(np.stack([kernel, positions, alone]), axis=1, return_inverse=True)
    return Layers(oracle.base, oracle.slope, out, into, kernel, positions, kind.reshape(-1).astype(np.int64))


@dataclass(frozen=True, eq=False)
class LatencyModel:
    """What a cut is charged in latency.

    Attributes
    ----------
    weights: (features,) of the predicted share of the dense network's latency; none is negative.
    margin: by how much more than predicted a cut is charged, as a share of the prediction.
    dense: the dense network's measured latency in nanoseconds.
    errors: measured over predicted, minus one, of each network that was held out.
    """

    layers: Layers
    weights: NDArray[np.float64]
    margin: float
    dense: int
    errors: NDArray[np.float64]

    def predict(self, counts: Counts) -> NDArray[np.float64]:
        """The expected share of the dense network's latency: (..., groups) -> (...)."""
        return np.asarray(self.layers.compute_features(counts) @ self.weights)

    def __call__(self, counts: Counts) -> Counts:
        """Nanoseconds charged, never more than the dense network takes: (..., groups) -> (...)."""
        share = np.minimum(self.predict(counts) * (1 + self.margin), 1.0)
        return np.asarray(np.ceil(share * self.dense - 1e-6).astype(np.int64))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All of it as arrays by name."""
        own = {"weights": self.weights, "errors": self.errors, "margin": np.array([self.margin])}
        return {
            **{f"layers.{key}": value for key, value in vars(self.layers).items()},
            **own,
            "dense": _to_array(self.dense),
        }

    @staticmethod
    def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> "LatencyModel":
        """The model that `arrays` gave these."""
        layers = Layers(**{key.removeprefix("layers."): arrays[key] for key in arrays if key.startswith("layers.")})
        margin, dense = float(arrays["margin"][0]), int(arrays["dense"][0])
        return LatencyModel(layers, arrays["weights"], margin, dense, arrays["errors"])


def fit_latency_model(
    layers: Layers, counts: Counts, measured: NDArray[np.float64], dense: int, calibration_mask: NDArray[np.bool_]
) -> LatencyModel:
    """A model of the measured shares of the dense latency, (N,), of cuts with these counts, (N, groups).

    Fitted by non-negative least squares on relative errors. Each network is held out once; the margin is taken from
    those marked in `trusted`, (N,), which are drawn as candidates will be.
    """
    features = layers.compute_features(counts)
    errors = np.empty(len(measured))
    fold = np.arange(len(measured)) % FOLDS
    for held in range(FOLDS):
        weights = _solve_weights(features[fold != held], measured[fold != held])
        errors[fold == held] = measured[fold == held] / (features[fold == held] @ weights) - 1
    errors = errors[calibration_mask]
    rank = int(np.ceil((len(errors) + 1) * CONFIDENCE))
    margin = max(0.0, float(np.sort(errors)[min(rank, len(errors)) - 1]))
    return LatencyModel(layers, _solve_weights(features, measured), margin, dense, errors)


def _solve_weights(features: NDArray[np.float64], measured: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights that none is negative of, least squares of relative errors; a little ridge holds down what is unsure."""
    from scipy.optimize import nnls

    scale = features.max(axis=0)
    scale[scale == 0] = 1
    rows = features / scale / measured[:, None]
    ridge = 0.02 * np.sqrt(len(rows)) * np.eye(rows.shape[1])
    weights, _ = nnls(np.concatenate([rows, ridge]), np.concatenate([np.ones(len(rows)), np.zeros(rows.shape[1])]))
    return np.asarray(weights / scale)


def _to_array(value: int) -> NDArray[np.int64]:
    return np.array([value], dtype=np.int64)
