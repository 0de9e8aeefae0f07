"""Tracing of a network: from the network and an example input to its groups and costs."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from blendsearch.errors import TraceError, format_error
from blendsearch.structure.cost import CostOracle, build_cost_oracle
from blendsearch.structure.dependency import find_coupled_groups
from blendsearch.structure.eval_mode import use_eval_mode
from blendsearch.structure.groups import FrozenGroup, IndexMaps, build_index_maps
from blendsearch.structure.layer_types import LEAVES
from blendsearch.structure.outputs import list_tensors
from blendsearch.structure.preconditions import check_structure
from blendsearch.structure.verify import exclude_uncounted_groups, verify_groups
from blendsearch.task import seed_rngs

MAX_IMAGES = 8
"""Images on which a network is traced."""

MAX_BATCHES = 3
"""Batches of two of these images on which groups are verified."""


@dataclass(frozen=True, eq=False)
class Structure:
    """Groups of a network that can be cut, frozen groups, and the cost of any cut.

    `unreached`: layers that ran on none of the images. `undecided`: modules that may branch on numbers of activations,
    and took one way on all images.
    """

    maps: IndexMaps
    frozen: tuple[FrozenGroup, ...]
    oracle: CostOracle
    unreached: tuple[str, ...] = ()
    undecided: tuple[str, ...] = ()


def trace_structure(model: nn.Module, input_shape: tuple[int, int, int], images: Tensor | None = None) -> Structure:
    """Find the verified groups of `model` for inputs of shape (channels, height, width), and its cost oracle.

    `images`, (N, channels, height, width), are inputs on which the network is traced and the groups are verified;
    random numbers without them. Does not change the network. Works on the CPU in float32, independent of the device of
    the search. Raises TraceError if the network does not accept such inputs, if its channels cannot be traced, or if no
    group can be cut.
    """
    if any(tensor.device.type != "cpu" for tensor in [*model.parameters(), *model.buffers()]):
        raise ValueError("trace the network on the CPU and move it afterwards")
    check_structure(model)
    with use_eval_mode(model), seed_rngs(0):
        examples, batches = divide_images(input_shape, images)
        try:
            with torch.no_grad():
                outputs = list_tensors(model(examples[0]))
        except Exception as error:  # user-defined networks may raise anything
            raise TraceError(
                f"{type(model).__name__} does not accept one image of shape {tuple(input_shape)}: "
                f"{format_error(error)}; check the data's image size and channels, "
                "and that forward() takes one batch of images"
            ) from error
        if outputs and not any(torch.isfinite(output).any() for output in outputs if output.numel()):
            raise TraceError(
                f"{type(model).__name__} gives no finite output on an image of the training data: its groups cannot be "
                "verified; check the weights, and the scale of the images"
            )
        found = find_coupled_groups(model, examples)
        shapes = {name: tuple(tensor.shape) for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
        shapes |= {name: (size,) for name, size in {**found.sizes, **found.widths}.items()}
        maps, failed = verify_groups(model, build_index_maps(found.groups, shapes), batches)
        maps, uncounted = exclude_uncounted_groups(model, maps, examples[0], found.products)
        frozen = [*found.frozen, *failed, *uncounted]
        if not maps.groups:
            reasons = "; ".join(f"{item.name}: {item.reason}" for item in frozen[:3]) or "it has no convolution"
            functions = _describe_functions(model)
            raise TraceError(f"no group of {type(model).__name__} can be cut: {reasons}{functions}")
        oracle = build_cost_oracle(model, maps, examples[0], found.products)
        return Structure(maps, tuple(frozen), oracle, tuple(found.unreached), tuple(found.undecided))


def _describe_functions(model: nn.Module) -> str:
    """Describe modules that use weights of their own in functions, as clause of a message; empty for none."""
    names = [
        name or type(model).__name__
        for name, module in model.named_modules()
        if (type(module) is nn.Module or not type(module).__module__.startswith("torch.nn"))
        and not isinstance(module, LEAVES)
        and any(parameter.ndim > 1 for parameter in module.parameters(recurse=False))
    ]
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (
        f"; {', '.join(names[:3])}{more} use weights in functions, as an exported program does, and these are not "
        "traced: make them layers of torch.nn, or give the network that it was made from"
    )


def divide_images(input_shape: tuple[int, int, int], images: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
    """Return single images to trace, and batches of two to verify on."""
    if images is None or not len(images):
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(3, *input_shape, generator=generator, dtype=torch.float32)
        return [images[:1]], [images[1:]]
    chosen = images[:MAX_IMAGES]
    pairs = chosen if len(chosen) > 1 else chosen.repeat(2, 1, 1, 1)
    starts = range(0, min(len(pairs) - 1, 2 * MAX_BATCHES), 2)
    return list(chosen.unsqueeze(1)), [pairs[start : start + 2] for start in starts]
