"""Reductions over channels, such as the statistics of a normalisation that is written by hand.

The pruned network computes them from the channels that are left. The masked network, with which it is compared, is made
to do so too (`structure.masked_norms`). A reduction is identified by its call: the module whose code makes it, the
operation, its number in a forward pass, and the dimension of the channels (`structure.reduction_calls`).
"""

from torch import Tensor, nn

from blendsearch.structure.channel_state import ChannelState
from blendsearch.structure.labels import get_vector
from blendsearch.structure.operation import Operation
from blendsearch.structure.reduction_calls import REDUCTIONS, format_statistic

WITH_POSITIONS = ("max", "min")
"""Operations whose second output holds positions."""


def get_reduced_dims(operation: Operation) -> list[int] | None:
    """Return the dimensions that an operation reduces, ascending; None if they are not among its arguments."""
    place, tensor = REDUCTIONS[operation.name], operation.args[0]
    axes = operation.args[place] if len(operation.args) > place else operation.kwargs.get("dim")
    if isinstance(axes, Tensor):  # the largest of two tensors
        return None
    if axes is None or (not isinstance(axes, int) and not len(axes)):
        return list(range(tensor.ndim))
    return sorted(dim % tensor.ndim for dim in ([axes] if isinstance(axes, int) else axes))


def record_reduction(tracer: ChannelState, operation: Operation, dims: list[int]) -> bool:
    """Record a reduction over channels; return False where its input has no single dimension of them."""
    labels = tracer.get_labels(operation.args[0])
    vector = get_vector(labels)
    if vector is None or vector[0] not in dims:
        return False
    dim, channels = vector
    tracer.record_statistic(format_statistic(operation.call, dim), channels)
    if tracer.is_running(nn.RMSNorm):
        tracer.record_sizes(len(channels), channels)
    if operation.name in WITH_POSITIONS and len(operation.outputs) > 1:
        tracer.add_positions(operation.outputs[1], channels, operation.location)
    return True
