"""Numbers of activations that the code of a network reads, and may branch on.

Code behind a branch that no traced image takes is not seen, even where all layers run. If it has sizes of its own, such
as a padding, a pruned network may fail on the first image that takes it.
"""

from collections.abc import MutableMapping, Sequence

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

READS = ("_local_scalar_dense", "equal")
"""Operations that return a Python number."""


class DecisionRecord:
    """Records which numbers that depend on the images each module reads."""

    def __init__(self) -> None:
        self._dependent: MutableMapping[Tensor, bool] = WeakTensorKeyDictionary()
        self._values: dict[str, set[object]] = {}
        self._modules: dict[str, str] = {}

    def follow(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Note that `outputs` depend on the images if some of `inputs` do."""
        if self.depends(inputs):
            self.add_images(outputs)

    def add_images(self, tensors: Sequence[Tensor]) -> None:
        """Note that `tensors` depend on the images."""
        for tensor in tensors:
            self._dependent[tensor] = True

    def depends(self, tensors: Sequence[Tensor]) -> bool:
        """Return True if some of `tensors` depend on the images."""
        return any(tensor in self._dependent for tensor in tensors)

    def add_value(self, call: str, module: str, value: object) -> None:
        """Record the number that one call in the code of `module` reads; `call` is its identity."""
        self._modules[call] = module
        self._values.setdefault(call, set()).add(value)

    def list_undecided(self) -> list[str]:
        """List the modules that read a truth value which is always the same, or another number."""
        found = (self._modules[call] for call, values in self._values.items() if not _are_both(values))
        return list(dict.fromkeys(found))


def _are_both(values: set[object]) -> bool:
    return len(values) == 2 and all(isinstance(value, bool) for value in values)
