"""Peak activation memory: the oracle's prediction for any cut equals the memory of the pruned network."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from blendsearch.errors import TraceError
from blendsearch.structure.peak_memory import measure_peak, trace_lifetimes, trace_peak_memory
from blendsearch.structure.surgery import narrow
from blendsearch.structure.trace import trace_structure
from blendsearch.zoo.cifar_resnet import cifar_resnet
from blendsearch.zoo.digits_net import digits_net
from blendsearch.zoo.factory import build_model


def small_densenet() -> nn.Module:
    from torchvision.models import DenseNet

    return DenseNet(growth_rate=8, block_config=(2, 3, 2), num_init_features=16, num_classes=10).eval()


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (lambda: build_model("torchvision:resnet18").eval(), (3, 64, 64)),
        (lambda: build_model("torchvision:mobilenet_v2").eval(), (3, 64, 64)),
        (small_densenet, (3, 64, 64)),
        (lambda: cifar_resnet(20), (3, 32, 32)),
        (digits_net, (1, 8, 8)),
    ],
    ids=["resnet18", "mobilenet_v2", "densenet", "cifar_resnet", "digits"],
)
def test_predicted_memory_equals_measured_memory_of_random_cuts(model, shape) -> None:
    model = model()
    maps = trace_structure(model, shape).maps
    peak = trace_peak_memory(model, maps, shape)
    rng = np.random.default_rng(0)
    counts, measured = [], []
    for keep in (0.1, 0.3, 0.5, 0.9):
        cut = rng.random(maps.channels) < keep * rng.uniform(0.3, 1.5, len(maps.groups)).repeat(maps.sizes)
        cut[maps.offsets[:-1]] = True
        counts.append(maps.count_kept(cut))
        measured.append(measure_peak(narrow(model, maps, cut), torch.zeros(1, *shape)))
    assert peak(np.stack(counts)).tolist() == measured
    assert int(peak(maps.sizes)) == measure_peak(model, torch.zeros(1, *shape))
    assert len(set(measured)) == len(measured)


class Branches(nn.Module):
    """One tensor stays alive while another branch runs; the add is in place, the flatten a view."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.one = nn.Conv2d(8, 16, 3, padding=1)
        self.two = nn.Conv2d(16, 8, 3, padding=1)
        self.out = nn.Linear(8 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x), inplace=True)
        y = self.two(F.relu(self.one(x), inplace=True))
        y += x
        return self.out(y.flatten(1))


def test_the_peak_equals_a_count_by_hand() -> None:
    # at its peak the image, x, relu(one(x)) and two(...) are alive: relu, +=, and flatten make nothing new
    assert measure_peak(Branches().eval(), torch.zeros(1, 3, 4, 4)) == 4 * 16 * (3 + 8 + 16 + 8)


BRANCHES = Branches().eval()
MAPS = trace_structure(BRANCHES, (3, 4, 4)).maps
PEAK = trace_peak_memory(BRANCHES, MAPS, (3, 4, 4))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=2), st.integers(0, 1))
def test_memory_never_falls_with_width(kept: list[float], group: int) -> None:
    counts = np.maximum(1, np.array(kept) * MAPS.sizes).astype(np.int64)
    wider = np.minimum(counts + np.eye(2, dtype=np.int64)[group], MAPS.sizes)
    assert PEAK(wider) >= PEAK(counts)


def test_weights_and_constants_do_not_count_as_activations() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.scale = nn.Conv2d(1, 2, 1), torch.ones(1000)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) * self.scale.view(1, 1000, 1, 1)[:, :2] * self.conv.weight.view(1, 2, 1, 1)

    seen = trace_lifetimes(Constant().eval(), torch.zeros(1, 1, 2, 2))
    assert set(seen.sizes) == {16, 32}


def test_a_network_with_other_dependence_on_width_is_refused() -> None:
    class Gram(nn.Module):
        """A network with a matrix that grows with the square of its width."""

        def __init__(self) -> None:
            super().__init__()
            self.one, self.out = nn.Conv2d(1, 64, 1), nn.Linear(64, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.one(x)
            pairs = x.new_zeros(x.shape[1], x.shape[1])
            return self.out(x.mean(dim=(2, 3))) + 0 * pairs.mean()

    model = Gram().eval()
    maps = trace_structure(model, (1, 2, 2)).maps
    with pytest.raises(TraceError, match=r"leave out budget\.memory"):
        trace_peak_memory(model, maps, (1, 2, 2))
