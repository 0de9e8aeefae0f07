"""Brute-force comparison of pruned networks with masked ones, over all tensors of their outputs."""

import numpy as np
import torch
from structures import draw_random_cut
from torch import Tensor, nn

from blendsearch.structure.cost import count_macs
from blendsearch.structure.outputs import list_tensors
from blendsearch.structure.surgery import narrow
from blendsearch.structure.trace import Structure, trace_structure
from blendsearch.structure.verify import mask_channels


def trace_randomized(model: nn.Module, images: Tensor) -> Structure:
    """Trace a network whose normalisations have random scales and statistics, as after training."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        kind = name.rpartition(".")[2]
        if (
            tensor.is_floating_point()
            and tensor.ndim == 1
            and kind in ("weight", "bias", "running_mean", "running_var")
        ):
            tensor.data = torch.rand(tensor.shape, generator=generator, dtype=torch.float32) + 0.5
    return trace_structure(model.eval(), tuple(images.shape[1:]), images)  # type: ignore[arg-type]


def check_cuts(model: nn.Module, structure: Structure, images: Tensor, keeps: tuple[float, ...] = (0.5, 0.3)) -> None:
    """Check that all outputs of pruned networks equal those of masked ones, and that costs are as predicted."""
    for seed, keep in enumerate(keeps):
        cut = draw_random_cut(structure.maps, keep, seed)
        small = narrow(model, structure.maps, cut)
        with torch.no_grad():
            expected = list_tensors(mask_channels(model, structure.maps, cut)(images))
            found = list_tensors(small(images))
        assert len(expected) == len(found) > 0
        for one, other in zip(expected, found, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-3 * float(one.abs().max()))
        counts = structure.maps.count_kept(cut)
        assert structure.oracle.compute_cost("params", counts) == sum(item.numel() for item in small.parameters())
        assert structure.oracle.compute_cost("macs", counts) == count_macs(small, images[:1])


def get_widths(structure: Structure) -> dict[str, int]:
    """Return the number of channels of each group."""
    return {group.name: group.channels for group in structure.maps.groups}


def get_reasons(structure: Structure) -> dict[str, str]:
    """Return the reason for each frozen group."""
    return {item.name: item.reason for item in structure.frozen}


def make_images(*shape: int, seed: int = 0) -> Tensor:
    """Draw images of a shape."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))
