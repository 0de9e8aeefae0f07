"""One call of a torch operation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True, eq=False)
class Operation:
    """One call of a torch operation.

    `name` is without namespace, and without the underscore of in-place operations. `location` is for messages. `call`
    identifies a reduction (`structure.reduction_calls`).
    """

    func: Any
    name: str
    location: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    call: str = ""


def list_arguments(tree: object) -> list[Tensor]:
    """List the tensors among arguments or results of an operation."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
